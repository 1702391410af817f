"""A model that knows the answers and says each next token rightly with a set probability, in a set time.

What it is asked stands in a file, which it reads again whenever a sequence begins. Keeps tokens in paged memory, as a
real provider keeps keys and values.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path
from typing import Final

import numpy as np

from flash_runtime.engine.batch import Answers, Batch

_WORK: Final = bytes(8192)
"""Some microseconds for a processor."""


class Synthetic:
    """Implements `flash_runtime.engine.batch.Provider`, as far as a draft uses it."""

    num_blocks = 4096
    block_size = 16
    max_context_tokens = 8192
    window = None

    def __init__(self, orders: Path, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._orders = orders
        self._random = random.Random(0)
        self._memory = np.zeros((self.num_blocks, self.block_size), dtype=np.int32)
        self._read()

    def step(self, batch: Batch) -> Answers:
        """As long as was ordered, whatever it computes: a processor is busy meanwhile, as with a real model."""
        end = time.perf_counter() + self._seconds
        if 0 in batch.positions:
            self._read()
        best = []
        wanted = set(batch.best_rows.tolist())
        for index, table in enumerate(batch.block_tables):
            rows = range(batch.query_starts[index], batch.query_starts[index + 1])
            for row in rows:
                position = int(batch.positions[row])
                self._memory[table[position // 16], position % 16] = batch.token_ids[row]
                if row in wanted:
                    best.append(self._next(self._memory[table[: position // 16 + 1]].reshape(-1)[: position + 1]))
        while time.perf_counter() < end:
            hashlib.sha256(_WORK)  # lets other threads of this process run, as native kernels do
        return Answers(np.empty((0, self.vocab_size), dtype=np.float32), np.array(best, dtype=np.int32))

    def _next(self, token_ids: np.ndarray) -> int:
        length = len(token_ids)
        for known in self._known:
            if len(known) > length and known[length - 1] == token_ids[-1] and (known[:length] == token_ids).all():
                return int(known[length]) ^ (self._random.random() >= self._acceptance)
        return 0

    def _read(self) -> None:
        orders = json.loads(self._orders.read_text())
        self._known = [np.array(ids, dtype=np.int32) for ids in orders["sequences"]]
        self._acceptance = float(orders["acceptance"])
        self._seconds = float(orders["seconds"])
