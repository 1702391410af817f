"""Tiny packed models of random weights and their step in NumPy, with the kernels' roundings (int8, the cache).

Legend: T tokens, H hidden, h and g query and key-value heads, d head features, E experts, V vocabulary, P positions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from flash_runtime.engine.batch import Batch, FloatArray
from flash_runtime.kernels import _native, reference
from flash_runtime.kernels.layout import LinearFormat, PackedLinear, pack_experts, pack_linear, unpack_linear

OUTER = ("embedding", "head")


@dataclass
class TinyModel:
    """What `CpuProvider` needs of a packed file, in a dict."""

    header: dict[str, Any]
    blobs: dict[str, Any] = field(default_factory=dict)

    def blob(self, name: str) -> Any:
        return self.blobs[name]

    @property
    def plan(self) -> dict[str, Any]:
        return self.header["model"]

    def without(self, name: str) -> TinyModel:
        return TinyModel(self.header, {key: blob for key, blob in self.blobs.items() if key != name})

    def with_blob(self, name: str, blob: Any) -> TinyModel:
        return TinyModel(self.header, {**self.blobs, name: blob})

    def with_plan(self, **changes: Any) -> TinyModel:
        return TinyModel({"model": {**copy.deepcopy(self.plan), **changes}}, self.blobs)


def build_tiny_model(
    *,
    hidden=72,
    heads=6,
    kv_heads=2,
    head_dim=12,
    vocab=101,
    width=90,
    experts=None,
    top_k=2,
    norms=None,
    bias=False,
    shared=None,
    factors=None,
    window=None,
    weight_format="int8",
    head_format="int8",
    wide=(),
) -> TinyModel:
    """Two layers; sizes are odd on purpose: nothing is a multiple of a register or a group."""
    rng = np.random.default_rng(7)
    blobs: dict[str, Any] = {}

    def linear(name, n, k, count=None):
        weight = (rng.standard_normal((count or 1, n, k)) / np.sqrt(k)).astype(np.float32)
        kind = LinearFormat("bf16" if name in wide else head_format if name in OUTER else weight_format)
        packed = pack_experts(weight, kind) if count else pack_linear(weight[0], kind)
        blobs.update({f"{name}.{part}": array for part, array in packed.parts.items()})
        return name

    def vector(name, *shape):
        blobs[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return name

    def layer(i):
        rows = (heads + 2 * kv_heads) * head_dim
        if bias:
            blobs[f"{i}.qkv.bias"] = rng.standard_normal(rows).astype(np.float32)
        mlp = {
            "kind": "moe" if experts else "dense",
            "gate_up": linear(f"{i}.gate_up", 2 * width, hidden, experts),
            "down": linear(f"{i}.down", hidden, width, experts),
            "width": width,
        }
        if experts:
            blobs[f"{i}.router"] = rng.standard_normal((experts, hidden)).astype(np.float32)
            mlp |= {"router": f"{i}.router", "num_experts": experts, "top_k": top_k, "normalise": i == 0}
        if shared:
            mlp["shared"] = {
                "gate": vector(f"{i}.shared.gate", hidden),
                "gate_up": linear(f"{i}.shared.gate_up", 2 * shared, hidden),
                "down": linear(f"{i}.shared.down", hidden, shared),
                "width": shared,
            }
        return {
            "attn_norm": vector(f"{i}.attn_norm", hidden),
            "qkv": linear(f"{i}.qkv", rows, hidden),
            "q_norm": vector(f"{i}.q_norm", head_dim * (heads if norms == "projection" else 1)) if norms else None,
            "k_norm": vector(f"{i}.k_norm", head_dim * (kv_heads if norms == "projection" else 1)) if norms else None,
            "qk_norm_over": norms or "head",
            "window": window if i == 0 else None,
            "o": linear(f"{i}.o", hidden, heads * head_dim),
            "mlp_norm": vector(f"{i}.mlp_norm", hidden),
            "mlp": mlp,
        }

    blobs["inv_freq"] = (10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    plan = {
        "family": "test",
        "hidden_size": hidden,
        "num_layers": 2,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "norm_eps": 1e-5,
        "max_context_tokens": 512,
        "rope_inv_freq": "inv_freq",
        "rope_scale": 1.25,
        "embedding": linear("embedding", vocab, hidden),
        "final_norm": vector("final_norm", hidden),
        "head": "embedding" if experts else linear("head", vocab, hidden),
        "weight_format": weight_format,
        "head_format": head_format,
        "wide": list(wide),
        "layers": [layer(0), layer(1)],
        **({f"{name}_factor": factor for name, factor in (factors or {}).items()}),
    }
    return TinyModel({"model": plan}, blobs)


def bf16(x: FloatArray) -> FloatArray:
    """x rounded to bfloat16, nearest even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)


