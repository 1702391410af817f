"""Which sequences run next. No tensors, no clock: integers in, a decision out.

There are no prefill and decode phases: each sequence has `num_computed_tokens` catching up with its tokens under one
token budget per step (as in vLLM's v1 scheduler), which covers chunked prefill, prefix hits and recomputation alike.

Order is first come, first served: an older sequence gets memory before a younger one. The blocks of a prompt are taken
when it is admitted; when a growing sequence finds none, the youngest running one gives its blocks back and is
recomputed later. The budget serves decodes first, so a long prompt never stalls running streams.

Where every layer of a model has a window, a sequence gives back the blocks that its next token does not see.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from typing import NamedTuple

from flash_runtime.engine.blocks import NO_BLOCK, BlockPool, block_key
from flash_runtime.engine.sequence import Sequence


class Chunk(NamedTuple):
    """Tokens `start : start + num_tokens` of one sequence, to be computed in this step."""

    sequence: Sequence
    start: int
    num_tokens: int
    proposed: tuple[int, ...] = ()
    """Guesses at the tokens after the sequence's last one: computed with it, and verified by what it yields."""

    @property
    def wants_logits(self) -> bool:
        """Whether the chunk ends with the sequence's last token, so that the next one can be sampled."""
        return self.start + self.num_tokens == len(self.sequence.token_ids)

    @property
    def is_decode(self) -> bool:
        """Whether it is the sequence's last token alone."""
        return self.num_tokens == 1 and self.wants_logits


