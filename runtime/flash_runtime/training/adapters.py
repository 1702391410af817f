"""Adapters on a decoder's attention and experts (LoRA, Hu et al. 2021, arXiv 2106.09685). Needs torch.

The decoder itself stays as it is; it runs with each adapted matrix W replaced by W + alpha / R * B A. Every expert has
adapters of its own, as PEFT would put them on the modules of a Hugging Face checkpoint.

Legend: N output features, K input features, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flash_runtime.training.adapter_file import Adapter, AdapterFacts, Pair
from flash_runtime.training.network import Decoder, Trace

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_EXPERTS = ("gate_proj", "up_proj", "down_proj")
TARGETS = {"attention": _ATTENTION, "experts": _EXPERTS}
"""What may be adapted, by the words that `flash lora` takes; `experts` is every FFN, dense ones too."""


@dataclass(frozen=True)
class Place:
    """Where one module of a checkpoint lies in a matrix of the decoder, side by side with others."""

    module: str
    """In the checkpoint, e.g. `model.layers.3.mlp.experts.0.down_proj`."""
    rows: int
    columns: int
    divisor: float
    """The decoder holds the checkpoint's weight divided by this."""


class Adapters(nn.Module):  # type: ignore[misc] # torch is not installed where types are checked
    """What is trained; the decoder is no part of it, and no part of its checkpoints."""

    def __init__(
        self, decoder: Decoder, *, targets: Collection[str], rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        decoder.requires_grad_(False)
        self._decoder = [decoder]  # in a list: torch would take it for a part
        self.rank, self.alpha = rank, alpha
        self._places = places(decoder, [part for target in targets for part in TARGETS[target]])
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        for place in (place for row in self._places.values() for place in row):
            bound = 1 / math.sqrt(place.columns)
            start = torch.rand(rank, place.columns, generator=generator) * (2 * bound) - bound
            self.a.append(nn.Parameter(start))  # [R, K]
            self.b.append(nn.Parameter(torch.zeros(place.rows, rank)))  # [N, R], so that nothing changes at first

    @property
    def embedding(self) -> Tensor:
        """Which is the head, too."""
        return self._decoder[0].embedding

    def forward(self, token_ids: Tensor) -> Trace:
        decoder = self._decoder[0]
        own = dict(decoder.named_parameters())
        changed = {name: own[name] + change for name, change in self._changes().items()}
        found: Trace = torch.func.functional_call(decoder, changed, (token_ids,))
        return found

    def _changes(self) -> dict[str, Tensor]:
        """What is added to each matrix of the decoder."""
        scale, index, found = self.alpha / self.rank, 0, {}
        for name, row in self._places.items():
            parts = []
            for place in row:
                parts.append(self.b[index] @ self.a[index] * (scale / place.divisor))
                index += 1
            found[name] = torch.cat(parts, dim=1 if name.endswith("down_proj.weight") else 0)
        return found

    def written(self, facts: AdapterFacts) -> Adapter:
        """In the form that goes to disk."""
        row = [place for row in self._places.values() for place in row]
        pairs = {
            place.module: Pair(a.detach().float().numpy().copy(), b.detach().float().numpy().copy())
            for place, a, b in zip(row, self.a, self.b, strict=True)
        }
        return Adapter(self.rank, self.alpha, pairs, facts)


def places(decoder: Decoder, parts: Collection[str]) -> dict[str, list[Place]]:
    """By the decoder's parameters: the modules whose weights lie in them, in their order."""
    found: dict[str, list[Place]] = {}
    for index, layer in enumerate(decoder.layers):
        prefix = f"model.layers.{index}"
        for part in _ATTENTION:
            if part in parts:
                rows, columns = getattr(layer.self_attn, part).weight.shape
                found[f"layers.{index}.self_attn.{part}.weight"] = [
                    Place(f"{prefix}.self_attn.{part}", rows, columns, 1.0)
                ]
        sparse = layer.mlp.sparse
        for part in _EXPERTS:
            if part not in parts:
                continue
            rows, columns = getattr(layer.mlp, part).weight.shape
            name = f"layers.{index}.mlp.{part}.weight"
            if sparse is None:
                found[name] = [Place(f"{prefix}.mlp.{part}", rows, columns, 1.0)]
                continue
            down = part == "down_proj"
            owners = [("shared_expert", sparse.shared_width, 2.0)]
            owners += [(f"experts.{e}", sparse.expert_width, float(sparse.experts)) for e in range(sparse.experts)]
            found[name] = [
                Place(f"{prefix}.mlp.{owner}.{part}", rows, width, divisor)
                if down
                else Place(f"{prefix}.mlp.{owner}.{part}", width, columns, 1.0)
                for owner, width, divisor in owners
            ]
    return found
