"""NumPy arrays that triton-lang's interpreter takes for torch tensors, so that the kernel is tested without torch."""

from __future__ import annotations

from typing import Any

import numpy as np


class NumpyTensor:
    """What the interpreter asks of a tensor: an address, a type, and copies to and from the host, which it is on."""

    def __init__(self, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.array = array
        self.shape = array.shape
        self.dtype = f"torch.{array.dtype.name}"

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> NumpyTensor:
        return self

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.shape

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def cpu(self) -> NumpyTensor:
        return self

    def new_empty(self, *_: Any, **__: Any) -> NumpyTensor:
        return self

    def set_(self, *_: Any) -> None:
        """The interpreter's copy on the host shares our memory."""

    def copy_(self, _: Any) -> None:
        """So nothing is to be copied back."""
