"""The CPU ops provider: one native call per engine step, weights read in place from the packed file.

Knows the plan and the batch; knows nothing of requests, scheduling or text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import Answers, Batch, IntArray
from flash_runtime.kernels import _native
from flash_runtime.kernels.info import CpuInfo, cpu_info
from flash_runtime.kernels.layout import LANES
from flash_runtime.kernels.weights import Packed, Weights, check_plan
from flash_runtime.model.plan import ModelPlan

MIN_CACHED_TOKENS: Final = 64
"""A cache below this holds no useful request, so it is a mistake in the configuration."""
_MAX_BLOCKS: Final = 2**31 - 1
_SCALE_BYTES: Final = 4


class KvDtype(StrEnum):
    """How keys and values are stored; int8 has a scale per token and head, and room for nearly twice the tokens."""

    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class CpuProvider:
    """Implements `flash_runtime.engine.batch.Provider` for packed models of every weight format.

    A token's logits depend on its own sequence only: not on the batch around it, on how its prompt was cut into
    steps, on the number of threads or on the instruction set. Safe to call from several threads; steps queue up.
    """

    def __init__(
        self,
        packed: Packed,
        *,
        kv_cache_bytes: int,
        block_size: int = 16,
        kv_dtype: KvDtype = KvDtype.BFLOAT16,
        threads: int | None = None,
        isa: str | None = None,
        active_experts: int | None = None,
    ) -> None:
        """`active_experts` replaces the model's own number of experts per token.

        Raises ValueError for a plan or blob that does not fit, or a cache too small for one small request.
        """
        plan = ModelPlan.from_json(packed.header["model"])
        if active_experts is not None:
            plan = plan.with_active_experts(active_experts)
        check_plan(plan)
        if block_size < LANES or block_size % LANES:
            raise ValueError(f"block_size ({block_size}) must be a positive multiple of {LANES}")
        self.info: CpuInfo = cpu_info(isa=isa, threads=threads)
        self.vocab_size = plan.vocab_size
        self.max_context_tokens = plan.max_context_tokens
        self.window = plan.window
        self.block_size = block_size
        self.num_blocks = _num_blocks(plan, kv_cache_bytes, block_size, kv_dtype)
        weights = Weights(packed, plan)
        self._engine = _native.Engine(
            hidden=plan.hidden_size,
            heads=plan.num_heads,
            kv_heads=plan.num_kv_heads,
            head_dim=plan.head_dim,
            vocab=plan.vocab_size,
            norm_epsilon=plan.norm_eps,
            max_positions=plan.max_context_tokens,
            rope_inv_freq=weights.vector(plan.rope_inv_freq, plan.head_dim // 2),
            rope_scale=plan.rope_scale,
            embedding_factor=plan.embedding_factor,
            score_factor=plan.score_factor,
            residual_factor=plan.residual_factor,
            logits_factor=plan.logits_factor,
            embedding=weights.linear(plan.embedding, n=plan.vocab_size, k=plan.hidden_size),
            final_norm=weights.vector(plan.final_norm, plan.hidden_size),
            head=weights.linear(plan.head, n=plan.vocab_size, k=plan.hidden_size),
            layers=[weights.layer(layer) for layer in plan.layers],
            arrays=weights.arrays,
            isa=self.info.isa,
            threads=self.info.threads,
            num_blocks=self.num_blocks,
            block_size=block_size,
            int8_cache=kv_dtype is KvDtype.INT8,
        )

    def step(self, batch: Batch) -> Answers:
        """Run the batch; raises ValueError, before computing anything, if an index is out of its range."""
        count = len(batch.logit_rows)
        logits = np.empty((count + len(batch.best_rows), self.vocab_size), dtype=np.float32)  # [R + C, V]
        best = np.empty(len(batch.best_rows), dtype=np.int32)  # [C]
        self._engine.step(
            _ints(batch.token_ids),
            _ints(batch.positions),
            _ints(batch.query_starts),
            _ints(batch.block_tables),
            _ints(batch.logit_rows),
            _ints(batch.best_rows),
            logits,
            best,
            self.vocab_size,
        )
        return Answers(logits[:count], best)

    def expert_load(self) -> NDArray[np.int64] | None:
        """Tokens that chose each expert since the start [layers, experts]; None for a dense model.

        Safe to call during a step; dense layers, and experts a layer lacks, count zero.
        """
        if self._engine.most_experts == 0:
            return None
        load = np.empty((self._engine.num_layers, self._engine.most_experts), dtype=np.int64)
        self._engine.expert_load(load)
        return load


def block_bytes(plan: ModelPlan, block_size: int, kv_dtype: KvDtype = KvDtype.BFLOAT16) -> int:
    """Bytes of one block of keys and values over all layers; values are padded to whole registers."""
    value_dim = -(-plan.head_dim // LANES) * LANES
    elements = plan.head_dim + value_dim
    of_one = elements + 2 * _SCALE_BYTES if kv_dtype is KvDtype.INT8 else 2 * elements  # token and head
    return plan.num_layers * plan.num_kv_heads * block_size * of_one


def _num_blocks(plan: ModelPlan, kv_cache_bytes: int, block_size: int, kv_dtype: KvDtype) -> int:
    one = block_bytes(plan, block_size, kv_dtype)
    needed = -(-min(MIN_CACHED_TOKENS, plan.max_context_tokens) // block_size)
    if kv_cache_bytes < needed * one:
        raise ValueError(
            f"kv_cache_bytes ({kv_cache_bytes}) must be at least {needed * one}: {needed} blocks of {block_size} "
            f"tokens at {one} bytes each"
        )
    return min(kv_cache_bytes // one, _MAX_BLOCKS)


def _ints(array: IntArray) -> IntArray:
    return np.ascontiguousarray(array, dtype=np.int32)
