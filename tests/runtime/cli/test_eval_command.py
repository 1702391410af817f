"""`flash eval`: each variant's perplexity beside the checkpoint's own, on text that is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flash_program import Flash
from tiny_checkpoints import write_checkpoint

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 8


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "m", "llama")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return path


def test_every_variant_is_measured_against_float32(flash: Flash, model: Path, text: Path) -> None:
    result = flash("eval", model, "--text", text, "--max-tokens", "300", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["variant"]: row for row in json.loads(result.stdout)["variants"]}
    assert list(rows) == ["float32", "Cloud", "Lite", "Nano"]
    scores = {name: row["texts"]["fox.txt"] for name, row in rows.items()}
    assert scores["float32"]["change"] == scores["float32"]["divergence"] == 0
    assert 0 < scores["Cloud"]["divergence"] < scores["Lite"]["divergence"] < scores["Nano"]["divergence"]
    assert abs(scores["Cloud"]["change"]) < 0.02
    for score in scores.values():
        assert score["perplexity"] == pytest.approx(scores["float32"]["perplexity"] * (1 + score["change"]), rel=1e-5)
    assert rows["Cloud"]["file_bytes"] > rows["Lite"]["file_bytes"] > rows["Nano"]["file_bytes"]


def test_python_itself_brings_the_text(flash: Flash, model: Path) -> None:
    result = flash("eval", model, "--variants", "lite", "--max-tokens", "300")
    assert result.exit_code == 0, result.output
    for words in ("prose", "chat", "float32", "Lite", "language reference of Python 3."):
        assert words in result.stdout


def test_the_head_may_be_chosen_by_variant(flash: Flash, model: Path, text: Path) -> None:
    result = flash("eval", model, "--variants", "nano,nano:int4", "--text", text, "--json")
    assert [row["variant"] for row in json.loads(result.stdout)["variants"]] == ["float32", "Nano", "Nano, int4 head"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--variants", "huge"], "variant (huge) must be one of"),
        (["--variants", ","], "--variants names none"),
        (["--text", "none.txt"], "--text none.txt: No such file"),
        (["--text", "short.txt"], "--text short.txt: 5 tokens, at least 64 are needed"),
        (["--text", "bytes.txt"], "--text bytes.txt: not UTF-8 text"),
    ],
)
def test_bad_input_is_one_line(flash: Flash, model: Path, arguments: list[str], says: str) -> None:
    Path("short.txt").write_text("short")
    Path("bytes.txt").write_bytes(b"\xff\xfe\xfd")
    result = flash("eval", model, *arguments)
    assert result.exit_code != 0
    assert says in result.stderr


def test_a_packed_file_has_nothing_to_be_compared_with(flash: Flash, model: Path) -> None:
    flash("pack", model, "-o", "m.flash")
    result = flash("eval", "m.flash", "--variants", "lite")
    assert result.exit_code == 3
    assert "is packed already; name the checkpoint that it was packed from" in result.stderr
