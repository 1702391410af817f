"""The CUDA suite computes what it says it compares, and says so plainly where there is no GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUITE = Path(__file__).parents[3] / "benchmarks" / "cuda"


def test_without_a_gpu_it_says_so_and_measures_nothing() -> None:
    program = [sys.executable, SUITE / "run.py"]
    done = subprocess.run(program, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no GPU here: the CUDA driver finds none, so nothing was measured\n"


def test_every_case_gives_what_its_peer_gives(device: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (make gpu-test)")
    pytest.importorskip("triton", reason="triton-lang is not installed (make gpu-test)")
    suite = _cases()
    tiny = suite.Shape("tiny", 128, 64, 4, 2)
    found = list(suite.cases(device, shapes=(tiny,), tokens=(1, 24), linear=128))
    assert [case.name for case in found] == [
        *("linear 128 x 128, 1 tokens", "linear 128 x 128, 24 tokens", "linear 128 x 128, 24 tokens"),
        *("tiny, 1 tokens", "tiny, 24 tokens"),
    ]
    assert found[-1].weight_bytes <= 4 * (2 * 64 * 128 + 128 * 64)
    for case in found:
        ours, peer = case.ours(), case.peer()
        assert ours.shape == peer.shape
        if "_int_mm" not in case.peer_name:  # it multiplies other rows: only its speed is compared
            error = torch.linalg.norm(ours - peer.to(torch.float32)) / torch.linalg.norm(ours)
            assert error < 0.05


def _cases() -> Any:
    spec = importlib.util.spec_from_file_location("cuda_cases", SUITE / "cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_cases"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
