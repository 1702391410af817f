"""Architecture families: each module turns a checkpoint's facts into a layer plan and says where its weights lie.

To add one: write a module with `ARCHITECTURES` and `recipe(checkpoint)`, and name it in `_MODULES`.
"""

from __future__ import annotations

from typing import Protocol

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.errors import UnsupportedModel
from flash_runtime.model.families import granite, llama, mixtral, olmoe, qwen2_moe, qwen3_moe
from flash_runtime.model.families.recipe import Recipe

__all__ = ["Recipe", "recipe", "supported_architectures"]


class _Family(Protocol):
    """What a family's module offers."""

    @property
    def ARCHITECTURES(self) -> frozenset[str]: ...  # noqa: N802 - a module's constant

    def recipe(self, checkpoint: Checkpoint) -> Recipe: ...


_MODULES: tuple[_Family, ...] = (llama, qwen2_moe, qwen3_moe, olmoe, mixtral, granite)


def supported_architectures() -> list[str]:
    """Names as config.json says them."""
    return sorted(name for module in _MODULES for name in module.ARCHITECTURES)


def recipe(checkpoint: Checkpoint) -> Recipe:
    """The checkpoint's layer plan and sources.

    Raises UnsupportedModel for an architecture without a family, or weights that its family would leave out.
    """
    architecture = checkpoint.config.architecture
    for module in _MODULES:
        if architecture in module.ARCHITECTURES:
            found = module.recipe(checkpoint)
            _refuse_left_over_weights(checkpoint, found)
            return found
    known = ", ".join(supported_architectures())
    raise UnsupportedModel(f"{checkpoint.path}: architecture {architecture} is not supported; known: {known}")


def _refuse_left_over_weights(checkpoint: Checkpoint, found: Recipe) -> None:
    """A weight that nobody reads (a bias, a second norm) means another computation than ours."""
    if left_over := checkpoint.left_over(found.tensors):
        raise UnsupportedModel(
            f"{checkpoint.path}: {len(left_over)} tensors have no place in family {found.plan.family}, "
            f"the first is {left_over[0]}; this variation of {checkpoint.config.architecture} is not supported"
        )
