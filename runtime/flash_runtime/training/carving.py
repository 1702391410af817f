"""The teacher reads calibration text in NumPy, and each of its layers is carved from what passes through. No torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import Batch, FloatArray, IntArray
from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.errors import UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.families.recipe import Linear, Recipe, read_vector, read_weight
from flash_runtime.model.plan import DenseMlp
from flash_runtime.model.reference import ReferenceProvider
from flash_runtime.training.carve import CarvedLayer, carve
from flash_runtime.training.layout import ExpertLayout

_SEED: Final = 5

OnLayer = Callable[[int], None]


def carve_layers(
    checkpoint: Checkpoint,
    windows: Sequence[IntArray],
    layout: ExpertLayout,
    *,
    dense_layers: Collection[int],
    on_layer: OnLayer = lambda index: None,
    seed: int = _SEED,
) -> dict[int, CarvedLayer]:
    """Every layer but the dense ones, for these windows of token ids. Raises UnsupportedModel, ValueError."""
    found = recipe(checkpoint)
    layout.check(checkpoint.config.mlp_width)
    if not all(isinstance(layer.mlp, DenseMlp) for layer in found.plan.layers):
        raise UnsupportedModel(f"{checkpoint.path}: is a mixture of experts already; a dense teacher is carved")
    lengths = [len(window) for window in windows]
    batch = Batch(
        token_ids=np.concatenate(windows).astype(np.int32),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        query_starts=np.cumsum([0, *lengths], dtype=np.int32),
        block_tables=np.arange(len(windows), dtype=np.int32)[:, None],
        logit_rows=np.zeros(1, dtype=np.int32),
    )
    weights = _Watched(checkpoint, found, layout, frozenset(dense_layers), on_layer, seed)
    ReferenceProvider(found.plan, weights, num_blocks=len(windows), block_size=max(lengths)).step(batch)
    return weights.carved


class _Watched:
    """Implements `flash_runtime.model.reference.Weights`: carves a layer when it sees its inner features."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        layout: ExpertLayout,
        dense_layers: frozenset[int],
        on_layer: OnLayer,
        seed: int,
    ) -> None:
        self.carved: dict[int, CarvedLayer] = {}
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._layout = layout
        self._on_layer = on_layer
        self._seed = seed
        layers = enumerate(recipe.plan.layers)
        wanted = [(index, layer.mlp) for index, layer in layers if index not in dense_layers]
        self._gate_ups = {mlp.gate_up for _, mlp in wanted}
        self._downs = {mlp.down: index for index, mlp in wanted}
        self._x: FloatArray = np.empty((0, 0), np.float32)

    def vector(self, name: str) -> FloatArray:
        if name == self._recipe.plan.rope_inv_freq:
            return self._recipe.rope_inv_freq
        return read_vector(self._checkpoint, self._recipe.vectors[name])

    def rows(self, name: str, indices: NDArray[np.int32]) -> FloatArray:
        return self._read(self._recipe.linears[name])[indices]

    def linear(self, name: str, x: FloatArray, *, expert: int | None = None) -> FloatArray:
        if name == self._recipe.plan.head:
            return np.zeros((len(x), 1), dtype=np.float32)  # nobody asks what the text's next token is
        weight = self._read(self._recipe.linears[name])
        if name in self._gate_ups:
            self._x = x
        elif (index := self._downs.get(name)) is not None:
            random = np.random.default_rng([self._seed, index])
            self.carved[index] = carve(self._x, x, weight, self._layout, random)
            self._on_layer(index)
        out: FloatArray = x @ weight.T
        return out

    def _read(self, linear: Linear) -> FloatArray:
        return np.concatenate([read_weight(self._checkpoint, linear, index) for index in range(len(linear.modules))])
