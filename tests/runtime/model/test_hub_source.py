"""`hf://` sources against a hub on the loopback interface: one commit, compared with its digests, all or nothing."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.file_server import COMMIT, Served, serving, web
from tiny_checkpoints import write_checkpoint
from tiny_gguf import write_gguf

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.cache import Cache
from flash_runtime.model.errors import CheckpointError, DownloadError, ModelError, RequestError, StorageError
from flash_runtime.model.hub import HubFile
from flash_runtime.model.hub_source import HubName, chosen
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull
from flash_runtime.model.sources import LocalSource, open_source
from flash_runtime.model.transfer import Web
from flash_runtime.packed import PackedFile

URI = "hf://tiny/llama"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def folder(served: Served, tmp_path: Path) -> Path:
    found = write_checkpoint(tmp_path / "llama", "llama")
    served.repository("tiny/llama", found)
    return found


def opened(
    cache: Cache,
    uri: str = URI,
    *,
    revision: str | None = None,
    token_file: Path | None = None,
    way: Web | None = None,
    log: io.StringIO | None = None,
) -> LocalSource:
    source = open_source(
        uri,
        revision=revision,
        sha256=None,
        environment={} if token_file is None else {ENV_TOKEN_FILE: str(token_file)},
        cache=cache,
        progress=ProgressReporter(log or io.StringIO(), None),
        web=way or web(),
    )
    assert isinstance(source, LocalSource)
    return source


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_repository_is_fetched_and_packed_and_its_commit_recorded(
    served: Served, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    source = opened(cache)
    assert contents(source.path) == contents(folder)
    progress = ProgressReporter(io.StringIO(), None)
    header = pull(PullRequest(source, "Lite", tmp_path / "a"), cache=cache, progress=progress)
    assert (header["about"]["source"], header["about"]["revision"]) == (URI, COMMIT)
    PackedFile.open(tmp_path / "a/model.flash").verify()


def test_a_model_whose_card_gives_no_name_is_called_like_its_repository(
    served: Served, cache: Cache, folder: Path
) -> None:
    assert opened(cache).path.name == "llama"


def test_a_revision_is_asked_for_and_a_commit_needs_no_network_later(
    served: Served, cache: Cache, folder: Path
) -> None:
    opened(cache, revision="main")
    assert served.asked[0][0] == "/api/models/tiny/llama/revision/main"
    served.asked.clear()
    opened(cache, revision="main")
    assert len(served.asked) == 1
    opened(cache, revision=COMMIT)
    assert len(served.asked) == 1


def test_a_gguf_inside_a_repository_is_fetched_alone(served: Served, cache: Cache, folder: Path) -> None:
    gguf = write_gguf(folder / "tiny-q8.gguf", "llama")
    served.repository("tiny/llama", folder)
    source = opened(cache, f"{URI}/tiny-q8.gguf")
    assert source.path.read_bytes() == gguf.read_bytes()
    assert [path.rpartition("/")[2] for path, *_ in served.asked] == ["llama", "tiny-q8.gguf"]


def test_an_interruption_in_the_middle_of_a_file_is_taken_up_there(served: Served, cache: Cache, folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    order = [path.name for path in sorted(folder.iterdir())]
    whole = [1 << 30] * order.index("model.safetensors")
    served.breaks = [*whole, len(weights) // 2, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"6 times in a row; check the network .* goes on from there"):
        opened(cache)
    served.asked.clear()
    assert contents(opened(cache).path) == contents(folder)
    fetched = [(path.rpartition("/")[2], wanted) for path, wanted, _ in served.asked[1:]]
    assert fetched[0] == ("model.safetensors", f"bytes={len(weights) // 2}-")
    assert [name for name, _ in fetched] == order[order.index("model.safetensors") :]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_another_digest_than_the_hub_names_is_refused(
    served: Served, cache: Cache, folder: Path, name: str
) -> None:
    path = f"/tiny/llama/resolve/{COMMIT}/{name}"
    right = served.files[path]
    served.files[path] = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(
        CheckpointError, match=rf"hf://tiny/llama at c0ffee0.*: {name}: its digest is .*, the hub names"
    ):
        opened(cache)
    served.files[path] = right
    assert contents(opened(cache).path) == contents(folder)


@pytest.mark.parametrize(
    ("uri", "revision", "status", "error", "reason"),
    [
        ("hf://tiny/nothing", None, None, CheckpointError, r"has no such model \(404\); check model\.source"),
        (URI, "v9", None, CheckpointError, r"\(revision v9\): the repository has no such revision; check model\.rev"),
        (URI, None, 401, DownloadError, r"(wants a|refuses the) token.* \(401\).*credentialsSecretRef.*HF_TOKEN"),
        (URI, None, 403, DownloadError, "accept the model's licence"),
        (URI, None, 400, DownloadError, "the hub answers 400"),
    ],
)
def test_a_refusal_names_source_field_and_remedy(
    served: Served,
    cache: Cache,
    folder: Path,
    uri: str,
    revision: str | None,
    status: int | None,
    error: type[ModelError],
    reason: str,
) -> None:
    served.statuses = [status] if status else []
    with pytest.raises(error, match=rf"source {uri}.*{reason}") as caught:
        opened(cache, uri, revision=revision)
    assert "\n" not in str(caught.value)
    assert len(served.asked) == 1


def test_a_busy_hub_is_asked_again(served: Served, cache: Cache, folder: Path) -> None:
    served.statuses = [503, 502]
    waits: list[float] = []
    opened(cache, way=web(slept=waits.append))
    assert waits == [1.0, 2.0]


def test_a_hub_that_is_not_there_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DownloadError, match=r"hf://tiny/llama: http://127\.0\.0\.1:1 cannot be reached .*HF_ENDPOINT"):
        opened(cache)


def test_a_token_opens_a_repository_and_stays_secret(
    served: Served, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    served.token, log, file = "s3cret", io.StringIO(), tmp_path / "token"
    with pytest.raises(DownloadError, match=r"(wants a|refuses the) token"):
        opened(cache, log=log)
    file.write_text("s3cret\n")
    opened(cache, token_file=file, log=log)
    assert {authorization for *_, authorization in served.asked[1:]} == {"Bearer s3cret"}
    assert "s3cret" not in log.getvalue()
    assert all(b"s3cret" not in path.read_bytes() for path in cache.root.rglob("*") if path.is_file())


def test_a_repository_that_has_no_room_is_refused_before_its_first_file(
    served: Served, cache: Cache, folder: Path
) -> None:
    with pytest.raises(StorageError, match=r"hf://tiny/llama at c0ffee000000 needs .* MB more and the disk has 64 MB"):
        opened(cache, way=web(free_bytes=64_500_000))
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    "uri", ["hf://llama", "hf://", "hf://a/b@main", "hf://a/../b", "hf://a/b/c.bin", "hf://a/b/tree/main", "hf://a b/c"]
)
def test_a_uri_that_is_no_repository_is_refused(cache: Cache, uri: str) -> None:
    with pytest.raises(RequestError, match=rf"source {uri}: .*must be"):
        opened(cache, uri)


def files(*names: str) -> list[HubFile]:
    return [HubFile(name, 1, "", hashlib.sha256(name.encode()).hexdigest(), None) for name in names]


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
TEXT = ("config.json", "tokenizer.json", "README.md", "chat_template.jinja")


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (("model.safetensors", "pytorch_model.bin", "onnx/model.onnx"), ("model.safetensors",)),
        (("model.safetensors", "consolidated.safetensors"), ("model.safetensors",)),
        (
            (*SHARDS, "consolidated-00001-of-00001.safetensors"),
            SHARDS,
        ),
        (("weights.safetensors", "original/weights.safetensors"), ("weights.safetensors",)),
    ],
)
def test_weights_configuration_and_tokenizer_are_taken_once(there: tuple[str, ...], taken: tuple[str, ...]) -> None:
    found = chosen("hf://a/b", HubName("a/b", None), files(*there, *TEXT, "LICENSE", "image.png"))
    assert {file.name for file in found} == {*taken, *TEXT}


@pytest.mark.parametrize(
    ("uri", "name", "there", "reason"),
    [
        (
            "hf://a/b",
            None,
            ("x-q8.gguf", "x-q4.gguf"),
            r"no \*\.safetensors; name one of its files, as in hf://a/b/x-q4",
        ),
        ("hf://a/b", None, ("pytorch_model.bin",), r"PyTorch \.bin weights are not read"),
        ("hf://a/b/y.gguf", "y.gguf", ("x.gguf",), r"has no y\.gguf; it has x\.gguf"),
        ("hf://a/b/y.gguf", "y.gguf", (), r"has no y\.gguf, and no \.gguf at all"),
    ],
)
def test_a_repository_without_readable_weights_says_what_it_has(
    uri: str, name: str | None, there: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        chosen(uri, HubName("a/b", name), files(*there, *TEXT))


def test_a_listing_without_digests_is_not_trusted(served: Served, cache: Cache, folder: Path) -> None:
    document = json.loads(served.files["/api/models/tiny/llama"])
    for entry in document["siblings"]:
        entry.pop("lfs", None)
        entry["blobId"] = None
    served.files["/api/models/tiny/llama"] = json.dumps(document).encode()
    with pytest.raises(CheckpointError, match="the hub names no digest"):
        opened(cache)
