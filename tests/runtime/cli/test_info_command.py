"""`flash info`: kernels, facts of a model, checksums, and how its experts are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flash_program import Flash
from tiny_checkpoints import CONFIGS, tensors, write_checkpoint
from tiny_gguf import write_gguf

from flash_runtime.packed import PackedFile


def test_without_a_model_it_names_the_kernels(flash: Flash) -> None:
    result = flash("info", "--json")
    kernels = json.loads(result.stdout)["kernels"]
    assert kernels["isa"] in kernels["supported"]
    assert kernels["threads"] >= 1
    assert f"{kernels['isa']}, {kernels['threads']} threads" in flash("info").stdout


def test_an_instruction_set_this_cpu_has_not_is_refused(flash: Flash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHPLANE_ISA", "neon")
    result = flash("info")
    assert result.exit_code == 2
    assert "FLASHPLANE_ISA (neon) must be one this CPU supports: " in result.stderr


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_parameters_are_those_of_the_checkpoint(flash: Flash, tmp_path: Path, kind: str) -> None:
    model = json.loads(flash("info", write_checkpoint(tmp_path / "m", kind), "--json").stdout)["model"]
    expected = sum(array.size for name, array in tensors(CONFIGS[kind]) if "bias" not in name and "q_norm" not in name)
    expected -= sum(array.size for name, array in tensors(CONFIGS[kind]) if "k_norm" in name)
    assert model["parameters"] == expected


def test_a_mixture_counts_only_the_experts_of_one_token_as_active(flash: Flash, tmp_path: Path) -> None:
    model = json.loads(flash("info", write_checkpoint(tmp_path / "m", "qwen3_moe"), "--json").stdout)["model"]
    idle = 3 * 6 * (3 * 48 * 96)  # layers x experts that are not chosen x weights of one
    embedding = 264 * 96
    assert model["active_parameters"] == model["parameters"] - idle - embedding
    assert (model["experts"], model["active_experts"]) == (8, 2)


def test_a_packed_file_says_what_it_holds(flash: Flash, tmp_path: Path) -> None:
    flash("pack", write_gguf(tmp_path / "tiny.gguf", "llama"), "--variant", "nano")
    result = flash("info", "tiny-nano.flash")
    assert result.exit_code == 0, result.output
    for words in (
        "Nano: weights int4, head int8",
        "Tiny, licence apache-2.0",
        "llama, 3 layers, context 512 tokens",
        "checksums not compared",
        "KiB for each token",
    ):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("option", "words"), [(("--rotate",), "weights int8, head int8, rotated"), ((), "weights int8, head int8\n")]
)
def test_a_packed_file_says_whether_it_is_rotated(
    flash: Flash, tmp_path: Path, option: tuple[str, ...], words: str
) -> None:
    flash("pack", write_gguf(tmp_path / "tiny.gguf", "llama"), *option)
    shown = flash("info", "tiny-lite.flash").stdout
    assert words in "\n".join(line.rstrip() for line in shown.splitlines())
    assert json.loads(flash("info", "tiny-lite.flash", "--json").stdout)["model"]["rotated"] is bool(option)


def test_verify_reads_every_blob(flash: Flash, tmp_path: Path) -> None:
    flash("pack", write_gguf(tmp_path / "tiny.gguf", "llama"), "--variant", "nano")
    path = Path("tiny-nano.flash")
    assert "every checksum holds" in flash("info", path, "--verify").stdout
    content = bytearray(path.read_bytes())
    content[PackedFile.open(path).blobs["layers.1.o.scale"].offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    assert flash("info", path).exit_code == 0
    result = flash("info", path, "--verify")
    assert result.exit_code == 3
    assert "tiny-nano.flash: blob 'layers.1.o.scale' has checksum" in result.stderr
    assert "flash pack" in result.stderr


def test_a_file_cut_off_is_found_at_once(flash: Flash, tmp_path: Path) -> None:
    flash("pack", write_gguf(tmp_path / "tiny.gguf", "llama"))
    path = Path("tiny-lite.flash")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-100])
    result = flash("info", path)
    assert result.exit_code == 3
    assert "tiny-lite.flash: " in result.stderr
    assert "cut off" in result.stderr


def test_verify_is_for_packed_files(flash: Flash, tmp_path: Path) -> None:
    result = flash("info", write_gguf(tmp_path / "tiny.gguf", "llama"), "--verify")
    assert result.exit_code == 2
    assert "--verify reads packed files" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--experts"], "--experts needs a MODEL"),
        (["--verify"], "--verify needs a MODEL"),
        (["tiny", "--prompt", "a"], "--prompt and --text go with --experts"),
        (["tiny", "--experts", "--prompt", "a"], "1 tokens, at least 2 are needed"),
        (["tiny", "--experts", "--text", "none.txt"], "--text none.txt: No such file or directory"),
        (["tiny", "--experts", "--text", "tiny/tokenizer_config.json", "--variant", "huge"], "must be one of Cloud"),
    ],
)
def test_options_that_contradict_are_one_line(flash: Flash, tmp_path: Path, arguments: list[str], says: str) -> None:
    write_checkpoint(tmp_path / "work/tiny", "qwen3_moe")
    result = flash("info", *arguments)
    assert result.exit_code != 0
    assert says in result.stderr


def test_a_dense_model_says_that_it_has_no_experts(flash: Flash, tmp_path: Path) -> None:
    result = flash("info", write_gguf(tmp_path / "tiny.gguf", "llama"), "--experts")
    assert result.exit_code == 0, result.output
    assert "This model is dense" in result.stdout


def test_experts_are_counted_token_by_token(flash: Flash, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "qwen3_moe")
    (tmp_path / "text").write_text("All work and no play makes Jack a dull boy. " * 20)
    arguments = ("info", folder, "--experts", "--text", tmp_path / "text", "--max-tokens", "600")
    layers = json.loads(flash(*arguments, "--json").stdout)["experts"]
    assert [layer["layer"] for layer in layers] == [0, 1, 2]
    for layer in layers:
        assert len(layer["tokens"]) == 8
        assert sum(layer["tokens"]) == 2 * 512
        assert layer["skew"] == pytest.approx(max(layer["tokens"]) / 128)
        assert layer["dead"] == [index for index, count in enumerate(layer["tokens"]) if not count]
    drawn = flash(*arguments).stdout
    assert "experts 0 to 7" in drawn
    assert f"{layers[0]['skew']:.2f}" in drawn
