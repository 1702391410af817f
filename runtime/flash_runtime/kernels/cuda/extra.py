"""torch and triton-lang, or a clear word about the extra that brings them: the one place that imports either.

Modules of this package take `torch`, `triton` (triton-lang) and `tl` (its language) from here. Each is imported when
first asked for, so the kernel alone needs no torch. Raises GpuExtraMissing, an ImportError.
"""

from __future__ import annotations

from typing import Any


class GpuExtraMissing(ImportError):
    """A package of the extra `gpu` is not installed."""


def __getattr__(name: str) -> Any:
    try:
        if name == "torch":
            import torch

            return torch
        if name in ("triton", "tl"):
            import triton
            import triton.language as tl

            return tl if name == "tl" else triton
    except ModuleNotFoundError as error:
        raise GpuExtraMissing(
            f"the `cuda` provider needs the package {error.name}, which is not installed: pip install 'flashplane[gpu]'"
        ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
