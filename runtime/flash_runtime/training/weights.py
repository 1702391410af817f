"""A checkpoint's weights as a decoder in torch, by their Hugging Face names. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.errors import UnsupportedModel
from flash_runtime.model.rope import inverse_frequencies
from flash_runtime.training.carve import CarvedLayer
from flash_runtime.training.layout import ExpertLayout
from flash_runtime.training.network import Decoder, Shape

_TEACHERS = ("LlamaForCausalLM",)
_MIXTURE = "Qwen2MoeForCausalLM"


def shape_of(checkpoint: Checkpoint) -> Shape:
    """The teacher's sizes; raises UnsupportedModel for one that the decoder here does not compute."""
    config = checkpoint.config
    if config.architecture not in _TEACHERS or config.window is not None:
        known = ", ".join(_TEACHERS)
        raise UnsupportedModel(f"{checkpoint.path}: {config.architecture} cannot be a teacher here; known: {known}")
    return _shape(checkpoint)


def model_of(checkpoint: Checkpoint) -> Decoder:
    """A checkpoint as it is, dense or a mixture with a shared expert; raises UnsupportedModel for others."""
    config, experts = checkpoint.config, checkpoint.config.experts
    if experts is None:
        return decoder_of(checkpoint, shape_of(checkpoint), range(config.num_layers))
    if (
        config.architecture != _MIXTURE
        or experts.normalise
        or experts.shared_width is None
        or config.window is not None
    ):
        raise UnsupportedModel(
            f"{checkpoint.path}: {config.architecture} cannot be tuned here; known: {', '.join(_TEACHERS)}, and "
            f"{_MIXTURE} with a shared expert and weights that are not normalised"
        )
    sparse = ExpertLayout(experts.shared_width, experts.num_experts, experts.width, experts.top_k)
    shape = replace(_shape(checkpoint), sparse=sparse, dense_layers=experts.dense_layers)
    return decoder_of(checkpoint, shape, range(config.num_layers))


def _shape(checkpoint: Checkpoint) -> Shape:
    config = checkpoint.config
    if not config.tied_embeddings:
        raise UnsupportedModel(
            f"{checkpoint.path}: has a head of its own; this release trains models whose head is their embedding"
        )
    if checkpoint.has("model.layers.0.self_attn.q_proj.bias"):
        raise UnsupportedModel(f"{checkpoint.path}: has biases; this release trains models without")
    return Shape(
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        width=config.mlp_width,
        layers=config.num_layers,
        norm_eps=config.norm_eps,
    )


def decoder_of(checkpoint: Checkpoint, shape: Shape, layers: Sequence[int]) -> Decoder:
    """A decoder of this shape whose layers are those of the checkpoint."""
    config = checkpoint.config
    frequencies = torch.from_numpy(inverse_frequencies(config.rope, head_dim=config.head_dim))
    decoder = Decoder(shape, tensor(checkpoint, "model.embed_tokens.weight"), frequencies)
    for index, source in enumerate(layers):
        prefix = f"model.layers.{source}."
        own = decoder.layers[index].state_dict()
        mixed = _is_mixture(checkpoint, source)
        loaded = {
            name: tensor(checkpoint, prefix + name)
            for name in own
            if not name.startswith("mlp." if mixed else ("mlp.router", "mlp.shared_gate"))
        }
        if mixed:
            loaded |= _mixture(checkpoint, f"{prefix}mlp", shape.sparse)
        decoder.layers[index].load_state_dict(own | loaded)
    decoder.norm.load_state_dict({"weight": tensor(checkpoint, "model.norm.weight")})
    return decoder


def _is_mixture(checkpoint: Checkpoint, layer: int) -> bool:
    experts = checkpoint.config.experts
    return experts is not None and layer not in experts.dense_layers


def _mixture(checkpoint: Checkpoint, prefix: str, layout: ExpertLayout | None) -> dict[str, Tensor]:
    """A sparse layer's experts side by side. The decoder counts its shared expert twice and each routed one as often
    as there are experts, so that a teacher's `down` fits in as it is (see `network`): here that is divided out.
    """
    assert layout is not None
    owners = [("shared_expert", 2.0), *((f"experts.{index}", float(layout.experts)) for index in range(layout.experts))]
    found = {
        f"mlp.{part}.weight": torch.cat([tensor(checkpoint, f"{prefix}.{owner}.{part}.weight") for owner, _ in owners])
        for part in ("gate_proj", "up_proj")
    }
    downs = [tensor(checkpoint, f"{prefix}.{owner}.down_proj.weight") / factor for owner, factor in owners]
    return found | {
        "mlp.down_proj.weight": torch.cat(downs, dim=1),
        "mlp.router.weight": tensor(checkpoint, f"{prefix}.gate.weight"),
        "mlp.shared_gate.weight": tensor(checkpoint, f"{prefix}.shared_expert_gate.weight").reshape(1, -1),
    }


def carved_of(student: Decoder, carved: Mapping[int, CarvedLayer]) -> dict[int, CarvedLayer]:
    """The student's sparse layers in the form that carving gives; gate and up where they were trained."""
    found = {}
    for index, layer in carved.items():
        mlp = student.layers[index].mlp
        gate, up, down, router = (
            part.weight.detach().float().numpy() for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj, mlp.router)
        )
        trained = mlp.gate_proj.weight.requires_grad
        found[index] = CarvedLayer(
            layer.order, router, down, gate=gate if trained else None, up=up if trained else None
        )
    return found


def tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """One tensor, as torch's own copy."""
    return torch.from_numpy(checkpoint.tensor(name).copy())
