"""The reference ops provider: the layer plan in NumPy float32, slow and obvious, to test every other one against.

It runs on a checkpoint's own weights, or on a packed file with the arithmetic of its formats: activations are rounded
to int8 per group of 64 features before int8 and int4 weights, to bfloat16 before bf16 ones; routing, norms and
attention are computed in float.

Legend: T tokens of the step, H hidden, N and K a linear's output and input features, h and g query and key-value heads,
d head features, E experts, V vocabulary, P positions a token may see.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import Answers, Batch, FloatArray
from flash_runtime.kernels.layout import (
    GROUP,
    LinearFormat,
    PackedLinear,
    from_bf16,
    part_shapes,
    to_bf16,
    unpack_linear,
)
from flash_runtime.kernels.reference import quantise
from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.families.recipe import Linear, Recipe, read_bias, read_vector, read_weight
from flash_runtime.model.plan import DenseMlp, LayerPlan, ModelPlan, MoeMlp, SharedExpert
from flash_runtime.packed import PackedFile


class Weights(Protocol):
    """Where the reference takes numbers from, by the plan's names."""

    def vector(self, name: str) -> FloatArray: ...

    def rows(self, name: str, indices: NDArray[np.int32]) -> FloatArray:
        """Rows of a linear's weight, [T, K]."""

    def linear(self, name: str, x: FloatArray, *, expert: int | None = None) -> FloatArray:
        """x [T, K] -> [T, N], bias included."""


