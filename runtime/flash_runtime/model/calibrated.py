"""The linears of a model's layers, rounded for the inputs that a text gives them, from the first layer to the last.

The reference runs the text over the checkpoint; each linear it meets is rounded then and answers as its packed form
would, so later ones see what they will see when the model is served. In a SwiGLU the factors between up and down are
free: they even out what down reads, as far as that lowers the error of its outputs (SmoothQuant, Xiao et al. 2022,
arXiv 2211.10438). Experts that saw no token, and blocks a checkpoint holds in the format already, stay as they are.

One linear is in memory as floats at a time; of experts, the packed ones of one layer. Knows no file format.

Legend: N output features, K input features, T tokens that reach a linear, F width of a SwiGLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import Batch, FloatArray, IntArray
from flash_runtime.kernels.layout import LinearFormat, PackedLinear, pack_int4_blocks, pack_linear, unpack_linear
from flash_runtime.kernels.reference import swiglu
from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.families.recipe import (
    Linear,
    Recipe,
    read_bias,
    read_int4_blocks,
    read_vector,
    read_weight,
)
from flash_runtime.model.plan import MoeMlp
from flash_runtime.model.reference import ReferenceProvider, round_activations
from flash_runtime.model.rounding import Inputs, pack_rounded

METHOD: Final = "gptq-1"
"""Names what is done here in packed files; another number when the results change."""
_EXPONENTS: Final = (0.0, 0.15, 0.3, 0.45)
"""How far outliers move from down's inputs into its weights; the best is taken."""
_TOKENS_TO_COMPARE: Final = 256
_FEWEST_TO_COMPARE: Final = 16
"""With fewer tokens down's inputs stay as they are."""

Keep = Callable[[str, Sequence[PackedLinear]], None]
"""Told a linear's name and its packed form; for experts, those of the stack in order."""


def round_layers(checkpoint: Checkpoint, recipe: Recipe, windows: Sequence[IntArray], keep: Keep) -> None:
    """Round every linear of the layers for these windows of token ids. Raises CheckpointError for damaged weights."""
    lengths = [len(window) for window in windows]
    batch = Batch(
        token_ids=np.concatenate(windows).astype(np.int32),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        query_starts=np.cumsum([0, *lengths], dtype=np.int32),
        block_tables=np.arange(len(windows), dtype=np.int32)[:, None],
        logit_rows=np.zeros(1, dtype=np.int32),
    )
    weights = _RoundingWeights(checkpoint, recipe, keep)
    ReferenceProvider(recipe.plan, weights, num_blocks=len(windows), block_size=max(lengths)).step(batch)
    weights.finish()


