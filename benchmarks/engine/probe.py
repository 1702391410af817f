"""What the machine gives at this moment: read bandwidth of memory, and the int8 products it can form.

Other guests of a shared machine take bandwidth away, so each timing has its control right beside it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

SOURCE: Final = Path(__file__).with_name("probe.c")
_BYTES: Final = 512 * 1024**2
"""Many times the largest cache."""
_PASSES: Final = 4
_ROUNDS: Final = 2_000_000


def build(target: Path) -> None:
    """Compile the probe for this CPU."""
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", target, SOURCE], check=True)


class Probe:
    """Holds the memory it reads; one process makes one."""

    def __init__(self, library: Path) -> None:
        self._native = ctypes.CDLL(str(library))  # calls release the GIL
        for name, arguments in (
            ("read_all", [ctypes.c_void_p, ctypes.c_size_t]),
            ("int8_dots", [ctypes.c_uint64]),
            ("int8_operations", []),
        ):
            function = getattr(self._native, name)
            function.argtypes, function.restype = arguments, ctypes.c_uint64
        self._memory = np.ones(_BYTES, dtype=np.uint8)
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def read_bandwidth(self, threads: int) -> float:
        """Bytes per second; the best of a few passes, because a control asks what was to be had."""
        share = _BYTES // threads
        base = self._memory.ctypes.data
        seconds = [
            self._together(threads, lambda index: self._native.read_all(base + index * share, share))
            for _ in range(_PASSES)
        ]
        return share * threads / min(seconds)

    def int8_peak(self, threads: int) -> float | None:
        """Multiplications and additions per second; None where the CPU has no 512-bit dot product."""
        operations = self._native.int8_operations()
        if not operations:
            return None
        seconds = [self._together(threads, lambda _: self._native.int8_dots(_ROUNDS)) for _ in range(_PASSES)]
        return float(operations * _ROUNDS * threads / min(seconds))

    def _together(self, threads: int, work: Callable[[int], object]) -> float:
        start = time.perf_counter()
        list(self._pool.map(work, range(threads)))
        return time.perf_counter() - start
