"""What the CUDA provider's tests share: triton-lang's interpreter, unless TRITON_INTERPRET=0 asks for a real GPU."""

from __future__ import annotations

import os

import pytest

# triton-lang reads it when the kernel is defined, so it must stand before the first import.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def device() -> str:
    """Where the provider's tensors live."""
    return "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
