"""A packed model's blobs as tensors on one device, in the GPU's layout, each uploaded once.

Raises ValueError naming the blob, what was expected and what was found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flash_runtime.kernels.cuda.extra import torch
from flash_runtime.kernels.cuda.layout import rows_of
from flash_runtime.kernels.cuda.linear import Linear
from flash_runtime.kernels.cuda.mlp import Moe, SharedExpert, Swiglu
from flash_runtime.kernels.layout import padded_rows, weight_shape
from flash_runtime.model.plan import DenseMlp, ModelPlan, MoeMlp
from flash_runtime.model.plan import SharedExpert as SharedExpertPlan
from flash_runtime.packed import PackedFile


class Weights:
    """Hands out tensors by the plan's names."""

    def __init__(self, packed: PackedFile, plan: ModelPlan, device: Any) -> None:
        self._packed = packed
        self._shapes = plan.linear_shapes()
        self._device = device
        self._linears: dict[str, Linear] = {}

    def vector(self, name: str, *shape: int) -> Any:
        """A float32 blob of this shape."""
        return self._upload(self._blob(name, shape, np.float32).reshape(shape))

    def linear(self, name: str, *, experts: int = 1) -> Linear:
        """A linear of the plan, or its stack of experts; a name asked for twice is the same tensors."""
        if name not in self._linears:
            n, k = self._shapes[name]
            weight = self._blob(f"{name}.weight", (experts, *weight_shape(n, k)), np.uint8)
            scale = self._blob(f"{name}.scale", (experts, padded_rows(n)), np.float32)
            rows = rows_of(weight, scale, n=n, k=k)
            has_bias = f"{name}.bias" in self._packed.blobs
            self._linears[name] = Linear(
                weight=self._upload(rows.weight),
                scale=self._upload(rows.scale),
                bias=self.vector(f"{name}.bias", experts, n) if has_bias else None,
            )
        return self._linears[name]

    def mlp(self, mlp: DenseMlp | MoeMlp, hidden: int) -> Swiglu | Moe:
        """One layer's MLP."""
        if isinstance(mlp, DenseMlp):
            return self._swiglu(mlp)
        shared = mlp.shared
        return Moe(
            router=self.vector(mlp.router, mlp.num_experts, hidden),
            gate_up=self.linear(mlp.gate_up, experts=mlp.num_experts),
            down=self.linear(mlp.down, experts=mlp.num_experts),
            top_k=mlp.top_k,
            normalise=mlp.normalise,
            shared=None if shared is None else SharedExpert(self.vector(shared.gate, hidden), self._swiglu(shared)),
        )

    def _swiglu(self, mlp: DenseMlp | SharedExpertPlan) -> Swiglu:
        return Swiglu(gate_up=self.linear(mlp.gate_up), down=self.linear(mlp.down))

    def _blob(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        expected = f"{np.dtype(dtype).name} of {int(np.prod(shape, dtype=np.int64))} elements"
        if name not in self._packed.blobs:
            raise ValueError(f"packed model: blob {name!r} is missing, expected {expected}; pull the model again")
        array = self._packed.blob(name)
        if array.dtype != np.dtype(dtype) or array.size != np.prod(shape, dtype=np.int64):
            found = f"{array.dtype.name} of {array.size} elements"
            raise ValueError(f"packed model: blob {name!r} must be {expected}, found {found}; pull the model again")
        return array

    def _upload(self, array: NDArray[Any]) -> Any:
        # A copy: the mapped file is read-only, which torch does not know.
        return torch.tensor(array, device=self._device)
