"""A layer plan together with where its weights come from: which checkpoint tensors make up each packed name, and what
is folded into them on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flash_runtime.kernels.int4 import Int4Blocks
from flash_runtime.model.checkpoint import Checkpoint, FloatArray
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.plan import ModelPlan
from flash_runtime.model.rotation import Rotation


@dataclass(frozen=True)
class Inputs:
    """What a weight takes over from whatever makes its input features."""

    rotation: Rotation
    norm: str | None = None
    """Tensor of the norm before it, whose factors it takes; None = there is none."""


@dataclass(frozen=True)
class Vector:
    """A float tensor, kept as it is but for what is folded."""

    tensor: str
    shape: tuple[int, ...]
    inputs: Inputs | None = None
    """For one that multiplies rotated features, such as a router."""
    folded: bool = False
    """Whether the weights behind it take its factors, which leaves ones."""


@dataclass(frozen=True)
class Linear:
    """A linear stacked from modules: the rows of the first, then those of the second, and so on."""

    modules: tuple[str, ...]
    """Tensor names less `.weight`."""
    rows: tuple[int, ...]
    """Output features of each module."""
    columns: int
    bias: bool = False
    part: int | None = None
    """Which of the linears to take from tensors that stack several; None = they do not."""
    inputs: Inputs | None = None
    outputs: tuple[Rotation | None, ...] = ()
    """Of each module; empty = of none."""

    @property
    def num_rows(self) -> int:
        return sum(self.rows)


@dataclass(frozen=True)
class Recipe:
    """Everything packing and the reference need to know about one checkpoint."""

    plan: ModelPlan
    rope_inv_freq: NDArray[np.float32]  # [head_dim / 2]
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    linears: Mapping[str, Linear] = field(default_factory=dict)
    experts: Mapping[str, tuple[Linear, ...]] = field(default_factory=dict)
    """One linear per expert, all of one shape, by the name of their stack."""

    @property
    def num_reads(self) -> int:
        """How many tensors, or parts of one, packing reads."""
        linears = [*self.linears.values(), *(one for stack in self.experts.values() for one in stack)]
        return len(self.vectors) + sum(len(linear.modules) * (1 + linear.bias) for linear in linears)

    @property
    def tensors(self) -> set[str]:
        """Every checkpoint tensor that packing reads."""
        names = {vector.tensor for vector in self.vectors.values()}
        for linear in [*self.linears.values(), *(one for stack in self.experts.values() for one in stack)]:
            names.update(f"{module}.weight" for module in linear.modules)
            if linear.bias:
                names.update(f"{module}.bias" for module in linear.modules)
        return names


def read_vector(checkpoint: Checkpoint, vector: Vector) -> FloatArray:
    """The tensor, checked; raises CheckpointError naming it."""
    values = _read(checkpoint, vector.tensor, vector.shape)
    if vector.inputs is not None:
        return _with_inputs(checkpoint, values, vector.inputs)
    return np.ones_like(values) if vector.folded else values


def read_weight(checkpoint: Checkpoint, linear: Linear, index: int) -> FloatArray:
    """The weight of one of its modules, f32 [rows, columns], checked."""
    shape = linear.rows[index], linear.columns
    weight = _read(checkpoint, f"{linear.modules[index]}.weight", shape, part=linear.part)
    if linear.inputs is not None:
        weight = _with_inputs(checkpoint, weight, linear.inputs)
    return _with_output(weight, linear, index)


def read_int4_blocks(checkpoint: Checkpoint, linear: Linear, index: int) -> Int4Blocks | None:
    """The same as the int4 blocks that the checkpoint holds, checked; None where other numbers are to be packed."""
    if linear.inputs is not None or any(linear.outputs):
        return None
    name = f"{linear.modules[index]}.weight"
    if (blocks := checkpoint.int4_blocks(name, part=linear.part)) is None:
        return None
    _check_shape(checkpoint, name, blocks.q.shape, (linear.rows[index], linear.columns))
    for values in (blocks.d, blocks.m):
        _check_finite(checkpoint, name, values)
    return blocks


def read_bias(checkpoint: Checkpoint, linear: Linear) -> FloatArray:
    """The bias of the whole linear, f32 [N]."""
    biases = [
        _read(checkpoint, f"{module}.bias", (rows,)) for module, rows in zip(linear.modules, linear.rows, strict=True)
    ]
    return np.concatenate([_with_output(bias, linear, index) for index, bias in enumerate(biases)])


def _with_inputs(checkpoint: Checkpoint, weight: FloatArray, inputs: Inputs) -> FloatArray:
    columns = weight.shape[-1]
    norm = None if inputs.norm is None else _read(checkpoint, inputs.norm, (columns,))
    changed = np.require(weight, requirements=["C", "W"])  # copies a view of the file; anything else is ours
    inputs.rotation.of_inputs(changed.reshape(-1, columns), factors=norm)
    return changed


def _with_output(values: FloatArray, linear: Linear, index: int) -> FloatArray:
    rotation = linear.outputs[index] if linear.outputs else None
    if rotation is None:
        return values
    changed = np.require(values, requirements=["C", "W"])
    rotation.of_outputs(changed)
    return changed


def _read(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], *, part: int | None = None) -> FloatArray:
    tensor = checkpoint.tensor(name, part=part)
    _check_shape(checkpoint, name, tensor.shape, shape)
    _check_finite(checkpoint, name, tensor)
    return tensor


def _check_shape(checkpoint: Checkpoint, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} has shape {list(found)}, the configuration says {list(expected)}"
        )


def _check_finite(checkpoint: Checkpoint, name: str, values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{checkpoint.file(name)}: tensor {name} holds NaN or infinity: the weights are damaged, get them again"
        )
