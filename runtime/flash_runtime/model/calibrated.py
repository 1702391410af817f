"""The linears of a model, rounded for the inputs that a text gives them, from the first layer to the head.

The reference runs the text over the checkpoint; each linear it meets is rounded then and answers as its packed form
would, so later ones see what they will see when the model is served. In a SwiGLU the factors between up and down are
free: they even out what down reads, as far as that lowers the error of its outputs (SmoothQuant, Xiao et al. 2022,
arXiv 2211.10438). A few downs may round badly all the same, because some of their weights or inputs are a hundred
times as large as others (Yu et al. 2024, arXiv 2411.07191): those are kept in bf16, as long as they are few. Experts
that saw no token, and blocks a checkpoint holds in the format already, stay as they are, and so does a head that is
the embedding too.

One linear is in memory as floats at a time; of experts, the packed ones of one layer. Knows no file format.

Legend: N output features, K input features, T tokens that reach a linear, F width of a SwiGLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import Batch, FloatArray, IntArray
from flash_runtime.kernels.layout import (
    LANES,
    LinearFormat,
    PackedLinear,
    from_bf16,
    pack_int4_blocks,
    pack_linear,
    part_shapes,
    to_bf16,
    unpack_linear,
)
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
from flash_runtime.model.plan import DenseMlp, ModelPlan, MoeMlp
from flash_runtime.model.reference import ReferenceProvider, round_activations
from flash_runtime.model.rounding import Inputs, pack_rounded

METHOD: Final = "gptq-2"
"""Names what is done here in packed files; another number when the results change."""
_EXPONENTS: Final = (0.0, 0.15, 0.3, 0.45)
"""How far outliers move from down's inputs into its weights; the best is taken."""
_TOKENS_TO_COMPARE: Final = 256
_FEWEST_TO_COMPARE: Final = 16
"""With fewer tokens down's inputs stay as they are."""
_ROUGH: Final = 2e-5
"""A down whose rounding moves the residual stream by more than this share of its energy is kept in bf16. On the demo
model most downs move it by 1e-5, and four of thirty by 2.6e-5 to 2.5e-4."""
_WIDE_BYTES: Final = 0.03
"""What such downs may add to the weights that a step reads."""
_ROWS_AT_ONCE: Final = 256 * LANES
"""Rows of a linear that are rounded together: a head is large."""

Keep = Callable[[str, Sequence[PackedLinear]], None]
"""Told a linear's name and its packed form; for experts, those of the stack in order."""


