"""Adapters trained on chats, on toy models: `make parity`. Elsewhere it is skipped."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed (extra `train`)", allow_module_level=True)

import torch
import typer
from fakes.tiny_text import CHATML
from tiny_gguf import write_gguf
from typer.testing import CliRunner

from flash_runtime.cli import register
from flash_runtime.model.cache import file_sha256
from flash_runtime.model.cache import place as put
from flash_runtime.model.checkpoint import Checkpoint, open_checkpoint
from flash_runtime.model.derived import Carving, Derivation
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.reference import CheckpointWeights, ReferenceProvider
from flash_runtime.model.sequence import Sequence
from flash_runtime.model.shipped import BASE, DIFFERENCE
from flash_runtime.training.adapter_file import read_adapter, write_adapter
from flash_runtime.training.adapters import Adapters
from flash_runtime.training.carving import carve_layers
from flash_runtime.training.chat_tokens import Example
from flash_runtime.training.layout import ExpertLayout
from flash_runtime.training.merged import merge
from flash_runtime.training.ship import write_carved
from flash_runtime.training.tuning import Tuned, Tuning, batch_rows, split, tune
from flash_runtime.training.weights import model_of

LAYOUT = ExpertLayout(shared_width=64, experts=6, expert_width=16, top_k=2)
TUNING = Tuning(rank=4, alpha=8.0, epochs=3, batch=4, learning_rate=1e-2, held_out=0.2)
PROMPT = np.array([5, 250, 17, 99, 3, 3, 200, 41], dtype=np.int32)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(params=["dense", "mixture"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    """A tiny Llama, or what carving made of it."""
    path = write_gguf(tmp_path / BASE, "llama", shape={"tie_word_embeddings": True}, chat_template=CHATML)
    teacher = open_checkpoint(path)
    if request.param == "dense":
        return teacher
    windows = [np.arange(start, start + 48, dtype=np.int32) for start in (0, 50, 100, 150)]
    facts = Derivation(
        format=1,
        kind="carved",
        name="toy",
        base="Tiny",
        base_sha256=file_sha256(path),
        carving=Carving(**vars(LAYOUT), dense_layers=(0,)),
        trained_tokens=0,
    )
    folder = tmp_path / "mixture"
    folder.mkdir()
    put(path, folder / BASE)
    layers = carve_layers(teacher, windows, LAYOUT, dense_layers=(0,))
    write_carved(folder / DIFFERENCE, facts, teacher, layers)
    return open_checkpoint(folder)


def examples(count: int = 20) -> list[Example]:
    """After three numbers of a kind, always the same answer."""
    random = np.random.default_rng(2)
    found = []
    for _ in range(count):
        ids = np.concatenate([random.integers(0, 200, size=3), [210, 211, 212, 213]]).astype(np.int32)
        found.append(Example(ids, np.arange(7) >= 3))
    return found


def tuned(model: Checkpoint, folder: Path, *, stop_at: int | None = None, tuning: Tuning = TUNING) -> Tuned:
    provenance = {"seed": "5", "text chats.jsonl": "0" * 64}
    return tune(model, examples(), tuning, folder, provenance=provenance, tell=lambda entry: None, stop_at=stop_at)


def logits(checkpoint: Checkpoint) -> np.ndarray:
    plan = recipe(checkpoint)
    weights = CheckpointWeights(checkpoint, plan)
    return Sequence(ReferenceProvider(plan.plan, weights, num_blocks=1, block_size=64)).feed(PROMPT)


def test_the_decoder_of_a_checkpoint_computes_what_the_reference_does(model: Checkpoint) -> None:
    expected, decoder = logits(model), model_of(model)

    with torch.no_grad():
        found = (decoder(torch.from_numpy(PROMPT[None]).long()).final[0] @ decoder.embedding.T).numpy()

    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_tuning_learns_the_answers_and_leaves_the_model_alone(model: Checkpoint, tmp_path: Path) -> None:
    found = tuned(model, tmp_path / "run", tuning=replace(TUNING, epochs=15))

    assert found.after.loss < 0.5 * found.before.loss
    assert found.after.same_top > found.before.same_top
    assert (found.trained_chats, found.held_out_chats) == (16, 4)
    assert found.adapter.facts is not None
    assert found.adapter.facts.trained_tokens == 15 * 16 * 4


def test_new_adapters_change_nothing_and_the_merged_model_is_the_tuned_one(model: Checkpoint, tmp_path: Path) -> None:
    token_ids = torch.from_numpy(PROMPT[None]).long()
    fresh = Adapters(
        model_of(model), targets=("attention",), rank=2, alpha=4.0, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        assert torch.equal(fresh(token_ids).final, model_of(model)(token_ids).final)
    found = tuned(model, tmp_path / "run")
    write_adapter(tmp_path / "adapter", found.adapter, base="tiny")

    merge(model, read_adapter(tmp_path / "adapter"), tmp_path / "merged")

    merged = model_of(open_checkpoint(tmp_path / "merged"))
    adapted = Adapters(
        model_of(model), targets=TUNING.targets, rank=4, alpha=8.0, generator=torch.Generator().manual_seed(1)
    )
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["trained"]
    adapted.load_state_dict(state)
    with torch.no_grad():
        expected, own = adapted(token_ids).final, model_of(model)(token_ids).final
        off, moved = (merged(token_ids).final - expected).norm(), (own - expected).norm()
    assert off < 0.1 * moved  # bfloat16 rounds what is merged


def test_a_resumed_run_equals_an_uninterrupted_one(model: Checkpoint, tmp_path: Path) -> None:
    straight = tuned(model, tmp_path / "straight")

    tuned(model, tmp_path / "resumed", stop_at=5)
    resumed = tuned(model, tmp_path / "resumed")

    assert straight.after == resumed.after
    assert straight.adapter.pairs.keys() == resumed.adapter.pairs.keys()
    for module, pair in straight.adapter.pairs.items():
        assert np.array_equal(pair.a, resumed.adapter.pairs[module].a)
        assert np.array_equal(pair.b, resumed.adapter.pairs[module].b)


def test_a_run_with_other_options_does_not_go_on(tmp_path: Path) -> None:
    model = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", "llama", shape={"tie_word_embeddings": True}))
    tuned(model, tmp_path / "run", stop_at=2)

    with pytest.raises(CheckpointError, match=r"belongs to another run: rank was 4, now it is 2"):
        tuned(model, tmp_path / "run", tuning=replace(TUNING, rank=2))


def test_a_model_with_a_head_of_its_own_is_refused(tmp_path: Path) -> None:
    model = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", "llama", shape={"tie_word_embeddings": False}))

    with pytest.raises(UnsupportedModel, match="has a head of its own"):
        model_of(model)


def test_each_chat_trains_once_an_epoch_or_only_measures() -> None:
    trained, held = split(50, 0.1, seed=3)
    assert sorted(trained + held) == list(range(50))
    assert len(held) == 5

    rows = [row for step in range(9) for row in batch_rows(step, 5, 45, seed=3)]
    assert sorted(rows) == list(range(45))
    assert rows != list(range(45))
    with pytest.raises(ValueError, match="two chats"):
        split(1, 0.5, seed=3)


def test_the_command_tunes_measures_and_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHPLANE_CACHE", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "tiny.gguf", "llama", shape={"tie_word_embeddings": True}, chat_template=CHATML)
    ask = [{"role": "user", "content": "Say it."}]
    lines = [{"messages": [*ask, {"role": "assistant", "content": "It is."}]} for _ in range(12)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    app = typer.Typer()
    register(app)
    out = tmp_path / "tuned"

    wanted = ["lora", str(path), str(tmp_path / "chats.jsonl"), "-o", str(out), "--force", "--rank", "2"]
    result = CliRunner().invoke(app, [*wanted, "--learning-rate", "0.01", "--epochs", "4"])

    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    assert report["after"]["loss"] < report["before"]["loss"]
    assert len(report["facts"]["provenance"]["text chats.jsonl"]) == 64
    assert "perplexity" in result.stdout
    assert read_adapter(out / "adapter").rank == 2
    assert open_checkpoint(out / "merged").about.name == "Tiny-tuned"
    assert (out / "loss.png").is_file() == (importlib.util.find_spec("matplotlib") is not None)