class ReferenceProvider:
    """Implements `flash_runtime.engine.batch.Provider`."""

    def __init__(self, plan: ModelPlan, weights: Weights, *, num_blocks: int, block_size: int) -> None:
        self.vocab_size = plan.vocab_size
        self.max_context_tokens = plan.max_context_tokens
        self.window: int | None = None  # it gathers all of a sequence's blocks, also those that no layer sees
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._plan = plan
        self._weights = weights
        slots = (plan.num_layers, num_blocks, block_size, plan.num_kv_heads, plan.head_dim)
        self._keys = np.zeros(slots, dtype=np.float32)
        self._values = np.zeros(slots, dtype=np.float32)

    def step(self, batch: Batch) -> Answers:
        plan, weights = self._plan, self._weights
        residual = np.float32(plan.residual_factor)
        x = weights.rows(plan.embedding, batch.token_ids) * np.float32(plan.embedding_factor)  # [T, H]
        for index, layer in enumerate(plan.layers):
            x = x + residual * self._attention(index, layer, self._norm(x, layer.attn_norm), batch)
            x = x + residual * self._mlp(layer.mlp, self._norm(x, layer.mlp_norm))
        logits = weights.linear(plan.head, self._norm(x[batch.head_rows], plan.final_norm))  # [R + C, V]
        return Answers.of(logits * np.float32(plan.logits_factor), batch)

    def _norm(self, x: FloatArray, name: str) -> FloatArray:
        """RMS norm over the last axis."""
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
        normed: FloatArray = x / np.sqrt(mean_square + np.float32(self._plan.norm_eps)) * self._weights.vector(name)
        return normed

    def _attention(self, index: int, layer: LayerPlan, x: FloatArray, batch: Batch) -> FloatArray:
        plan = self._plan
        qkv = self._weights.linear(layer.qkv, x).reshape(len(x), -1, plan.head_dim)  # [T, h + 2 g, d]
        q, k, v = np.split(qkv, [plan.num_heads, plan.num_heads + plan.num_kv_heads], axis=1)
        q, k = self._head_norm(layer, q, layer.q_norm), self._head_norm(layer, k, layer.k_norm)
        q, k = self._turn(q, batch.positions), self._turn(k, batch.positions)
        out = np.empty_like(q)
        for sequence in range(len(batch.query_starts) - 1):
            tokens = slice(batch.query_starts[sequence], batch.query_starts[sequence + 1])
            blocks, positions = batch.block_tables[sequence], batch.positions[tokens]
            slots = (index, blocks[positions // self.block_size], positions % self.block_size)
            self._keys[slots], self._values[slots] = k[tokens], v[tokens]
            out[tokens] = self._attend(index, layer, q[tokens], blocks, positions)
        return self._weights.linear(layer.o, out.reshape(len(x), -1))

    def _head_norm(self, layer: LayerPlan, x: FloatArray, name: str | None) -> FloatArray:
        """The norm of queries or keys [T, heads, d], where there is one."""
        if name is None:
            return x
        together = x.reshape(len(x), -1) if layer.qk_norm_over == "projection" else x
        return self._norm(together, name).reshape(x.shape)

    def _attend(
        self, index: int, layer: LayerPlan, q: FloatArray, blocks: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> FloatArray:
        """One sequence's heads, each token over the positions that it sees. q [T, h, d] -> [T, h, d]."""
        plan = self._plan
        num_positions = int(positions.max()) + 1
        held = blocks[: -(-num_positions // self.block_size)]
        cached = (-1, plan.num_kv_heads, plan.head_dim)
        keys = self._keys[index, held].reshape(cached)[:num_positions].swapaxes(0, 1)  # [g, P, d]
        values = self._values[index, held].reshape(cached)[:num_positions].swapaxes(0, 1)
        grouped = q.reshape(len(q), plan.num_kv_heads, -1, plan.head_dim).swapaxes(0, 1)  # [g, T, h / g, d]
        scores = grouped @ keys[:, None].swapaxes(2, 3) * np.float32(plan.score_factor)  # [g, T, h / g, P]
        behind = positions[:, None] - np.arange(num_positions)  # [T, P]
        seen = (behind >= 0) & (behind < (layer.window or num_positions))
        attended = _softmax(np.where(seen[:, None], scores, -np.inf)) @ values[:, None]  # [g, T, h / g, d]
        out: FloatArray = attended.swapaxes(0, 1).reshape(q.shape)
        return out

    def _turn(self, x: FloatArray, positions: NDArray[np.int32]) -> FloatArray:
        """RoPE over the pairs (i, i + d/2). [T, heads, d]"""
        angles = positions[:, None, None].astype(np.float32) * self._weights.vector(self._plan.rope_inv_freq)
        scale = np.float32(self._plan.rope_scale)
        cosine, sine = np.cos(angles) * scale, np.sin(angles) * scale  # [T, 1, d / 2]
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)

    def _mlp(self, mlp: DenseMlp | MoeMlp, x: FloatArray) -> FloatArray:
        if isinstance(mlp, DenseMlp):
            return self._swiglu(mlp, x)
        routed = _softmax(x @ self._weights.vector(mlp.router).T)  # [T, E]
        chosen = np.argsort(-routed, axis=-1, kind="stable")[:, : mlp.top_k]  # [T, top_k]
        gates = np.take_along_axis(routed, chosen, axis=-1)
        if mlp.normalise:
            gates = gates / gates.sum(axis=-1, keepdims=True)
        out = np.zeros_like(x)
        for expert in np.unique(chosen):
            tokens, ranks = np.nonzero(chosen == expert)
            out[tokens] += gates[tokens, ranks, None] * self._swiglu(mlp, x[tokens], expert=int(expert))
        if mlp.shared is not None:
            share = 1 / (1 + np.exp(-(x @ self._weights.vector(mlp.shared.gate).reshape(-1))))  # [T]
            out += share[:, None] * self._swiglu(mlp.shared, x)
        return out

    def _swiglu(self, mlp: DenseMlp | MoeMlp | SharedExpert, x: FloatArray, *, expert: int | None = None) -> FloatArray:
        gate, up = np.split(self._weights.linear(mlp.gate_up, x, expert=expert), 2, axis=-1)
        silu = gate / (1 + np.exp(-gate))
        return self._weights.linear(mlp.down, silu * up, expert=expert)


class CheckpointWeights:
    """A checkpoint's own float weights, read when first used and kept."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._kept: dict[tuple[str, int | None], tuple[FloatArray, FloatArray | None]] = {}

    def vector(self, name: str) -> FloatArray:
        if name == self._recipe.plan.rope_inv_freq:
            return self._recipe.rope_inv_freq
        return read_vector(self._checkpoint, self._recipe.vectors[name])

    def rows(self, name: str, indices: NDArray[np.int32]) -> FloatArray:
        return self._read(name, None)[0][indices]

    def linear(self, name: str, x: FloatArray, *, expert: int | None = None) -> FloatArray:
        weight, bias = self._read(name, expert)
        return x @ weight.T if bias is None else x @ weight.T + bias

    def _read(self, name: str, expert: int | None) -> tuple[FloatArray, FloatArray | None]:
        if (name, expert) not in self._kept:
            linear = self._find(name, expert)
            weight = np.concatenate(
                [read_weight(self._checkpoint, linear, index) for index in range(len(linear.modules))]
            )
            self._kept[name, expert] = weight, read_bias(self._checkpoint, linear) if linear.bias else None
        return self._kept[name, expert]

    def _find(self, name: str, expert: int | None) -> Linear:
        return self._recipe.linears[name] if expert is None else self._recipe.experts[name][expert]


class PackedWeights:
    """The weights of a packed file, with activations rounded as the kernels round them."""

    def __init__(self, packed: PackedFile, plan: ModelPlan) -> None:
        self._packed = packed
        self._plan = plan
        self._shapes = plan.linear_shapes()
        self._kept: dict[tuple[str, int | None], FloatArray] = {}

    def vector(self, name: str) -> FloatArray:
        return self._packed.blob(name)

    def rows(self, name: str, indices: NDArray[np.int32]) -> FloatArray:
        return self.weight(name, None)[indices]

    def linear(self, name: str, x: FloatArray, *, expert: int | None = None) -> FloatArray:
        rounded = from_bf16(to_bf16(x)) if self._plan.linear_format(name) is LinearFormat.BF16 else round_activations(x)
        out: FloatArray = rounded @ self.weight(name, expert).T
        return out + self._packed.blob(f"{name}.bias") if f"{name}.bias" in self._packed.blobs else out

    def weight(self, name: str, expert: int | None) -> FloatArray:
        """The dequantised weight [N, K] of a linear, or of one of a stack."""
        if (name, expert) not in self._kept:
            (n, k), format = self._shapes[name], self._plan.linear_format(name)
            parts = {part: self._packed.blob(f"{name}.{part}") for part in part_shapes(format, n, k)}
            linear = PackedLinear.of(parts, format)
            self._kept[name, expert] = unpack_linear(linear if expert is None else linear.expert(expert), n=n, k=k)
        return self._kept[name, expert]


def round_activations(x: FloatArray) -> FloatArray:
    """What remains of x [T, K] after symmetric int8 rounding per group of features."""
    rows = quantise(x)
    groups = rows.values.reshape(len(x), -1, GROUP).astype(np.float32)
    rounded: FloatArray = (groups * rows.scale[:, :, None]).reshape(len(x), -1)[:, : x.shape[1]]
    return rounded


def _softmax(x: FloatArray) -> FloatArray:
    exponents = np.exp(x - x.max(axis=-1, keepdims=True))
    result: FloatArray = exponents / exponents.sum(axis=-1, keepdims=True)
    return result
