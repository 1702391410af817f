"""From a packed model to the native engine's view of it: every blob of the plan, checked and passed by pointer.

Knows names, dtypes and sizes; copies nothing. Raises ValueError naming the blob, what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flash_runtime.kernels import _native
from flash_runtime.kernels.layout import LinearFormat, PackedLinear, part_shapes
from flash_runtime.model.plan import DenseMlp, LayerPlan, ModelPlan, MoeMlp, SharedExpert

MAX_HEAD_DIM = 256
"""What the attention kernel's stack buffers hold."""


class Packed(Protocol):
    """What is needed of `flash_runtime.packed.PackedFile`."""

    @property
    def header(self) -> Mapping[str, Any]: ...
    @property
    def blobs(self) -> Container[str]: ...
    def blob(self, name: str) -> NDArray[Any]: ...


class Weights:
    """Hands out native views of one packed model and keeps the arrays they point into."""

    def __init__(self, packed: Packed, plan: ModelPlan) -> None:
        self._packed = packed
        self._plan = plan
        self.arrays: list[NDArray[Any]] = []

    def vector(self, name: str, *shape: int) -> NDArray[Any]:
        """A float32 blob of this shape."""
        return self._blob(name, shape, np.float32)

    def linear(self, name: str, *, n: int, k: int, experts: int | None = None) -> Any:
        """The native view of an [N, K] linear, or of a stack of experts."""
        stack = () if experts is None else (experts,)
        format = self._plan.linear_format(name)
        shapes = part_shapes(format, n, k)
        parts = {key: self._blob(f"{name}.{key}", (*stack, *part.shape), part.dtype) for key, part in shapes.items()}
        bias = self._blob(f"{name}.bias", (*stack, n), np.float32) if f"{name}.bias" in self._packed.blobs else None
        return native_linear(PackedLinear.of(parts, format), bias, n=n, k=k, experts=experts or 1)

    def layer(self, layer: LayerPlan) -> Any:
        """The native view of one transformer block."""
        plan, mlp = self._plan, layer.mlp
        hidden, head_dim, attended = plan.hidden_size, plan.head_dim, plan.num_heads * plan.head_dim
        keyed, together = plan.num_kv_heads * head_dim, layer.qk_norm_over == "projection"
        experts, shared = (mlp.num_experts, mlp.shared) if isinstance(mlp, MoeMlp) else (None, None)
        return _native.Layer.of(
            attn_norm=self.vector(layer.attn_norm, hidden),
            qkv=self.linear(layer.qkv, n=attended + 2 * keyed, k=hidden),
            q_norm=None if layer.q_norm is None else self.vector(layer.q_norm, attended if together else head_dim),
            k_norm=None if layer.k_norm is None else self.vector(layer.k_norm, keyed if together else head_dim),
            norm_together=together,
            window=min(layer.window or 0, plan.max_context_tokens),
            o=self.linear(layer.o, n=hidden, k=attended),
            mlp_norm=self.vector(layer.mlp_norm, hidden),
            router=self.vector(mlp.router, mlp.num_experts, hidden) if isinstance(mlp, MoeMlp) else None,
            experts=experts or 1,
            top_k=mlp.top_k if isinstance(mlp, MoeMlp) else 1,
            normalise=mlp.normalise if isinstance(mlp, MoeMlp) else False,
            mlp=self.swiglu(mlp, experts=experts),
            shared=None if shared is None else self.swiglu(shared),
            shared_gate=None if shared is None else self.vector(shared.gate, hidden),
        )

    def swiglu(self, mlp: DenseMlp | MoeMlp | SharedExpert, *, experts: int | None = None) -> Any:
        """The native view of a SwiGLU, or of a stack of experts."""
        hidden = self._plan.hidden_size
        return _native.Swiglu.of(
            gate_up=self.linear(mlp.gate_up, n=2 * mlp.width, k=hidden, experts=experts),
            down=self.linear(mlp.down, n=hidden, k=mlp.width, experts=experts),
            width=mlp.width,
        )

    def _blob(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        expected = f"{np.dtype(dtype).name} {list(shape)}"
        if name not in self._packed.blobs:
            raise ValueError(f"packed model: blob {name!r} is missing, expected {expected}; pull the model again")
        array = self._packed.blob(name)
        size = int(np.prod(shape, dtype=np.int64))
        if array.dtype != np.dtype(dtype) or array.size != size or not array.flags.c_contiguous:
            found = f"{array.dtype.name} {list(array.shape)}"
            raise ValueError(f"packed model: blob {name!r} must be {expected}, found {found}; pull the model again")
        self.arrays.append(array)
        return array


def native_linear(packed: PackedLinear, bias: NDArray[Any] | None, *, n: int, k: int, experts: int = 1) -> Any:
    """The native view of a packed linear or stack; it points into the arrays, which the caller keeps."""
    parts = packed.parts
    match packed.format:
        case LinearFormat.INT8:
            return _native.Linear.int8(parts["weight"], parts["scale"], bias, n, k, experts)
        case LinearFormat.INT4:  # float16 travels as its bits
            scale, least = parts["scale"].view(np.uint16), parts["min"].view(np.uint16)
            return _native.Linear.int4(parts["weight"], scale, least, bias, n, k, experts)
        case LinearFormat.BF16:
            return _native.Linear.bf16(parts["weight"], bias, n, k, experts)


def check_plan(plan: ModelPlan) -> None:
    """Relations between sizes that the kernels rely on; raises ValueError naming the field."""
    if plan.num_heads % plan.num_kv_heads:
        raise ValueError(f"num_heads ({plan.num_heads}) must be a multiple of num_kv_heads ({plan.num_kv_heads})")
    if plan.head_dim % 2 or plan.head_dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim ({plan.head_dim}) must be even and at most {MAX_HEAD_DIM}")
    for index, layer in enumerate(plan.layers):
        if isinstance(layer.mlp, MoeMlp) and layer.mlp.top_k > layer.mlp.num_experts:
            raise ValueError(
                f"layers.{index}.mlp: top_k ({layer.mlp.top_k}) must not exceed num_experts ({layer.mlp.num_experts})"
            )