class Scheduler:
    """Waiting and running sequences over one block pool. The caller alternates `schedule` and `settle`."""

    def __init__(self, pool: BlockPool, *, max_running: int, max_batch_tokens: int, window: int | None = None) -> None:
        """`window`: positions a token sees, its own among them; None = all before it."""
        if window is not None and window < 1:
            raise ValueError(f"window ({window}) must be at least 1")
        if max_running < 1 or max_batch_tokens < 1:
            raise ValueError(
                f"max_running ({max_running}) and max_batch_tokens ({max_batch_tokens}) must be at least 1"
            )
        self.pool = pool
        self.window = window
        # With at most one decode token each, every running sequence fits into every step.
        self.max_running = min(max_running, max_batch_tokens)
        self.max_batch_tokens = max_batch_tokens
        self.num_preemptions = 0
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._arrivals = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that hold no memory yet, or none any more."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that fits into the whole pool (the caller has checked)."""
        assert self.pool.blocks_for(sequence.max_total_tokens) <= self.pool.num_blocks
        sequence.arrival = self._arrivals
        self._arrivals += 1
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence; its blocks are free at once."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._release(sequence)
        else:
            self._waiting.remove(sequence)

    def schedule(self) -> list[Chunk]:
        """The next step, oldest sequence first; empty only when there is nothing to do."""
        # This runs for every token of every stream: plain loops over plain numbers.
        num_decodes = 0
        for sequence in self._running:
            num_decodes += len(sequence.token_ids) - sequence.num_computed_tokens == 1
        prefill_budget = self.max_batch_tokens - num_decodes
        size = self.pool.block_size
        chunks: list[Chunk] = []
        preempted = False
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            length, start = len(sequence.token_ids), sequence.num_computed_tokens
            if length > len(sequence.blocks) * size and not self._has_room(sequence):
                preempted = True
                if not self._make_room(sequence):
                    break
            if length - start == 1:
                chunks.append(Chunk(sequence, start, 1))
            elif count := min(length - start, prefill_budget):
                prefill_budget -= count
                chunks.append(Chunk(sequence, start, count))
            index += 1
        while not preempted and prefill_budget > 0 and self._admit_next():
            sequence = self._running[-1]
            count = min(sequence.num_pending_tokens, prefill_budget)
            prefill_budget -= count
            chunks.append(Chunk(sequence, sequence.num_computed_tokens, count))
        return chunks

    def reserve(self, sequence: Sequence, count: int) -> int:
        """Take blocks for up to `count` tokens after the last of a running sequence; returns for how many.

        Only blocks that nobody holds are taken, so it sets nobody back. `settle` gives back what is not needed.
        """
        size = self.pool.block_size
        length = len(sequence.token_ids)
        missing = self.pool.blocks_for(length + count) - len(sequence.blocks)
        if missing > 0:
            sequence.blocks.extend(self.pool.allocate(min(missing, self.pool.num_free)))
        return min(count, len(sequence.blocks) * size - length)

    def settle(self, chunks: list[Chunk]) -> None:
        """The step ran: its keys and values are in the cache, and full blocks may be shared.

        Proposals that held are among the chunk's tokens by now. Of the others' keys and values nothing remains: their
        places are written again before they are read.
        """
        size = self.pool.block_size
        for sequence, start, count, proposed in chunks:
            sequence.num_computed_tokens = start + count
            if start + count >= (sequence.num_published + 1) * size:
                self._publish(sequence)
            if proposed:
                self._give_back(sequence)
            if self.window is not None:
                self._release_unseen(sequence)

    def check_integrity(self) -> None:
        """Raise AssertionError unless blocks are held by exactly those that list them, and order is by arrival."""
        self.pool.check_integrity()
        held: Counter[int] = Counter()
        for sequence in self._running:
            unseen = sequence.num_unseen_blocks
            assert unseen <= self._num_unseen(sequence.num_computed_tokens), f"{sequence.request_id} lacks a block"
            assert all(block == NO_BLOCK for block in sequence.blocks[:unseen])
            blocks = sequence.blocks[unseen:]
            assert len(set(blocks)) == len(blocks), f"{sequence.request_id} lists a block twice"
            assert sequence.num_computed_tokens <= len(sequence.blocks) * self.pool.block_size
            held.update(blocks)
        for sequence in self._waiting:
            assert not sequence.blocks, f"{sequence.request_id} waits with blocks"
            assert sequence.num_computed_tokens == 0
        for block in range(self.pool.num_blocks):
            assert held[block] == self.pool.holders(block), f"block {block}: {held[block]} owners counted otherwise"
        arrivals = [sequence.arrival for sequence in (*self._running, *self._waiting)]
        assert arrivals == sorted(arrivals), f"out of order: {arrivals}"

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether blocks exist, or are now taken, for every token the sequence has."""
        missing = self.pool.blocks_for(len(sequence.token_ids)) - len(sequence.blocks)
        if missing <= 0:
            return True
        if missing > self.pool.num_free:
            return False
        sequence.blocks.extend(self.pool.allocate(missing))
        return True

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempt from the youngest on until the sequence has room; False when it had to give way itself."""
        while True:
            youngest = self._running.pop()
            self._release(youngest)
            self._waiting.appendleft(youngest)
            self.num_preemptions += 1
            if youngest is sequence:
                return False
            if self._has_room(sequence):
                return True

    def _admit_next(self) -> bool:
        if not self._waiting or len(self._running) >= self.max_running:
            return False
        sequence = self._waiting[0]
        cached = self._cached_blocks(sequence)
        unseen = self._num_unseen(len(cached) * self.pool.block_size)
        wanted = self.pool.blocks_for(len(sequence.token_ids)) - len(cached)
        if wanted > self.pool.num_free - sum(self.pool.is_free(block) for block in cached[unseen:]):
            return False
        self.pool.share(cached[unseen:])
        sequence.num_unseen_blocks = unseen
        sequence.blocks.extend(cached)
        sequence.blocks.extend(self.pool.allocate(wanted))
        sequence.num_published = len(cached)
        sequence.num_computed_tokens = len(cached) * self.pool.block_size
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        self._waiting.popleft()
        self._running.append(sequence)
        return True

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        """Blocks of the longest beginning whose published ones reach as far back as the next token sees.

        It ends short of the last token, whose logits are still to be computed. NO_BLOCK stands for blocks out of sight.
        """
        size = self.pool.block_size
        found: list[int] = []
        run = longest = 0  # published blocks in a row up to here; blocks of the longest beginning
        for index in range((len(sequence.token_ids) - 1) // size):
            block = self.pool.find(self._key(sequence, index), sequence.token_ids[index * size : (index + 1) * size])
            if block is None and self.window is None:
                break
            run = 0 if block is None else run + 1
            found.append(NO_BLOCK if block is None else block)
            if run + self._num_unseen(len(found) * size) >= len(found):
                longest = len(found)
        unseen = self._num_unseen(longest * size)
        return [NO_BLOCK] * unseen + found[unseen:longest]

    def _num_unseen(self, position: int) -> int:
        """How many blocks lie wholly before what the token at this position, and those after it, see."""
        return 0 if self.window is None else max(0, position + 1 - self.window) // self.pool.block_size

    def _release_unseen(self, sequence: Sequence) -> None:
        known, unseen = sequence.num_unseen_blocks, self._num_unseen(sequence.num_computed_tokens)
        if unseen > known:
            # The last is let go last, so evicted last: a later prefix hit needs it, and not those before its window.
            self.pool.release(sequence.blocks[known:unseen][::-1])
            sequence.blocks[known:unseen] = array("i", [NO_BLOCK]) * (unseen - known)
            sequence.num_unseen_blocks = unseen

    def _publish(self, sequence: Sequence) -> None:
        size = self.pool.block_size
        for index in range(sequence.num_published, sequence.num_computed_tokens // size):
            token_ids = sequence.token_ids[index * size : (index + 1) * size]
            self.pool.publish(sequence.blocks[index], self._key(sequence, index), token_ids)
            sequence.num_published = index + 1

    def _key(self, sequence: Sequence, index: int) -> bytes:
        size = self.pool.block_size
        while len(sequence.keys) <= index:
            at = len(sequence.keys)
            parent = sequence.keys[-1] if sequence.keys else sequence.root
            sequence.keys.append(block_key(parent, sequence.token_ids[at * size : (at + 1) * size]))
        return sequence.keys[index]

    def _give_back(self, sequence: Sequence) -> None:
        """Let go of blocks past the sequence's last token, which were taken for proposals."""
        needed = self.pool.blocks_for(len(sequence.token_ids))
        if needed < len(sequence.blocks):
            self.pool.release(sequence.blocks[needed:])
            del sequence.blocks[needed:]

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks[sequence.num_unseen_blocks :])
        sequence.num_unseen_blocks = 0
        del sequence.blocks[:]
        sequence.num_computed_tokens = 0
