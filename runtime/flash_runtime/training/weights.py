"""A checkpoint's weights as a decoder in torch, by their Hugging Face names. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.errors import UnsupportedModel
from flash_runtime.model.rope import inverse_frequencies
from flash_runtime.training.carve import CarvedLayer
from flash_runtime.training.network import Decoder, Shape

_TEACHERS = ("LlamaForCausalLM",)


def shape_of(checkpoint: Checkpoint) -> Shape:
    """The teacher's sizes; raises UnsupportedModel for one that the decoder here does not compute."""
    config = checkpoint.config
    if config.architecture not in _TEACHERS or config.window is not None:
        known = ", ".join(_TEACHERS)
        raise UnsupportedModel(f"{checkpoint.path}: {config.architecture} cannot be a teacher here; known: {known}")
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
        loaded = {
            name: tensor(checkpoint, prefix + name)
            for name in own
            if not name.startswith(("mlp.router", "mlp.shared_gate"))
        }
        decoder.layers[index].load_state_dict(own | loaded)
    decoder.norm.load_state_dict({"weight": tensor(checkpoint, "model.norm.weight")})
    return decoder


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
