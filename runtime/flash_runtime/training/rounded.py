"""A decoder that computes in the engine's number formats, so that training can get used to them. Needs torch.

Forward it rounds as a packed model does: weights to int8 with a scale for each output feature (W8A8, the variant
`Lite`) or to int4 in blocks of 32 input features (W4A8, `Nano`), by the very functions that pack them; what stands
before a weight to int8 per token and group of 64 features; embedding and head to int8. Backward it does as if nothing
were rounded (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432).

Legend: N output features, K input features, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from flash_runtime.kernels.layout import (
    GROUP,
    MAX_INT8,
    SMALLEST_MAX,
    FloatArray,
    LinearFormat,
    pack_linear,
    unpack_linear,
)
from flash_runtime.training.network import Decoder, Mlp, Trace

Parts = tuple[tuple[int, float], ...]
"""The engine's linears that one matrix here holds side by side: input features of each, and what it is multiplied by
where it is packed."""


class RoundedDecoder:
    """A decoder seen through the engine's formats. It changes the decoder's embedding and what its modules take.

    Used as one decoder for each format: `at(format)`.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._parts: dict[str, Parts] = {}
        self._fixed: dict[tuple[str, LinearFormat], Tensor] = {}
        for name, module in decoder.named_modules():
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] not in ("router", "shared_gate"):
                parts = _parts(decoder, name)
                self._parts[f"{name}.weight"] = parts
                widths = [width for width, _ in parts]
                module.register_forward_pre_hook(partial(_round_input, widths=widths))
        decoder.norm.register_forward_hook(_round_output)
        decoder.embedding = torch.from_numpy(_unpacked(decoder.embedding.float().numpy(), LinearFormat.INT8))

    def at(self, format: LinearFormat) -> RoundedAt:
        """The decoder with weights of this format."""
        return RoundedAt(self._decoder, partial(self._weights, format))

    def _weights(self, format: LinearFormat) -> dict[str, Tensor]:
        """Every rounded matrix by its name; those that are not trained are rounded once."""
        found = {}
        parameters = dict(self._decoder.named_parameters())
        for name, parts in self._parts.items():
            parameter, key = parameters[name], (name, format)
            if parameter.requires_grad:
                found[name] = _StraightThrough.apply(parameter, _rounded_parts(parameter, parts, format))
                continue
            if key not in self._fixed:
                self._fixed[key] = _rounded_parts(parameter, parts, format)
            found[name] = self._fixed[key]
        return found


class RoundedAt:
    """Called like a `Decoder`."""

    def __init__(self, decoder: Decoder, weights: Callable[[], dict[str, Tensor]]) -> None:
        self._decoder = decoder
        self._weights = weights
        self.embedding = decoder.embedding

    def __call__(self, token_ids: Tensor) -> Trace:
        found: Trace = torch.func.functional_call(self._decoder, self._weights(), (token_ids,))
        return found


def round_activations(x: Tensor, widths: Sequence[int]) -> Tensor:
    """What int8 leaves of x [..., K], per group of features, with the gradient of x. Groups end where a linear does."""
    parts = [_rounded_groups(part) for part in x.detach().float().split(list(widths), dim=-1)]
    rounded: Tensor = _StraightThrough.apply(x, torch.cat(parts, dim=-1).to(x.dtype))
    return rounded


class _StraightThrough(torch.autograd.Function):  # type: ignore[misc] # torch is not installed where types are checked
    """The rounded values going forward, the gradient of the exact ones going back."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _rounded_groups(x: Tensor) -> Tensor:
    """`flash_runtime.kernels.reference.quantise` and back, in torch."""
    features = x.shape[-1]
    groups = F.pad(x, (0, -features % GROUP)).unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(dim=-1, keepdim=True)
    empty = largest < SMALLEST_MAX
    inverse = torch.where(empty, 0.0, MAX_INT8 / torch.where(empty, 1.0, largest))
    values = (groups * inverse).round().clamp(-MAX_INT8, MAX_INT8)
    scale = torch.where(empty, 0.0, largest / MAX_INT8)
    return (values * scale).flatten(-2)[..., :features]


def _rounded_parts(parameter: Tensor, parts: Parts, format: LinearFormat) -> Tensor:
    """What the packed model holds of a matrix, part by part."""
    weight: FloatArray = parameter.detach().float().numpy()
    found, start = [], 0
    for width, factor in parts:
        part = weight[:, start : start + width] * np.float32(factor)
        found.append(torch.from_numpy(_unpacked(part, format) / np.float32(factor)))
        start += width
    return torch.cat(found, dim=1)


def _unpacked(weight: FloatArray, format: LinearFormat) -> FloatArray:
    n, k = weight.shape
    return unpack_linear(pack_linear(weight, format), n=n, k=k)


def _parts(decoder: Decoder, name: str) -> Parts:
    """A sparse layer's `down` is the shared expert's and those of the routed ones (see `model.derived`)."""
    owner, _, part = name.rpartition(".")
    mlp = decoder.get_submodule(owner)
    if part == "down_proj" and isinstance(mlp, Mlp) and mlp.sparse is not None:
        sparse = mlp.sparse
        return ((sparse.shared_width, 2.0), *[(sparse.expert_width, float(sparse.experts))] * sparse.experts)
    return ((int(decoder.get_submodule(name).in_features), 1.0),)


def _round_input(module: nn.Module, inputs: tuple[Tensor, ...], *, widths: Sequence[int]) -> tuple[Tensor, ...]:
    return (round_activations(inputs[0], widths),)


def _round_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The head reads rounded activations too."""
    return round_activations(output, (output.shape[-1],))