class _RoundingWeights:
    """Implements `flash_runtime.model.reference.Weights`: rounds each linear when it is first asked for."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, keep: Keep) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._keep = keep
        self._downs = _downs(recipe)
        self._norms = {layer.attn_norm for layer in recipe.plan.layers} | {recipe.plan.final_norm}
        self._smoothing: dict[tuple[str, int | None], FloatArray] = {}
        self._stacks: dict[str, list[PackedLinear | None]] = {}

    def vector(self, name: str) -> FloatArray:
        if name == self._recipe.plan.rope_inv_freq:
            return self._recipe.rope_inv_freq
        if name in self._norms:  # the layer before it, and so its experts, are complete
            self.finish()
        return read_vector(self._checkpoint, self._recipe.vectors[name])

    def rows(self, name: str, indices: NDArray[np.int32]) -> FloatArray:
        used, where = np.unique(indices, return_inverse=True)
        rows = self._read(self._recipe.linears[name])[used]
        packed = pack_linear(rows, self._recipe.plan.linear_format(name))
        return unpack_linear(packed, n=len(rows), k=rows.shape[1])[where]

    def linear(self, name: str, x: FloatArray, *, expert: int | None = None) -> FloatArray:
        if name == self._recipe.plan.head:
            return np.zeros((len(x), 1), dtype=np.float32)  # nobody asks what the text's next token is
        linear = self._recipe.linears[name] if expert is None else self._recipe.experts[name][expert]
        rounded = round_activations(x)
        packed = self._packed(linear, name, expert, x, rounded)
        if expert is None:
            self._keep(name, [packed])
        else:
            self._stacks.setdefault(name, [None] * len(self._recipe.experts[name]))[expert] = packed
        out: FloatArray = rounded @ unpack_linear(packed, n=linear.num_rows, k=linear.columns).T
        return out + read_bias(self._checkpoint, linear) if linear.bias else out

    def finish(self) -> None:
        """Hand over the experts of the layer just done; those that no token reached are rounded to nearest."""
        for name, stack in self._stacks.items():
            for expert, linear in enumerate(self._recipe.experts[name]):
                if stack[expert] is None:
                    kept = self._as_it_is(linear)
                    stack[expert] = kept or pack_linear(self._read(linear), self._recipe.plan.weight_format)
            self._keep(name, [packed for packed in stack if packed is not None])
        self._stacks = {}

    def _packed(
        self, linear: Linear, name: str, expert: int | None, x: FloatArray, rounded: FloatArray
    ) -> PackedLinear:
        if (kept := self._as_it_is(linear)) is not None:
            return kept
        weight = self._read(linear)
        if (down := self._downs.get(name)) is not None:
            smoothing = self._smoothed(weight, x, down, expert)
            weight[len(weight) // 2 :] /= smoothing[:, None]
            self._smoothing[down, expert] = smoothing
        elif (factors := self._smoothing.pop((name, expert), None)) is not None:
            weight *= factors
        return pack_rounded(weight, self._recipe.plan.weight_format, Inputs.of(rounded))

    def _smoothed(self, gate_up: FloatArray, x: FloatArray, down: str, expert: int | None) -> FloatArray:
        """The factors [F] that up gives and down takes, from the tokens x [T, K] before gate and up."""
        width, plan = len(gate_up) // 2, self._recipe.plan
        linear = self._recipe.linears[down] if expert is None else self._recipe.experts[down][expert]
        if len(x) < _FEWEST_TO_COMPARE or self._as_it_is(linear) is not None:
            return np.ones(width, dtype=np.float32)
        weight = self._read(linear)
        inner = swiglu(*np.split(x @ gate_up.T, 2, axis=1))  # [T, F]
        largest = np.maximum(np.abs(inner).max(axis=0), np.float32(1e-6))  # [F]
        some = inner[:: max(1, len(inner) // _TOKENS_TO_COMPARE)]
        expected = some @ weight.T
        best, least = np.ones(width, dtype=np.float32), np.inf
        for exponent in _EXPONENTS:
            factors = largest ** np.float32(exponent)
            factors /= np.exp(np.log(factors).mean())
            packed = pack_linear(weight * factors, plan.weight_format)
            found = round_activations(some / factors) @ unpack_linear(packed, n=len(weight), k=width).T
            error = float(np.square(found - expected).sum())
            if error < least:
                best, least = factors, error
        return best

    def _as_it_is(self, linear: Linear) -> PackedLinear | None:
        """The checkpoint's own int4 blocks, where all modules have them and they are wanted."""
        if self._recipe.plan.weight_format is not LinearFormat.INT4:
            return None
        blocks = [read_int4_blocks(self._checkpoint, linear, index) for index in range(len(linear.modules))]
        found = [block for block in blocks if block is not None]
        if len(found) < len(blocks):
            return None
        q, d, m = (np.concatenate(arrays) for arrays in zip(*((b.q, b.d, b.m) for b in found), strict=True))
        return pack_int4_blocks(q, d, m)

    def _read(self, linear: Linear) -> FloatArray:
        return np.concatenate([read_weight(self._checkpoint, linear, index) for index in range(len(linear.modules))])


def _downs(recipe: Recipe) -> Mapping[str, str]:
    """The down of every gate and up, by their names."""
    pairs = {}
    for layer in recipe.plan.layers:
        parts = [layer.mlp, layer.mlp.shared] if isinstance(layer.mlp, MoeMlp) else [layer.mlp]
        pairs.update((part.gate_up, part.down) for part in parts if part is not None)
    return pairs
