"""The layer plan: which operations, shapes and packed weights make up a step, as plain data.

It says nothing about where weights came from or which kernels run. Strings are names in the packed file: a vector
"V" is the blob "V" (f32); a linear "X" is a blob for each part of its format ("X.weight", "X.scale", …; see
`flash_runtime.kernels.layout`) and, when it has one, "X.bias" (f32 [N]).

Legend: H hidden size, E experts, N output features of a linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from flash_runtime.kernels.layout import LinearFormat

Count = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class DenseMlp:
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    gate_up: str
    """Linear [2 * width, H]: the rows of gate, then those of up."""
    down: str
    """Linear [H, width]."""
    width: Count
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True)
class SharedExpert:
    """A SwiGLU that every token passes, whatever its router says; its output is weighted by sigmoid(gate . x)."""

    gate: str
    """Vector blob f32 [H]; computed in float like the router."""
    gate_up: str
    """Linear [2 * width, H]: the rows of gate, then those of up."""
    down: str
    """Linear [H, width]."""
    width: Count


@dataclass(frozen=True)
class MoeMlp:
    """SwiGLU experts behind a softmax router; the outputs of the top_k experts are summed by router weight.

    A softmax over the chosen experts alone gives the same weights as one over all of them, normalised after the choice:
    both are written with `normalise`.
    """

    router: str
    """Vector blob f32 [E, H]; routing is computed in float."""
    gate_up: str
    """Experts' linear [E, 2 * width, H]."""
    down: str
    """Experts' linear [E, H, width]."""
    num_experts: Count
    top_k: Count
    width: Count
    """Hidden features of one expert."""
    normalise: bool
    """Whether the top_k weights are scaled to sum to 1."""
    shared: SharedExpert | None = None
    """Added to the sum of the routed experts; None = absent."""
    kind: Literal["moe"] = "moe"


@dataclass(frozen=True)
class LayerPlan:
    """One transformer block: attention and MLP, each behind an RMS norm and added to the residual."""

    attn_norm: str
    qkv: str
    """Linear whose rows are those of q, then k, then v, head by head."""
    q_norm: str | None
    """RMS norm of the queries before RoPE; None = absent."""
    k_norm: str | None
    o: str
    mlp_norm: str
    mlp: Annotated[DenseMlp | MoeMlp, Field(discriminator="kind")]
    qk_norm_over: Literal["head", "projection"] = "head"
    """What q_norm and k_norm normalise: each head by itself [head_dim], or all heads together [heads * head_dim]."""
    window: Count | None = None
    """How many positions a token sees, its own among them; None = all before it."""


@dataclass(frozen=True)
class ModelPlan:
    """A decoder-only transformer with grouped-query attention and half-split RoPE."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    family: str
    """The module of `families` that made this plan; for people."""
    hidden_size: Count
    num_layers: Count
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    vocab_size: Count
    norm_eps: Annotated[float, Field(ge=0)]
    max_context_tokens: Count
    rope_inv_freq: str
    """Vector blob f32 [head_dim / 2]: the angle per position of each pair (i, i + head_dim / 2)."""
    rope_scale: float
    """Factor on cosine and sine; 1 unless a scaling method (YaRN) asks for more."""
    embedding: str
    """Linear [vocab_size, H] whose dequantised rows are the token embeddings."""
    final_norm: str
    head: str
    """Linear [vocab_size, H]; the embedding's name when the weights are tied."""
    weight_format: LinearFormat
    """Of every linear of the layers."""
    head_format: LinearFormat
    """Of embedding and head."""
    wide: tuple[str, ...] = ()
    """Downs of dense MLPs that are bf16 whatever `weight_format` says: a calibrated model keeps those that do not round
    well."""
    layers: tuple[LayerPlan, ...] = field(default=())
    embedding_factor: Factor = 1.0
    """Multiplies the token embeddings."""
    attention_factor: Factor | None = None
    """Multiplies the scores; None = 1 / sqrt(head_dim)."""
    residual_factor: Factor = 1.0
    """Multiplies what attention and MLP add to the residual."""
    logits_factor: Factor = 1.0
    head_from_embedding: bool = False
    """Whether a head of its own holds the embedding's weights in another basis: as parameters they count once."""

    @property
    def window(self) -> int | None:
        """Positions a token sees in the layer that sees most, its own among them; None = all before it."""
        windows = [layer.window for layer in self.layers]
        return None if None in windows else max((window for window in windows if window is not None), default=None)

    @property
    def score_factor(self) -> float:
        """What multiplies the attention scores."""
        return self.head_dim**-0.5 if self.attention_factor is None else self.attention_factor

    def with_active_experts(self, count: int) -> ModelPlan:
        """The same model with `count` routed experts for each token. Raises ValueError when it has not so many."""
        fewest = min((layer.mlp.num_experts for layer in self.layers if isinstance(layer.mlp, MoeMlp)), default=0)
        if fewest == 0:
            raise ValueError(f"active_experts ({count}) is for mixture-of-experts models, this one is dense: remove it")
        if not 1 <= count <= fewest:
            raise ValueError(f"active_experts ({count}) must be from 1 to the {fewest} experts that this model has")
        layers = (
            replace(layer, mlp=replace(layer.mlp, top_k=count)) if isinstance(layer.mlp, MoeMlp) else layer
            for layer in self.layers
        )
        return replace(self, layers=tuple(layers))

    def to_json(self) -> dict[str, Any]:
        """The form that stands in the packed file's header."""
        plan: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plan

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """[N, K] of every linear by name; for a stack of experts, of each one."""
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes = dict.fromkeys((self.embedding, self.head), (self.vocab_size, self.hidden_size))
        for layer in self.layers:
            shapes[layer.qkv] = (heads + 2 * kv_heads, self.hidden_size)
            shapes[layer.o] = (self.hidden_size, heads)
            shared = layer.mlp.shared if isinstance(layer.mlp, MoeMlp) else None
            for part in (layer.mlp, shared):
                if part is not None:
                    shapes[part.gate_up] = (2 * part.width, self.hidden_size)
                    shapes[part.down] = (self.hidden_size, part.width)
        return shapes

    def linear_format(self, name: str) -> LinearFormat:
        """The number format of a linear's weights."""
        if name in self.wide:
            return LinearFormat.BF16
        return self.head_format if name in (self.embedding, self.head) else self.weight_format

    def dense_downs(self) -> set[str]:
        """The second linear of every dense MLP."""
        return {layer.mlp.down for layer in self.layers if isinstance(layer.mlp, DenseMlp)}

    @classmethod
    def from_json(cls, document: Any) -> ModelPlan:
        """Read the header's form; raises ValueError naming the field and the value."""
        try:
            plan = _ADAPTER.validate_python(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "plan"
            raise ValueError(f"layer plan: {where}: {first['msg']}, found {first['input']!r:.80}") from error
        if len(plan.layers) != plan.num_layers:
            raise ValueError(f"layer plan: num_layers is {plan.num_layers}, layers has {len(plan.layers)}")
        if others := set(plan.wide) - plan.dense_downs():
            raise ValueError(f"layer plan: wide names {min(others)!r}, which is not the down of a dense MLP")
        return plan


_ADAPTER = TypeAdapter(ModelPlan)
