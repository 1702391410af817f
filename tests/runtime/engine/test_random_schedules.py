"""A hundred thousand steps of random schedules: no block is lost, used twice, or read by whom it does not belong to.

Besides the scheduler's own books a shadow of the cache is kept: who wrote what into each place. A sequence may only
read what it, or one with the same salt and the same beginning, has written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from flash_runtime.engine.blocks import NO_BLOCK, BlockPool, root_key
from flash_runtime.engine.scheduler import Chunk, Scheduler
from flash_runtime.engine.sequence import Sequence
from flash_runtime.wire import GenerateRequest

STEPS = 100_000
STEPS_PER_POOL = 200
REQUEST = GenerateRequest(max_tokens=1)

Place = tuple[str, int, int]
"""Salt, position and token of one place in the cache."""


@dataclass
class World:
    """One pool and its scheduler, with everything that is asked of them at random."""

    random: Random
    counts: Counter[str]
    live: list[Sequence] = field(default_factory=list)
    num_sequences: int = 0

    def __post_init__(self) -> None:
        draw = self.random
        self.size = draw.choice([1, 2, 4])
        self.pool = BlockPool(draw.randint(3, 24), self.size)
        self.max_batch_tokens = draw.randint(1, 24)
        self.window = draw.choice([None, None, draw.randint(1, 8)])
        self.scheduler = Scheduler(
            self.pool, max_running=draw.randint(1, 6), max_batch_tokens=self.max_batch_tokens, window=self.window
        )
        self.shadow: list[list[Place | None]] = [[None] * self.size for _ in range(self.pool.num_blocks)]
        self.salts: dict[Sequence, str] = {}

    def run(self, steps: int) -> None:
        """So many steps, and then whatever is needed to finish everyone."""
        for _ in range(steps):
            if self.random.random() < 0.3:
                self.arrive()
            if self.live and self.random.random() < 0.05:
                self.leave(self.random.choice(self.live))
                self.counts["cancelled"] += 1
            self.step()
        while self.live:
            self.step()
        assert self.pool.num_used == 0
        self.counts["preempted"] += self.scheduler.num_preemptions

    def arrive(self) -> None:
        draw = self.random
        room = self.pool.num_blocks * self.size
        length = draw.randint(1, min(room - 1, 30))
        # Few distinct tokens, so that beginnings are shared often.
        prompt = [draw.randint(0, 1) for _ in range(length)] if draw.random() < 0.5 else [0] * length
        salt = draw.choice(["a", "b"])
        sequence = Sequence(
            request_id=str(self.num_sequences),
            token_ids=prompt,
            num_prompt_tokens=length,
            request=REQUEST,
            root=root_key(salt),
            max_total_tokens=min(room, length + draw.randint(1, 12)),
        )
        self.num_sequences += 1
        self.salts[sequence] = salt
        self.live.append(sequence)
        self.scheduler.add(sequence)
        self.counts["arrived"] += 1

    def leave(self, sequence: Sequence) -> None:
        self.live.remove(sequence)
        self.scheduler.remove(sequence)
        del self.salts[sequence]

    def step(self) -> None:
        decoding = [sequence for sequence in self.live if sequence.blocks and sequence.num_pending_tokens == 1]
        chunks = self.scheduler.schedule()
        self.counts["steps"] += 1
        assert bool(chunks) == bool(self.live), "work was left undone"
        assert sum(chunk.num_tokens for chunk in chunks) <= self.max_batch_tokens
        served = {chunk.sequence for chunk in chunks}
        for sequence in decoding:
            assert sequence in served or not sequence.blocks, "a stream was held up by somebody's prompt"
        for chunk in chunks:
            self.compute(chunk)
        self.scheduler.settle(chunks)
        for chunk in chunks:
            self.bounded(chunk.sequence)
            self.sample(chunk)
        self.scheduler.check_integrity()

    def compute(self, chunk: Chunk) -> None:
        """What the model would do: write the chunk's places, read everything before."""
        sequence, end = chunk.sequence, chunk.start + chunk.num_tokens
        assert chunk.num_tokens > 0
        assert chunk.start == sequence.num_computed_tokens
        salt = self.salts[sequence]
        if chunk.start and sequence.num_cached_tokens == chunk.start:
            self.counts["hit"] += 1
        self.counts["chunked"] += not chunk.wants_logits
        wanted: list[Place] = [(salt, at, token) for at, token in enumerate(sequence.token_ids[:end])]
        for at in range(chunk.start, end):
            self.shadow[sequence.blocks[at // self.size]][at % self.size] = wanted[at]
        seen = 0 if self.window is None else max(0, chunk.start + 1 - self.window)
        found = [self.shadow[sequence.blocks[at // self.size]][at % self.size] for at in range(seen, end)]
        assert NO_BLOCK not in sequence.blocks[seen // self.size :], "a block that is seen was given back"
        assert found == wanted[seen:], "somebody else's keys and values would be read"
        if chunk.start and sequence.num_cached_tokens == chunk.start and sequence.num_unseen_blocks:
            self.counts["hit past blocks out of sight"] += 1

    def bounded(self, sequence: Sequence) -> None:
        """A sequence holds blocks for what its next token sees and for what is still to be computed."""
        if self.window is None:
            return
        held = len(sequence.blocks) - sequence.num_unseen_blocks
        assert held <= self.pool.blocks_for(sequence.num_pending_tokens + self.window - 1) + 1
        self.counts["given back"] += sequence.num_unseen_blocks > 0

    def sample(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        if sequence.num_pending_tokens:
            return
        sequence.token_ids.append(self.random.randint(0, 1))
        if len(sequence.token_ids) >= sequence.max_total_tokens or self.random.random() < 0.05:
            self.leave(sequence)
            self.counts["finished"] += 1


def test_no_block_is_lost_or_used_twice_in_a_hundred_thousand_steps() -> None:
    counts: Counter[str] = Counter()
    seed = 0
    while counts["steps"] < STEPS:
        World(Random(seed), counts).run(STEPS_PER_POOL)
        seed += 1
    print(f"{seed} pools:", ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))
    for what in ("cancelled", "chunked", "finished", "given back", "hit", "hit past blocks out of sight", "preempted"):
        assert counts[what] > 1000, f"hardly any {what}: the schedules test too little"
