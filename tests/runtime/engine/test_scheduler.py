"""Which sequences run next: tables for the rules, random schedules for the promises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.engine.blocks import BlockPool, root_key
from flash_runtime.engine.scheduler import Chunk, Scheduler
from flash_runtime.engine.sequence import Sequence
from flash_runtime.wire import GenerateRequest

NEW_TOKEN = 7


def a_scheduler(
    *, num_blocks: int = 32, block_size: int = 4, max_running: int = 4, max_batch_tokens: int = 16
) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, block_size), max_running=max_running, max_batch_tokens=max_batch_tokens)


def a_sequence(name: str = "a", *, prompt: list[int] | int = 4, max_tokens: int = 4, salt: str = "") -> Sequence:
    token_ids = list(range(1, prompt + 1)) if isinstance(prompt, int) else prompt
    return Sequence(
        request_id=name,
        token_ids=list(token_ids),
        num_prompt_tokens=len(token_ids),
        request=GenerateRequest(max_tokens=max_tokens),
        root=root_key(salt),
        max_total_tokens=len(token_ids) + max_tokens,
    )


def run_step(scheduler: Scheduler) -> dict[str, int]:
    """One step as the engine drives it; tokens computed per sequence."""
    chunks = scheduler.schedule()
    scheduler.check_integrity()
    scheduler.settle(chunks)
    for chunk in chunks:
        append_or_finish(scheduler, chunk)
    scheduler.check_integrity()
    return {chunk.sequence.request_id: chunk.num_tokens for chunk in chunks}


def append_or_finish(scheduler: Scheduler, chunk: Chunk) -> None:
    sequence = chunk.sequence
    if sequence.num_pending_tokens == 0:
        sequence.token_ids.append(NEW_TOKEN)
        if len(sequence.token_ids) >= sequence.max_total_tokens:
            scheduler.remove(sequence)


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    scheduler = a_scheduler(max_batch_tokens=16)
    scheduler.add(a_sequence("long", prompt=40))
    assert [run_step(scheduler) for _ in range(4)] == [{"long": 16}, {"long": 16}, {"long": 8}, {"long": 1}]


def test_decodes_are_served_before_a_prompt_that_could_use_the_whole_budget() -> None:
    scheduler = a_scheduler(max_batch_tokens=8)
    scheduler.add(a_sequence("chat", prompt=4, max_tokens=8))
    run_step(scheduler)
    scheduler.add(a_sequence("long", prompt=[9] * 30))
    assert run_step(scheduler) == {"chat": 1, "long": 7}


def test_a_step_never_exceeds_its_budget_when_prompts_queue_up() -> None:
    scheduler = a_scheduler(max_batch_tokens=10)
    for index in range(4):
        scheduler.add(a_sequence(str(index), prompt=[index] * 6))
    assert run_step(scheduler) == {"0": 6, "1": 4}


def test_a_shared_beginning_is_computed_once() -> None:
    scheduler = a_scheduler()
    first, second = a_sequence("first", prompt=10), a_sequence("second", prompt=10)
    scheduler.add(first)
    run_step(scheduler)
    scheduler.add(second)
    assert run_step(scheduler) == {"first": 1, "second": 2}
    assert second.num_cached_tokens == 8
    assert first.blocks[:2] == second.blocks[:2]


def test_a_prompt_found_whole_in_the_cache_still_computes_its_last_token() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_sequence("first", prompt=8))
    run_step(scheduler)
    repeat = a_sequence("repeat", prompt=8)
    scheduler.add(repeat)
    assert run_step(scheduler)["repeat"] == 4
    assert repeat.num_cached_tokens == 4


def test_another_tenant_does_not_see_the_cached_prompt() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_sequence("first", prompt=10, salt="a"))
    run_step(scheduler)
    scheduler.add(a_sequence("second", prompt=10, salt="b"))
    assert run_step(scheduler)["second"] == 10


def test_more_sequences_than_places_wait_their_turn() -> None:
    scheduler = a_scheduler(max_running=2)
    for index in range(3):
        scheduler.add(a_sequence(str(index), prompt=2))
    assert list(run_step(scheduler)) == ["0", "1"]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)


def test_the_next_in_line_is_not_overtaken_by_a_smaller_one() -> None:
    scheduler = a_scheduler(num_blocks=4)
    scheduler.add(a_sequence("runs", prompt=[1] * 7, max_tokens=8))
    run_step(scheduler)
    scheduler.add(a_sequence("big", prompt=[2] * 12, max_tokens=1))
    scheduler.add(a_sequence("small", prompt=[3], max_tokens=1))
    assert list(run_step(scheduler)) == ["runs"]


def test_when_blocks_run_out_the_youngest_gives_way_and_comes_back() -> None:
    scheduler = a_scheduler(num_blocks=4)
    old, young = a_sequence("old", prompt=[1] * 8, max_tokens=6), a_sequence("young", prompt=[2] * 7, max_tokens=6)
    scheduler.add(old)
    scheduler.add(young)
    run_step(scheduler)
    assert list(run_step(scheduler)) == ["old"]
    assert scheduler.num_preemptions == 1
    assert list(young.blocks) == []
    while scheduler.num_running or scheduler.num_waiting:
        run_step(scheduler)
    assert len(old.token_ids) == 14
    assert len(young.token_ids) == 13


def test_a_cancelled_sequence_frees_its_blocks_at_once() -> None:
    scheduler = a_scheduler()
    sequence = a_sequence(prompt=20)
    scheduler.add(sequence)
    run_step(scheduler)
    scheduler.remove(sequence)
    assert scheduler.pool.num_used == 0


class Arrival:
    """A request of a random schedule."""

    def __init__(self, prompt: list[int], max_tokens: int, cancel_after: int | None) -> None:
        self.prompt, self.max_tokens, self.cancel_after = prompt, max_tokens, cancel_after

    def __repr__(self) -> str:
        return f"Arrival({self.prompt}, {self.max_tokens}, {self.cancel_after})"


arrivals = st.builds(
    Arrival,
    # Few distinct tokens, so that prefixes are shared often.
    prompt=st.lists(st.integers(0, 1), min_size=1, max_size=20),
    max_tokens=st.integers(1, 8),
    cancel_after=st.none() | st.integers(0, 6),
)


@settings(deadline=None)
@given(
    schedule=st.lists(st.lists(arrivals, max_size=3), max_size=8),
    num_blocks=st.integers(7, 20),
    max_running=st.integers(1, 5),
    max_batch_tokens=st.integers(1, 24),
)
def test_everyone_finishes_in_order_of_arrival_and_no_block_is_lost(
    schedule: list[list[Arrival]], num_blocks: int, max_running: int, max_batch_tokens: int
) -> None:
    scheduler = a_scheduler(num_blocks=num_blocks, max_running=max_running, max_batch_tokens=max_batch_tokens)
    live: dict[Sequence, int | None] = {}
    first_computed: list[int] = []
    steps = 0
    while schedule or live:
        for arrival in schedule.pop(0) if schedule else []:
            sequence = a_sequence(str(steps), prompt=arrival.prompt, max_tokens=arrival.max_tokens)
            scheduler.add(sequence)
            live[sequence] = None if arrival.cancel_after is None else steps + arrival.cancel_after
        for sequence in [sequence for sequence, cancel_at in live.items() if cancel_at == steps]:
            scheduler.remove(sequence)
            del live[sequence]
        chunks = scheduler.schedule()
        scheduler.check_integrity()
        assert bool(chunks) == bool(live), "work was left undone"
        assert sum(chunk.num_tokens for chunk in chunks) <= max_batch_tokens
        for chunk in chunks:
            assert chunk.num_tokens > 0
            assert chunk.start == chunk.sequence.num_computed_tokens
            if chunk.sequence.arrival not in first_computed:
                first_computed.append(chunk.sequence.arrival)
        scheduler.settle(chunks)
        for chunk in chunks:
            append_or_finish(scheduler, chunk)
            if len(chunk.sequence.token_ids) >= chunk.sequence.max_total_tokens:
                del live[chunk.sequence]
        scheduler.check_integrity()
        steps += 1
        assert steps < 3000, "no progress"
    assert scheduler.pool.num_used == 0
    assert first_computed == sorted(first_computed), "someone was overtaken"
