"""The CUDA ops provider: the layer plan in torch operations, its int8 linears in triton-lang. Right first, fast later.

It runs on a GPU; with triton-lang's interpreter (TRITON_INTERPRET=1) it runs on CPU tensors, for tests. Knows the plan
and the batch; knows nothing of requests, scheduling or text.

Legend: T tokens of the step, H hidden, h and g query and key-value heads, d head features, R rows of logits, C rows of
which only the best token is wanted, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from flash_runtime.engine.batch import Answers, Batch, FloatArray
from flash_runtime.kernels.cuda.attention import PagedCache, attend, turn
from flash_runtime.kernels.cuda.extra import torch, triton
from flash_runtime.kernels.cuda.linear import Linear
from flash_runtime.kernels.cuda.mlp import Moe, Swiglu
from flash_runtime.kernels.cuda.placement import Bounds, Placement, place
from flash_runtime.kernels.cuda.weights import Weights
from flash_runtime.model.plan import LayerPlan, ModelPlan
from flash_runtime.packed import PackedFile

CacheDtype = Literal["bfloat16", "float32"]
_VARIANT: Final = "Lite"


@dataclass(frozen=True)
class _Layer:
    plan: LayerPlan
    attn_norm: Any  # f32 [H]
    qkv: Linear
    q_norm: Any | None  # f32 [d], or [h * d] over all heads together
    k_norm: Any | None
    o: Linear
    mlp_norm: Any  # f32 [H]
    mlp: Swiglu | Moe


@dataclass(frozen=True)
class _Step:
    """What every layer needs to know of the batch."""

    placement: Placement
    slots: Any  # int64 [T]
    positions: Any  # int64 [T]
    cosine: Any  # f32 [T, 1, d / 2]
    sine: Any


class CudaProvider:
    """Implements `flash_runtime.engine.batch.Provider` for packed models of the variant Lite. One thread at a time.

    The int8 linears give a row the same bits whatever is beside it; torch promises no such thing of the rest.
    """

    def __init__(
        self,
        packed: PackedFile,
        *,
        kv_cache_bytes: int,
        block_size: int = 16,
        device: str = "cuda",
        cache_dtype: CacheDtype = "bfloat16",
        active_experts: int | None = None,
    ) -> None:
        """Raises ValueError for a device that is not there, a plan or blob that does not fit, or too small a cache."""
        self._device = _device(device)
        if (variant := packed.header.get("variant")) != _VARIANT:
            raise ValueError(
                f"{packed.path}: variant is {variant}, the `cuda` provider runs {_VARIANT}; pull it as that"
            )
        plan = ModelPlan.from_json(packed.header["model"])
        if plan.wide:
            raise ValueError(
                f"{packed.path}: linears of it are bf16 (wide), the `cuda` provider runs int8; pack it without "
                "--calibrate"
            )
        if active_experts is not None:
            plan = plan.with_active_experts(active_experts)
        if plan.num_heads % plan.num_kv_heads or plan.head_dim % 2:
            raise ValueError(
                f"num_heads ({plan.num_heads}) must be a multiple of num_kv_heads ({plan.num_kv_heads}) "
                f"and head_dim ({plan.head_dim}) even"
            )
        dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[cache_dtype]
        one = 2 * plan.num_layers * block_size * plan.num_kv_heads * plan.head_dim * dtype.itemsize
        if kv_cache_bytes < one:
            raise ValueError(
                f"kv_cache_bytes ({kv_cache_bytes}) must be at least {one}: one block of {block_size} tokens"
            )
        self.vocab_size = plan.vocab_size
        self.max_context_tokens = plan.max_context_tokens
        self.window: int | None = None  # it gathers all of a sequence's blocks, also those that no layer sees
        self.num_blocks = kv_cache_bytes // one
        self.block_size = block_size
        self._plan = plan
        weights = Weights(packed, plan, self._device)
        self._inv_freq = weights.vector(plan.rope_inv_freq, plan.head_dim // 2)
        self._embedding = weights.linear(plan.embedding)
        self._layers = [_layer(weights, plan, layer) for layer in plan.layers]
        self._final_norm = weights.vector(plan.final_norm, plan.hidden_size)
        self._head = weights.linear(plan.head)
        self._cache = PagedCache(
            layers=plan.num_layers,
            slots=self.num_blocks * block_size,
            kv_heads=plan.num_kv_heads,
            head_dim=plan.head_dim,
            dtype=dtype,
            device=self._device,
        )

    def step(self, batch: Batch) -> Answers:
        """Run the batch; raises ValueError, before computing anything, if an index is out of its range."""
        bounds = Bounds(self.vocab_size, self.max_context_tokens, self.num_blocks, self.block_size)
        placement = place(batch, bounds)
        with torch.inference_mode():
            logits: FloatArray = self._run(batch, placement).cpu().numpy()
        return Answers.of(logits, batch)

    def _run(self, batch: Batch, placement: Placement) -> Any:
        plan = self._plan
        step = self._prepare(batch, placement)
        x = self._embedding.rows(self._indices(batch.token_ids), plan.hidden_size) * plan.embedding_factor  # [T, H]
        for index, layer in enumerate(self._layers):
            x = x + plan.residual_factor * self._attention(index, layer, self._norm(x, layer.attn_norm), step)
            x = x + plan.residual_factor * layer.mlp(self._norm(x, layer.mlp_norm))
        wanted = x[self._indices(batch.head_rows)]
        return self._head(self._norm(wanted, self._final_norm)) * plan.logits_factor  # [R + C, V]

    def _prepare(self, batch: Batch, placement: Placement) -> _Step:
        positions = self._indices(batch.positions)
        angles = positions[:, None, None].to(torch.float32) * self._inv_freq  # [T, 1, d / 2]
        return _Step(
            placement=placement,
            slots=self._indices(placement.slots),
            positions=positions,
            cosine=torch.cos(angles) * self._plan.rope_scale,
            sine=torch.sin(angles) * self._plan.rope_scale,
        )

    def _attention(self, index: int, layer: _Layer, x: Any, step: _Step) -> Any:
        plan = self._plan
        qkv = layer.qkv(x).reshape(len(x), -1, plan.head_dim)  # [T, h + 2 g, d]
        q, k, v = qkv.split([plan.num_heads, plan.num_kv_heads, plan.num_kv_heads], dim=1)
        q, k = self._head_norm(layer, q, layer.q_norm), self._head_norm(layer, k, layer.k_norm)
        q, k = turn(q, step.cosine, step.sine), turn(k, step.cosine, step.sine)
        self._cache.write(index, step.slots, k, v)
        factor, window = plan.score_factor, layer.plan.window
        out = attend(q, self._cache, index, step.placement, step.positions, factor=factor, window=window)
        return layer.o(out.reshape(len(x), -1))

    def _head_norm(self, layer: _Layer, x: Any, weight: Any | None) -> Any:
        """The norm of queries or keys [T, heads, d], where there is one."""
        if weight is None:
            return x
        together = x.reshape(len(x), -1) if layer.plan.qk_norm_over == "projection" else x
        return self._norm(together, weight).reshape(x.shape)

    def _norm(self, x: Any, weight: Any) -> Any:
        """RMS norm over the last axis."""
        return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + self._plan.norm_eps) * weight

    def _indices(self, values: Any) -> Any:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _layer(weights: Weights, plan: ModelPlan, layer: LayerPlan) -> _Layer:
    together = layer.qk_norm_over == "projection"
    q_size, k_size = (
        heads * plan.head_dim if together else plan.head_dim for heads in (plan.num_heads, plan.num_kv_heads)
    )
    return _Layer(
        plan=layer,
        attn_norm=weights.vector(layer.attn_norm, plan.hidden_size),
        qkv=weights.linear(layer.qkv),
        q_norm=None if layer.q_norm is None else weights.vector(layer.q_norm, q_size),
        k_norm=None if layer.k_norm is None else weights.vector(layer.k_norm, k_size),
        o=weights.linear(layer.o),
        mlp_norm=weights.vector(layer.mlp_norm, plan.hidden_size),
        mlp=weights.mlp(layer.mlp, plan.hidden_size),
    )


def _device(name: str) -> Any:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device ({name}): torch finds no CUDA GPU here; the `cuda` provider needs one")
    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise ValueError(f"device ({name}): only triton-lang's interpreter runs there; start with TRITON_INTERPRET=1")
    return device
