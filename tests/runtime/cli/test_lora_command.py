"""`flash lora` as far as it goes without torch: looking at chats, merging an adapter, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from fakes.tiny_text import CHATML
from flash_program import Flash
from tiny_gguf import write_gguf

from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.training.adapter_file import Adapter, Pair, write_adapter
from flash_runtime.training.chats import read_chats

ROOT = Path(__file__).parents[3]


def write_chats(path: Path, count: int) -> Path:
    ask = [{"role": "user", "content": "Say it."}]
    lines = [{"messages": [*ask, {"role": "assistant", "content": f"It is number {n}."}]} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def toy(tmp_path: Path) -> Path:
    shape = {"tie_word_embeddings": True}
    return write_gguf(tmp_path / "tiny.gguf", "llama", shape=shape, chat_template=CHATML)


def test_chats_are_looked_at_without_training(flash: Flash, tmp_path: Path) -> None:
    result = flash("lora", toy(tmp_path), write_chats(tmp_path / "chats.jsonl", 500), "--check")

    assert result.exit_code == 0, result.output
    assert "500 chats" in result.stdout
    assert re.search(r"[1-9][\d,]* tokens to learn", result.stdout)


def test_few_chats_are_refused(flash: Flash, tmp_path: Path) -> None:
    result = flash("lora", toy(tmp_path), write_chats(tmp_path / "chats.jsonl", 3))

    assert result.exit_code == 2
    assert "3 chats, at least 500 are asked for" in result.stderr


def test_faults_are_told_by_line(flash: Flash, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "chats.jsonl", 500)
    path.write_text(path.read_text() + '{"messages": [{"role": "user", "content": "x"}]}\n')

    result = flash("lora", toy(tmp_path), path, "--check")

    assert result.exit_code == 2
    assert "line 501: messages.0.role: the last is user, a chat ends with the assistant" in result.stderr


def test_an_adapter_is_merged_into_a_model_that_packs(flash: Flash, tmp_path: Path) -> None:
    model = toy(tmp_path)
    module = "model.layers.0.self_attn.o_proj"
    rows, columns = open_checkpoint(model).tensor(f"{module}.weight").shape
    pair = Pair(np.ones((2, columns), np.float32), np.ones((rows, 2), np.float32))
    write_adapter(tmp_path / "adapter", Adapter(2, 4.0, {module: pair}, None), base="toy")

    result = flash("lora", model, "--adapter", tmp_path / "adapter", "-o", "tuned")

    assert result.exit_code == 0, result.output
    assert flash("pack", "tuned/merged", "-o", "tuned.flash").exit_code == 0
    assert json.loads(flash("info", "tuned.flash", "--json").stdout)["model"]["name"] == "Tiny-tuned"


def test_what_contradicts_itself_is_refused(flash: Flash, tmp_path: Path) -> None:
    model, path = toy(tmp_path), write_chats(tmp_path / "chats.jsonl", 500)

    for arguments, said in [
        ((model,), "name a file of chats to tune on, or an adapter to merge"),
        ((model, path, "--targets", "attention,router"), "'router', attention or experts is expected"),
        ((model, tmp_path / "none.jsonl"), "No such file"),
        ((model, "--adapter", tmp_path / "none"), "an adapter is a folder with adapter_config.json"),
    ]:
        result = flash("lora", *arguments)
        assert result.exit_code in (2, 3)
        assert said in result.stderr


def test_the_chats_in_the_how_to_are_chats(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "tune-with-lora.md").read_text()
    (shown,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "chats.jsonl").write_text(shown)

    assert len(read_chats(tmp_path / "chats.jsonl")) == 2
