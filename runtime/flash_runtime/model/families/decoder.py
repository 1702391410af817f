"""What the families share: the parts of a pre-norm decoder, written down as plan and sources at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from flash_runtime.kernels.layout import LinearFormat
from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.families.recipe import Linear, Recipe, Vector
from flash_runtime.model.plan import DenseMlp, LayerPlan, ModelPlan, MoeMlp
from flash_runtime.model.rope import inverse_frequencies

_MAX_HEAD_DIM: Final = 1024
"""Far above any model; a larger number is damage."""


class DecoderBuilder:
    """Collects vectors and linears while a family names them. Optional parts are there when their tensors are."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self._checkpoint = checkpoint
        self._vectors: dict[str, Vector] = {}
        self._linears: dict[str, Linear] = {}
        self._experts: dict[str, tuple[Linear, ...]] = {}
        config = self.config
        if config.num_heads % config.num_kv_heads:
            raise CheckpointError(
                f"{checkpoint.path}: {config.num_heads} attention heads cannot share {config.num_kv_heads} "
                "key-value heads evenly"
            )
        if config.head_dim % 2 or config.head_dim > _MAX_HEAD_DIM:
            raise CheckpointError(
                f"{checkpoint.path}: head_dim ({config.head_dim}) must be even for RoPE and at most {_MAX_HEAD_DIM}"
            )

    def vector(self, name: str, vector: Vector) -> str:
        """Record a vector; returns its name in the packed file."""
        self._vectors[name] = vector
        return name

    def linear(self, name: str, linear: Linear) -> str:
        """Record a linear; returns its name in the packed file."""
        self._linears[name] = linear
        return name

    def experts(self, name: str, linears: Sequence[Linear]) -> str:
        """Record a stack of experts' linears; returns its name in the packed file."""
        self._experts[name] = tuple(linears)
        return name

    def dense_mlp(self, index: int) -> DenseMlp:
        """SwiGLU of one layer."""
        width = self.config.mlp_width
        gate_up, down = self.swiglu(f"layers.{index}", f"model.layers.{index}.mlp", width)
        return DenseMlp(gate_up=gate_up, down=down, width=width)

    def swiglu(self, name: str, source: str, width: int) -> tuple[str, str]:
        """Record the two linears of one SwiGLU; returns their names in the packed file."""
        hidden = self.config.hidden_size
        gate_up = Linear((f"{source}.gate_proj", f"{source}.up_proj"), (width, width), hidden)
        down = Linear((f"{source}.down_proj",), (hidden,), width)
        return self.linear(f"{name}.gate_up", gate_up), self.linear(f"{name}.down", down)

    def layer(
        self,
        index: int,
        mlp: DenseMlp | MoeMlp,
        *,
        qk_norm_over: Literal["head", "projection"] = "head",
        window: int | None = None,
    ) -> LayerPlan:
        """One block around its MLP."""
        config, source = self.config, f"model.layers.{index}"
        attention = f"{source}.self_attn"
        if not self._checkpoint.has(f"{attention}.q_proj.weight"):
            raise CheckpointError(
                f"{self._checkpoint.path}: {config.num_layers} layers are promised, layer {index} has no weights"
            )
        query_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        qkv = Linear(
            (f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            (query_rows, kv_rows, kv_rows),
            config.hidden_size,
            bias=self._checkpoint.has(f"{attention}.q_proj.bias"),
        )
        output = Linear(
            (f"{attention}.o_proj",),
            (config.hidden_size,),
            query_rows,
            bias=self._checkpoint.has(f"{attention}.o_proj.bias"),
        )
        return LayerPlan(
            attn_norm=self._norm(f"layers.{index}.attn_norm", f"{source}.input_layernorm"),
            qkv=self.linear(f"layers.{index}.qkv", qkv),
            q_norm=self._qk_norm(
                f"layers.{index}.q_norm",
                f"{attention}.q_norm",
                query_rows if qk_norm_over == "projection" else config.head_dim,
            ),
            k_norm=self._qk_norm(
                f"layers.{index}.k_norm",
                f"{attention}.k_norm",
                kv_rows if qk_norm_over == "projection" else config.head_dim,
            ),
            o=self.linear(f"layers.{index}.o", output),
            mlp_norm=self._norm(f"layers.{index}.mlp_norm", f"{source}.post_attention_layernorm"),
            mlp=mlp,
            qk_norm_over=qk_norm_over,
            window=window,
        )

    def recipe(self, family: str, layers: Sequence[LayerPlan]) -> Recipe:
        """Embedding, final norm and head around the layers."""
        config = self.config
        embedding = self.linear("embedding", Linear(("model.embed_tokens",), (config.vocab_size,), config.hidden_size))
        head = embedding
        if not config.tied_embeddings:
            head = self.linear("head", Linear(("lm_head",), (config.vocab_size,), config.hidden_size))
        plan = ModelPlan(
            family=family,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            norm_eps=config.norm_eps,
            max_context_tokens=config.max_context_tokens,
            rope_inv_freq="rope_inv_freq",
            rope_scale=config.rope.scale,
            embedding=embedding,
            final_norm=self._norm("final_norm", "model.norm"),
            head=head,
            weight_format=LinearFormat.INT8,
            head_format=LinearFormat.INT8,
            layers=tuple(layers),
        )
        return Recipe(
            plan=plan,
            rope_inv_freq=inverse_frequencies(config.rope, head_dim=config.head_dim),
            vectors=self._vectors,
            linears=self._linears,
            experts=self._experts,
        )

    def _norm(self, name: str, module: str) -> str:
        return self.vector(name, Vector(f"{module}.weight", (self.config.hidden_size,)))

    def _qk_norm(self, name: str, module: str, width: int) -> str | None:
        if not self._checkpoint.has(f"{module}.weight"):
            return None
        return self.vector(name, Vector(f"{module}.weight", (width,)))
