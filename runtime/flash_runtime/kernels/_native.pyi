"""The compiled module, as `native/module.cpp` and `native/probes.cpp` bind it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]
_Bits = NDArray[np.uint16]

class Linear:
    @staticmethod
    def int8(
        weight: NDArray[np.uint8], scale: _Floats, bias: _Floats | None, features: int, inputs: int, experts: int
    ) -> Linear: ...
    @staticmethod
    def int4(
        weight: NDArray[np.uint8],
        scale: _Bits,
        min: _Bits,
        bias: _Floats | None,
        features: int,
        inputs: int,
        experts: int,
    ) -> Linear: ...
    @staticmethod
    def bf16(weight: _Bits, bias: _Floats | None, features: int, inputs: int, experts: int) -> Linear: ...

class Swiglu:
    @staticmethod
    def of(gate_up: Linear, down: Linear, width: int) -> Swiglu: ...

class Layer:
    @staticmethod
    def of(
        attn_norm: _Floats,
        qkv: Linear,
        q_norm: _Floats | None,
        k_norm: _Floats | None,
        norm_together: bool,
        window: int,
        o: Linear,
        mlp_norm: _Floats,
        router: _Floats | None,
        experts: int,
        top_k: int,
        normalise: bool,
        mlp: Swiglu,
        shared: Swiglu | None,
        shared_gate: _Floats | None,
    ) -> Layer: ...

class Engine:
    def __init__(
        self,
        *,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        vocab: int,
        norm_epsilon: float,
        max_positions: int,
        rope_inv_freq: _Floats,
        rope_scale: float,
        embedding_factor: float,
        score_factor: float,
        residual_factor: float,
        logits_factor: float,
        embedding: Linear,
        final_norm: _Floats,
        head: Linear,
        layers: Sequence[Layer],
        arrays: Sequence[NDArray[Any]],
        isa: str,
        threads: int,
        num_blocks: int,
        block_size: int,
        int8_cache: bool,
    ) -> None: ...
    def step(
        self,
        token_ids: _Ints,
        positions: _Ints,
        query_starts: _Ints,
        block_tables: _Ints,
        logit_rows: _Ints,
        best_rows: _Ints,
        logits: _Floats,
        best: _Ints,
        vocab: int,
    ) -> None: ...
    def expert_load(self, out: NDArray[np.int64]) -> None: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def most_experts(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...

def supported_isas() -> list[str]: ...
def quantise(isa: str, x: _Floats, values: NDArray[np.int8], scale: _Floats, offset: _Ints) -> None: ...
def linear(isa: str, x: _Floats, layer: Linear, out: _Floats) -> None: ...
def read_row(layer: Linear, feature: int, factor: float, out: _Floats) -> None: ...
def swiglu(isa: str, gate: _Floats, up: _Floats, out: _Floats) -> None: ...
def softmax(isa: str, x: _Floats) -> None: ...
def rms_norm(isa: str, x: _Floats, weight: _Floats, epsilon: float, out: _Floats) -> None: ...
