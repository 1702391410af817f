"""Carving in closed form: nothing is lost with all experts, and what ships is what was carved."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import write_gguf

from flash_runtime.engine.batch import FloatArray, Provider
from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.derived import Carving, Derivation, pack_change, unpack_change
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.families import recipe
from flash_runtime.model.opened import native_provider, open_packed
from flash_runtime.model.pack import pack
from flash_runtime.model.reference import CheckpointWeights, PackedWeights, ReferenceProvider
from flash_runtime.model.sequence import Sequence
from flash_runtime.model.shipped import BASE, DIFFERENCE
from flash_runtime.training.carve import carve, gates
from flash_runtime.training.carving import carve_layers
from flash_runtime.training.layout import ExpertLayout
from flash_runtime.training.ship import write_carved, write_draft

LAYOUT = ExpertLayout(shared_width=64, experts=6, expert_width=16, top_k=2)
DENSE = (0,)
WINDOWS = [np.arange(start, start + 48, dtype=np.int32) for start in (0, 50, 100, 150)]
PROMPT = np.array([5, 250, 17, 99, 3, 3, 200, 41], dtype=np.int32)


def derived(folder: Path, layout: ExpertLayout) -> Path:
    """A tiny Llama in GGUF, carved, as the folder that a builtin source makes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf(folder / BASE, "llama")
    base = open_checkpoint(folder / BASE)
    layers = carve_layers(base, WINDOWS, layout, dense_layers=DENSE)
    write_carved(folder / DIFFERENCE, facts(folder, layout), base, layers)
    return folder


def facts(folder: Path, layout: ExpertLayout) -> Derivation:
    return Derivation(
        format=1,
        kind="carved",
        name="tiny-flash",
        base="Tiny",
        base_sha256=hashlib.sha256((folder / BASE).read_bytes()).hexdigest(),
        carving=Carving(**vars(layout), dense_layers=DENSE),
        trained_tokens=0,
    )


def logits(provider: Provider) -> FloatArray:
    return Sequence(provider).feed(PROMPT)


def reference(checkpoint: Checkpoint) -> ReferenceProvider:
    found = recipe(checkpoint)
    return ReferenceProvider(found.plan, CheckpointWeights(checkpoint, found), num_blocks=1, block_size=64)


def test_with_all_experts_active_the_carved_model_is_its_teacher(tmp_path: Path) -> None:
    folder = derived(tmp_path / "all", replace(LAYOUT, top_k=LAYOUT.experts))

    carved, teacher = logits(reference(open_checkpoint(folder))), logits(reference(open_checkpoint(folder / BASE)))

    assert np.abs(carved - teacher).max() <= 1e-5 * np.abs(teacher).max()


def test_with_few_experts_active_it_stays_near_its_teacher(tmp_path: Path) -> None:
    folder = derived(tmp_path / "few", LAYOUT)

    carved, teacher = logits(reference(open_checkpoint(folder))), logits(reference(open_checkpoint(folder / BASE)))

    assert not np.allclose(carved, teacher, rtol=1e-3)
    assert np.square(carved - teacher).sum() < 0.5 * np.square(teacher).sum()


@pytest.mark.parametrize("variant", ["Cloud", "Lite", "Nano"])
def test_the_engine_computes_the_carved_model_as_the_reference_does(tmp_path: Path, variant: str) -> None:
    folder = derived(tmp_path / "few", LAYOUT)
    path = tmp_path / "model.flash"
    pack(open_checkpoint(folder), path, variant=variant, progress=lambda done, total: None)
    packed, plan = open_packed(path)
    expected = logits(ReferenceProvider(plan, PackedWeights(packed, plan), num_blocks=1, block_size=64))

    found = logits(native_provider(path, cached_tokens=64))

    assert np.square(found - expected).sum() < 2e-3 * np.square(expected).sum()