def int8(x: FloatArray) -> FloatArray:
    """x rounded to int8, one scale for each vector of the last axis."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    values = np.rint(x * (np.float32(127) / largest)).clip(-127, 127)
    return (values * (largest / np.float32(127))).astype(np.float32)


def emulate_prompt(model: TinyModel, token_ids: Any, *, cache: str = "bfloat16") -> FloatArray:
    """Logits [T, V] of one whole sequence, computed token by token; keys and values are rounded as the cache does."""
    stored = {"bfloat16": bf16, "int8": int8}[cache]
    plan, blobs = model.plan, model.blobs
    heads, kv_heads, dim = plan["num_heads"], plan["num_kv_heads"], plan["head_dim"]
    tokens = len(token_ids)

    def factor(name, otherwise=1.0):
        return np.float32(plan.get(f"{name}_factor", otherwise))

    def norm(x, name):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(plan["norm_eps"])) * blobs[name]

    def packed(name):
        parts = {part: blobs[key] for part in ("weight", "scale", "min") if (key := f"{name}.{part}") in blobs}
        kind = "bf16" if name in plan["wide"] else plan["head_format" if name in OUTER else "weight_format"]
        return PackedLinear.of(parts, LinearFormat(kind))

    def linear(x, name, n):
        return reference.packed_linear(x, packed(name), n=n, bias=blobs.get(f"{name}.bias"))

    def turn(x):  # [T, heads, d]
        angles = np.arange(tokens, dtype=np.float32)[:, None, None] * blobs["inv_freq"]
        cosine, sine = (f(angles) * np.float32(plan["rope_scale"]) for f in (np.cos, np.sin))
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)

    def attention(x, layer):
        rows = linear(x, layer["qkv"], (heads + 2 * kv_heads) * dim).reshape(tokens, -1, dim)
        q, k, v = np.split(rows, [heads, heads + kv_heads], axis=1)
        if layer["q_norm"]:
            wide = (tokens, -1) if layer["qk_norm_over"] == "projection" else (tokens, -1, dim)
            q, k = (norm(x.reshape(wide), layer[n]).reshape(x.shape) for x, n in ((q, "q_norm"), (k, "k_norm")))
        q, k, v = turn(q), stored(turn(k)), stored(v)
        out = np.empty_like(q)
        for h in range(heads):
            scores = q[:, h] @ k[:, h * kv_heads // heads].T * factor("attention", dim**-0.5)  # [T, P]
            scores[np.triu_indices(tokens, 1)] = -np.inf
            if layer["window"]:
                scores[np.tril_indices(tokens, -layer["window"])] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, h] = weights / weights.sum(axis=1, keepdims=True) @ v[:, h * kv_heads // heads]
        return linear(out.reshape(tokens, -1), layer["o"], plan["hidden_size"])

    def moe(x, mlp):
        scores = x @ blobs[mlp["router"]].T
        routed = np.exp(scores - scores.max(axis=1, keepdims=True))
        routed /= routed.sum(axis=1, keepdims=True)
        chosen = np.argsort(-routed, axis=1, kind="stable")[:, : mlp["top_k"]]
        gates = np.take_along_axis(routed, chosen, axis=1)
        if mlp["normalise"]:
            gates /= gates.sum(axis=1, keepdims=True)
        experts = reference.Experts(packed(mlp["gate_up"]), packed(mlp["down"]), mlp["width"])
        out = reference.expert_ffn(x, experts, chosen.astype(np.int32), gates)
        if "shared" in mlp:
            share = 1 / (1 + np.exp(-(x @ blobs[mlp["shared"]["gate"]])))
            out += share[:, None] * dense(x, mlp["shared"])
        return out

    def mlp_of(x, mlp):
        return moe(x, mlp) if mlp["kind"] == "moe" else dense(x, mlp)

    def dense(x, mlp):
        gate, up = np.split(linear(x, mlp["gate_up"], 2 * mlp["width"]), 2, axis=1)
        return linear(reference.swiglu(gate, up), mlp["down"], plan["hidden_size"])

    table = unpack_linear(packed("embedding"), n=plan["vocab_size"], k=plan["hidden_size"])
    x = table[np.asarray(token_ids)]
    x = x * factor("embedding")
    for layer in plan["layers"]:
        x = x + attention(norm(x, layer["attn_norm"]), layer) * factor("residual")
        x = x + mlp_of(norm(x, layer["mlp_norm"]), layer["mlp"]) * factor("residual")
    return linear(norm(x, "final_norm"), plan["head"], plan["vocab_size"]) * factor("logits")


@dataclass(frozen=True)
class Piece:
    """The next tokens of one sequence: where they start and which blocks the sequence holds."""

    token_ids: Any
    start: int
    blocks: list[int]


def build_batch(*pieces: Piece) -> Batch:
    """One step over the pieces, logits for every token."""
    widest = max(len(piece.blocks) for piece in pieces)
    lengths = [len(piece.token_ids) for piece in pieces]
    tables = [piece.blocks + [-1] * (widest - len(piece.blocks)) for piece in pieces]
    positions = [np.arange(piece.start, piece.start + len(piece.token_ids)) for piece in pieces]
    return Batch(
        token_ids=np.concatenate([piece.token_ids for piece in pieces]).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        query_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        block_tables=np.array(tables, dtype=np.int32),
        logit_rows=np.arange(sum(lengths), dtype=np.int32),
    )


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., TinyModel]:
    return build_tiny_model


@pytest.fixture(scope="session")
def emulate() -> Callable[..., FloatArray]:
    return emulate_prompt


@pytest.fixture(scope="session")
def batch() -> Callable[..., Batch]:
    return build_batch


@pytest.fixture(scope="session")
def piece() -> type[Piece]:
    return Piece


@pytest.fixture(scope="session", params=_native.supported_isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set this machine can run."""
    return request.param
