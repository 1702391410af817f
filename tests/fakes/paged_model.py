"""A provider whose "keys and values" are the tokens themselves, kept in paged memory as a real one keeps them.

The next token is a hash of everything the sequence's blocks hold, so a block that is lost, shared wrongly, not computed
or overwritten changes the output. Needs nothing but numpy.
"""

from __future__ import annotations

import zlib

import numpy as np

from flash_runtime.engine.batch import Answers, Batch, FloatArray


class PagedModel:
    """A deterministic language over `vocab_size` tokens."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        vocab_size: int = 97,
        max_context_tokens: int = 1024,
        fatal_token: int | None = None,
        window: int | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.max_context_tokens = max_context_tokens
        self.window = window
        self.batch_sizes: list[int] = []
        self.poisoned_token: int | None = None
        """Logits are NaN for a sequence that holds it."""
        self.fatal_token = fatal_token
        """A step that computes it fails; the model never says it itself."""
        self._memory = np.full((num_blocks, block_size), -1, dtype=np.int32)

    def step(self, batch: Batch) -> Answers:
        self.batch_sizes.append(len(batch.token_ids))
        if self.fatal_token is not None and self.fatal_token in batch.token_ids:
            raise MemoryError("a token that no model survives")
        wanted = batch.head_rows.tolist()
        rows: dict[int, FloatArray] = {}
        for sequence, table in enumerate(batch.block_tables):
            first, end = batch.query_starts[sequence], batch.query_starts[sequence + 1]
            for index in range(first, end):
                position = int(batch.positions[index])
                block = table[position // self.block_size]
                assert block >= 0, "a token without a block"
                self._memory[block, position % self.block_size] = batch.token_ids[index]
                if index in wanted:
                    rows[index] = self._logits(table, position)
        logits = np.array([rows[index] for index in wanted], dtype=np.float32).reshape(
            -1, self.vocab_size
        )  # [R + C, V]
        return Answers.of(logits, batch)

    def expected(self, prompt_ids: list[int], count: int) -> list[int]:
        """The greedy continuation, computed without any of the machinery."""
        token_ids = list(prompt_ids)
        for _ in range(count):
            seen = token_ids[max(0, len(token_ids) - (self.window or len(token_ids))) :]
            token_ids.append(int(self._logits_of(np.array(seen, dtype=np.int32)).argmax()))
        return token_ids[len(prompt_ids) :]

    def _logits(self, table: np.ndarray, position: int) -> FloatArray:
        first = 0 if self.window is None else max(0, position + 1 - self.window)
        start = first // self.block_size
        blocks = table[start : position // self.block_size + 1]
        assert (blocks >= 0).all(), "a token without the blocks that it sees"
        offset = start * self.block_size
        return self._logits_of(self._memory[blocks].reshape(-1)[first - offset : position + 1 - offset])

    def _logits_of(self, token_ids: np.ndarray) -> FloatArray:
        if self.poisoned_token is not None and self.poisoned_token in token_ids:
            return np.full(self.vocab_size, np.nan, dtype=np.float32)
        seed = zlib.crc32(np.ascontiguousarray(token_ids, dtype=np.int32).tobytes())
        logits = np.random.Generator(np.random.PCG64(seed)).normal(size=self.vocab_size).astype(np.float32)
        if self.fatal_token is not None:
            logits[self.fatal_token] = -100.0
        return logits