def test_the_refitted_output_is_nearer_to_the_teachers_than_the_cut_one() -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((600, 32)).astype(np.float32)
    gate, up = (random.standard_normal((160, 32)).astype(np.float32) / 6 for _ in range(2))
    inner = np.maximum(x @ gate.T, 0) * (x @ up.T)
    down = random.standard_normal((24, 160)).astype(np.float32)

    layer = carve(x, inner, down, LAYOUT, np.random.default_rng(0))

    kept = inner[:, layer.order] * gates(x @ layer.router.T, LAYOUT)
    expected = inner @ down.T
    cut, refitted = (np.square(kept @ one.T - expected).sum() for one in (down[:, layer.order], layer.down))
    assert refitted < 0.8 * cut


def test_every_neuron_has_one_place_and_carving_again_gives_the_same(tmp_path: Path) -> None:
    base = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", "llama"))

    first, second = (carve_layers(base, WINDOWS, LAYOUT, dense_layers=DENSE) for _ in range(2))

    assert first.keys() == {1, 2}
    for index, layer in first.items():
        assert sorted(layer.order) == list(range(LAYOUT.width))
        assert all(np.array_equal(array, vars(second[index])[name]) for name, array in vars(layer).items())


def test_a_layout_that_does_not_use_every_neuron_is_refused(tmp_path: Path) -> None:
    base = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", "llama"))

    with pytest.raises(ValueError, match=r"shared_width \(32\) \+ experts \(6\) x expert_width \(16\) is 128, .* 160"):
        carve_layers(base, WINDOWS, replace(LAYOUT, shared_width=32), dense_layers=DENSE)


def test_a_difference_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    folder = derived(tmp_path / "few", LAYOUT)
    content = (folder / DIFFERENCE).read_bytes()
    (folder / DIFFERENCE).write_bytes(content[:-100])

    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_checkpoint(folder)


def test_a_difference_from_another_base_is_refused(tmp_path: Path) -> None:
    folder = derived(tmp_path / "few", LAYOUT)
    write_gguf(folder / BASE, "llama", quantisation="Q8_0")

    with pytest.raises(CheckpointError, match="was made from Tiny with sha256"):
        open_checkpoint(folder)


def test_a_difference_without_its_facts_is_refused(tmp_path: Path) -> None:
    folder = derived(tmp_path / "few", LAYOUT)
    broken = facts(folder, LAYOUT).model_copy(update={"carving": None})
    write_carved(folder / DIFFERENCE, broken, open_checkpoint(folder / BASE), {})

    with pytest.raises(CheckpointError, match="carving is missing, a carved model needs it"):
        open_checkpoint(folder)


def test_a_draft_has_the_embedding_of_its_base_and_layers_of_its_own(tmp_path: Path) -> None:
    write_gguf(tmp_path / BASE, "llama", shape={"tie_word_embeddings": True})
    base = open_checkpoint(tmp_path / BASE)
    wanted = reference(base)
    names = [name for name in recipe(base).tensors if name.startswith("model.layers.1.") or name == "model.norm.weight"]
    weights = {name.replace("layers.1", "layers.0"): base.tensor(name) for name in names}
    made = facts(tmp_path, LAYOUT).model_copy(update={"kind": "draft", "carving": None, "layers": 1})

    write_draft(tmp_path / DIFFERENCE, made, weights)

    draft = open_checkpoint(tmp_path)
    assert draft.config.num_layers == 1
    assert np.array_equal(draft.tensor("model.embed_tokens.weight"), base.tensor("model.embed_tokens.weight"))
    up = draft.tensor("model.layers.0.mlp.up_proj.weight")
    own = base.tensor("model.layers.1.mlp.up_proj.weight")
    assert np.abs(up - own).max() <= np.abs(own).max() / 127
    assert logits(reference(draft)).shape == logits(wanted).shape


def test_a_change_survives_four_bits() -> None:
    change = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)

    found = unpack_change(*pack_change(change))

    assert np.abs(found - change).max() <= np.abs(change).max() / 7
