"""The int8 linears of the CUDA provider beside torch's own, and beside what the memory allows. Says so without a GPU.

Calls per second from CUDA events, medians over repeats, ours and the peer's in turn. The limit is the bandwidth of a
device-to-device copy, measured in the same run, over the bytes of the weights a call must read.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import report

QUICK = bool(os.environ.get("QUICK"))
REPEATS = 5 if QUICK else 25
COPIED_BYTES = 1024**3


def num_gpus() -> int:
    """What the driver counts; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def milliseconds(call: Callable[[], Any]) -> float:
    """Time of one call as the GPU sees it; where it waits for the next launch, that counts."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    elapsed: float = start.elapsed_time(end)
    return elapsed


def copy_bytes_per_second() -> float:
    """Bytes read and written by the fastest of a few copies."""
    import torch

    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPIED_BYTES / min(milliseconds(lambda: target.copy_(source)) for _ in range(10)) * 1000


def main() -> None:
    """Print the table and write benchmarks/results/cuda.json, or say what is missing."""
    if num_gpus() == 0:
        print("no GPU here: the CUDA driver finds none, so nothing was measured")
        return
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
        sys.exit("there is a GPU, but torch or triton-lang is not installed: pip install -e '.[gpu]'")
    import torch
    from cases import TOKENS, cases

    bandwidth = copy_bytes_per_second()
    rows = []
    with torch.inference_mode():
        for case in cases("cuda", tokens=TOKENS[:2] if QUICK else TOKENS):
            for _ in range(3):  # compiles, and fills caches of both
                case.ours()
                case.peer()
            times = [(milliseconds(case.ours), milliseconds(case.peer)) for _ in range(REPEATS)]
            ours, peer = ([1000 / one for one in side] for side in zip(*times, strict=True))
            limit = bandwidth / case.weight_bytes
            rows.append(report.row(case.name, "calls/s", ours, peer, peer_name=case.peer_name, limit=limit, threads=1))
    print(f"{torch.cuda.get_device_name()}: copies at {bandwidth / 1e9:,.0f} GB/s")
    report.publish("cuda", rows)


if __name__ == "__main__":
    main()