def round_layers(checkpoint: Checkpoint, recipe: Recipe, windows: Sequence[IntArray], keep: Keep) -> tuple[str, ...]:
    """Round every linear but the embedding for these windows of token ids; the names of those kept in bf16.

    Raises CheckpointError for damaged weights.
    """
    lengths = [len(window) for window in windows]
    batch = Batch(
        token_ids=np.concatenate(windows).astype(np.int32),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        query_starts=np.cumsum([0, *lengths], dtype=np.int32),
        block_tables=np.arange(len(windows), dtype=np.int32)[:, None],
        logit_rows=np.arange(sum(lengths), dtype=np.int32),
    )
    weights = _RoundingWeights(checkpoint, recipe, keep)
    ReferenceProvider(recipe.plan, weights, num_blocks=len(windows), block_size=max(lengths)).step(batch)
    weights.finish()
    return tuple(weights.wide)


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
        plan = recipe.plan
        dense = plan.dense_downs() if all(isinstance(layer.mlp, DenseMlp) for layer in plan.layers) else set()
        # What the linears of dense layers add to the stream is what they return, so that it can be followed here.
        self._adding = {layer.o for layer in plan.layers} | dense if dense else set()
        self._stream: FloatArray = np.empty(0, dtype=np.float32)  # [T, H] where it is followed
        self._wide_bytes_left = _WIDE_BYTES * _packed_bytes(plan)
        self.wide: list[str] = []

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
        found: FloatArray = unpack_linear(packed, n=len(rows), k=rows.shape[1])[where]
        self._stream = found * np.float32(self._recipe.plan.embedding_factor)
        return found

    def linear(self, name: str, x: FloatArray, *, expert: int | None = None) -> FloatArray:
        plan = self._recipe.plan
        nothing = np.zeros((len(x), 1), dtype=np.float32)  # nobody asks what the text's next token is
        if name == plan.embedding:
            return nothing
        linear = self._recipe.linears[name] if expert is None else self._recipe.experts[name][expert]
        rounded = round_activations(x)
        packed = self._packed(linear, name, expert, x, rounded)
        if expert is None:
            self._keep(name, [packed])
        else:
            self._stacks.setdefault(name, [None] * len(self._recipe.experts[name]))[expert] = packed
        if name == plan.head:
            return nothing
        read = from_bf16(to_bf16(x)) if packed.format is LinearFormat.BF16 else rounded
        out: FloatArray = read @ unpack_linear(packed, n=linear.num_rows, k=linear.columns).T
        if linear.bias:
            out += read_bias(self._checkpoint, linear)
        if name in self._adding:
            self._stream += np.float32(plan.residual_factor) * out
        return out

    def finish(self) -> None:
        """Hand over the experts of the layer just done; those that no token reached are rounded to nearest."""
        for name, stack in self._stacks.items():
            for expert, linear in enumerate(self._recipe.experts[name]):
                if stack[expert] is None:
                    kept = self._as_it_is(linear, self._recipe.plan.weight_format)
                    stack[expert] = kept or pack_linear(self._read(linear), self._recipe.plan.weight_format)
            self._keep(name, [packed for packed in stack if packed is not None])
        self._stacks = {}

    def _packed(
        self, linear: Linear, name: str, expert: int | None, x: FloatArray, rounded: FloatArray
    ) -> PackedLinear:
        format = self._recipe.plan.linear_format(name)
        if (kept := self._as_it_is(linear, format)) is not None:
            return kept
        weight = self._read(linear)
        if (down := self._downs.get(name)) is not None:
            smoothing = self._smoothed(weight, x, down, expert)
            weight[len(weight) // 2 :] /= smoothing[:, None]
            self._smoothing[down, expert] = smoothing
        elif (factors := self._smoothing.pop((name, expert), None)) is not None:
            weight *= factors
        inputs = Inputs.of(rounded)
        blocks = (weight[start : start + _ROWS_AT_ONCE] for start in range(0, len(weight), _ROWS_AT_ONCE))
        packed = _joined([pack_rounded(block, format, inputs) for block in blocks])
        return self._wide(name, weight) if self._is_rough(name, packed, weight, x, rounded) else packed

    def _is_rough(
        self, name: str, packed: PackedLinear, weight: FloatArray, x: FloatArray, rounded: FloatArray
    ) -> bool:
        """Whether the down's rounding shows in the stream, and there is room to keep it wide."""
        plan = self._recipe.plan
        if plan.weight_format is not LinearFormat.INT8 or weight.size > self._wide_bytes_left:
            return False  # int4 moves the stream everywhere
        if name not in self._adding or name not in plan.dense_downs():
            return False
        some = slice(None, None, max(1, len(x) // _TOKENS_TO_COMPARE))
        added = x[some] @ weight.T
        error = rounded[some] @ unpack_linear(packed, n=len(weight), k=weight.shape[1]).T - added
        factor = np.float32(plan.residual_factor)
        after = np.square(self._stream[some] + factor * added).sum(axis=1)
        shares = np.square(factor * error).sum(axis=1) / np.maximum(after, np.finfo(np.float32).tiny)
        return bool(shares.mean() > _ROUGH)

    def _wide(self, name: str, weight: FloatArray) -> PackedLinear:
        self.wide.append(name)
        self._wide_bytes_left -= weight.size
        return pack_linear(weight, LinearFormat.BF16)

    def _smoothed(self, gate_up: FloatArray, x: FloatArray, down: str, expert: int | None) -> FloatArray:
        """The factors [F] that up gives and down takes, from the tokens x [T, K] before gate and up."""
        width, plan = len(gate_up) // 2, self._recipe.plan
        linear = self._recipe.linears[down] if expert is None else self._recipe.experts[down][expert]
        if len(x) < _FEWEST_TO_COMPARE or self._as_it_is(linear, plan.weight_format) is not None:
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

    def _as_it_is(self, linear: Linear, format: LinearFormat) -> PackedLinear | None:
        """The checkpoint's own int4 blocks, where all modules have them and they are wanted."""
        if format is not LinearFormat.INT4:
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
    pairs: dict[str, str] = {}
    for layer in recipe.plan.layers:
        parts = [layer.mlp, layer.mlp.shared] if isinstance(layer.mlp, MoeMlp) else [layer.mlp]
        pairs.update((part.gate_up, part.down) for part in parts if part is not None)
    return pairs


def _joined(blocks: Sequence[PackedLinear]) -> PackedLinear:
    """One linear from the packed forms of its rows, each but the last of whole lines."""
    if len(blocks) == 1:
        return blocks[0]
    parts = {part: np.concatenate([block.parts[part] for block in blocks]) for part in blocks[0].parts}
    return PackedLinear.of(parts, blocks[0].format)


def _packed_bytes(plan: ModelPlan) -> int:
    """Of the linears that every step reads."""
    shapes = plan.linear_shapes()
    return sum(
        int(np.prod(part.shape)) * np.dtype(part.dtype).itemsize
        for name, (n, k) in shapes.items()
        if name != plan.embedding or plan.head == plan.embedding
        for part in part_shapes(plan.linear_format(name), n, k).values()
    )
