"""`flash pack`: one file that serves, and one line for what cannot be packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flash_program import Flash
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import write_checkpoint
from tiny_gguf import write_gguf

from flash_runtime.packed import PackedFile


@pytest.mark.parametrize(
    ("variant", "formats"), [("cloud", ("bf16", "bf16")), ("lite", ("int8", "int8")), ("nano", ("int4", "int8"))]
)
def test_the_file_is_named_after_model_and_variant(
    flash: Flash, tmp_path: Path, variant: str, formats: tuple[str, str]
) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", "llama")
    result = flash("pack", gguf, "--variant", variant)
    assert result.exit_code == 0, result.output
    assert f"weights {formats[0]}, head {formats[1]}" in result.stdout
    packed = PackedFile.open(Path(f"tiny-{variant}.flash"))
    packed.verify()
    assert packed.header["variant"] == variant.capitalize()
    assert packed.header["about"]["source"] == gguf.as_uri()


def test_a_folder_is_packed_by_a_relative_path_under_a_chosen_name(flash: Flash, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "work/tiny", "qwen3_moe")
    assert flash("pack", "tiny", "--variant", "nano", "--head", "int4", "-o", "out/small.flash").exit_code == 0
    assert PackedFile.open(Path("out/small.flash")).header["model"]["head_format"] == "int4"


def test_a_file_that_exists_is_replaced_only_by_force(flash: Flash, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", "llama")
    Path("tiny-lite.flash").write_text("mine")
    refused = flash("pack", gguf)
    assert (refused.exit_code, Path("tiny-lite.flash").read_text()) == (1, "mine")
    assert "tiny-lite.flash: exists already; replace it with --force" in refused.stderr
    assert flash("pack", gguf, "--force").exit_code == 0
    PackedFile.open(Path("tiny-lite.flash")).verify()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["tiny", "--variant", "huge"], 2, "variant (huge) must be one of Cloud, Lite, Nano"),
        (["tiny", "--variant", "cloud", "--head", "int4"], 2, "head (int4) must be bf16 for variant Cloud"),
        (["nowhere"], 3, "does not exist on this machine"),
        (
            ["builtin://nothing"],
            2,
            "no builtin model of that name; known: flash-tiny, flash-tiny-draft, smollm2-135m-instruct",
        ),
        (["tiny", "--sha256", "0" * 64], 3, "is expected; the weights are not the ones that were pinned"),
    ],
)
def test_what_cannot_be_packed_is_one_line_and_an_exit_code(
    flash: Flash, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    write_checkpoint(tmp_path / "work/tiny", "llama")
    result = flash("pack", *arguments)
    assert result.exit_code == code
    assert says in result.stderr.splitlines()[-1]
    assert list(Path().glob("*.flash")) == []


def test_an_unsupported_architecture_is_named_with_the_supported_ones(flash: Flash, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "llama", changes={"architectures": ["FooForCausalLM"]})
    result = flash("pack", folder)
    assert result.exit_code == 2
    assert "architecture FooForCausalLM is not supported; known: GraniteForCausalLM, " in result.stderr
    assert "Qwen3MoeForCausalLM" in result.stderr


@pytest.mark.parametrize("variant", ["cloud", "lite", "nano"])
def test_damaged_weights_are_named_with_tensor_and_file(flash: Flash, tmp_path: Path, variant: str) -> None:
    folder = write_checkpoint(tmp_path / "m", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"].flat[7] = float("nan")
    save_file(weights, folder / "model.safetensors")
    result = flash("pack", folder, "--variant", variant)
    assert result.exit_code == 3
    assert f"{folder}/model.safetensors: tensor model.layers.1.mlp.up_proj.weight holds NaN" in result.stderr


def test_a_tokenizer_of_another_model_is_refused(flash: Flash, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "llama")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = 900
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = flash("pack", folder)
    assert result.exit_code == 3
    assert f"{folder}: the tokenizer's highest id is 900, the embedding has 264 rows" in result.stderr
    assert "take the tokenizer that belongs to these weights" in result.stderr
