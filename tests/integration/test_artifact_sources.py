"""`oci://` sources against the reference registry: every kind of artifact, every way to log in, and what goes wrong."""

from __future__ import annotations

import base64
import io
import json
import platform
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifacts import EMPTY, FILEPATH, IMAGE, INDEX, MANIFEST, MODELPACK, TITLE, Layer, archive, push, titled
from fakes.fault_proxy import Fault, FaultProxy, between
from fakes.file_server import web
from stores_plugin import LOGIN, Server
from tiny_checkpoints import write_checkpoint
from tiny_gguf import write_gguf
from token_server import Tokens

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.cache import Cache
from flash_runtime.model.errors import CheckpointError, DownloadError, ModelError, RequestError, StorageError
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull
from flash_runtime.model.sources import LocalSource, open_source


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llama", "llama")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama").read_bytes()


@pytest.fixture
def proxy(registry: Server) -> Iterator[FaultProxy]:
    with between(registry.host) as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def opened(
    cache: Cache,
    uri: str,
    *,
    secret: Path | None = None,
    revision: str | None = None,
    log: io.StringIO | None = None,
    free_bytes: int = 1 << 40,
) -> LocalSource:
    source = open_source(
        uri,
        revision=revision,
        sha256=None,
        environment={} if secret is None else {ENV_TOKEN_FILE: str(secret)},
        cache=cache,
        progress=ProgressReporter(log or io.StringIO(), None),
        web=web(free_bytes=free_bytes),
    )
    assert isinstance(source, LocalSource)
    return source


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def oras(files: dict[str, bytes]) -> list[Layer]:
    return [titled(name, content) for name, content in files.items()]


def test_a_tag_is_looked_up_once_and_its_digest_is_told_and_recorded(
    proxy: FaultProxy, cache: Cache, files: dict[str, bytes], tmp_path: Path
) -> None:
    digest = push(f"http://{proxy.upstream}", "team/llama", "v1", oras(files))
    log = io.StringIO()
    source = opened(cache, f"oci://{proxy.host}/team/llama:v1", log=log)
    assert f"oci://{proxy.host}/team/llama:v1 is {digest}" in log.getvalue()
    assert contents(source.path) == files
    assert source.path.name == "llama"
    assert [address for _, address, *_ in proxy.asked if "/manifests/" in address] == ["/v2/team/llama/manifests/v1"]
    progress = ProgressReporter(io.StringIO(), None)
    header = pull(PullRequest(source, "Lite", tmp_path / "a"), cache=cache, progress=progress)
    assert header["about"]["revision"] == digest
    assert list((cache.root / "partial").iterdir()) == []


def test_a_digest_needs_no_network_once_it_was_fetched(
    proxy: FaultProxy, cache: Cache, files: dict[str, bytes]
) -> None:
    digest = push(f"http://{proxy.upstream}", "team/pinned", "v1", oras(files))
    first = opened(cache, f"oci://{proxy.host}/team/pinned@{digest}")
    assert contents(first.path) == files
    proxy.asked.clear()
    assert opened(cache, f"oci://{proxy.host}/team/pinned:v1@{digest}").path == first.path
    assert proxy.asked == []
    assert opened(cache, f"oci://{proxy.host}/team/pinned:v1").path == first.path
    assert len(proxy.asked) == 1


def test_only_the_models_files_of_an_artifact_are_fetched(
    proxy: FaultProxy, cache: Cache, files: dict[str, bytes]
) -> None:
    others = {
        "pytorch_model.bin": b"not taken",
        "original/consolidated.safetensors": b"nor this",
        "run.sh": b"nor this",
    }
    push(f"http://{proxy.upstream}", "team/more", "v1", oras({**files, **others}))
    assert contents(opened(cache, f"oci://{proxy.host}/team/more:v1").path) == files
    assert len([address for _, address, *_ in proxy.asked if "/blobs/" in address]) == len(files)


def test_one_gguf_is_a_model(registry: Server, cache: Cache, gguf: bytes) -> None:
    push(registry.url, "team/gguf", "v1", [titled("out/tiny-q8.gguf", gguf), titled("README.md", b"# Tiny")])
    found = opened(cache, f"oci://{registry.host}/team/gguf:v1").path
    assert (found.name, found.read_bytes()) == ("tiny-q8.gguf", gguf)
    docker = Layer(gguf, "application/vnd.docker.ai.gguf.v3", {})
    push(
        registry.url, "team/docker", "latest", [docker], config_type="application/vnd.docker.ai.model.config.v0.1+json"
    )
    assert opened(cache, f"oci://{registry.host}/team/docker").path.read_bytes() == gguf


def modelpack(files: dict[str, bytes], *, kind: str) -> list[Layer]:
    return [
        Layer(
            archive({name: content}, packed=kind.endswith("gzip")) if "tar" in kind else content,
            f"{MODELPACK}{'weight' if name.endswith('.safetensors') else 'weight.config'}.v1.{kind}",
            {FILEPATH: name},
        )
        for name, content in files.items()
    ]


@pytest.mark.parametrize("kind", ["raw", "tar", "tar+gzip"])
def test_a_modelpack_is_read(registry: Server, cache: Cache, files: dict[str, bytes], kind: str) -> None:
    code = Layer(archive({"train.py": b""}), f"{MODELPACK}code.v1.tar", {FILEPATH: "train.py"})
    repository = f"pack/{kind.replace('+', '-')}"
    push(
        registry.url,
        repository,
        "v1",
        [*modelpack(files, kind=kind), code],
        config_type=f"{MODELPACK}config.v1+json",
    )
    assert contents(opened(cache, f"oci://{registry.host}/{repository}:v1").path) == files


def layer(files: dict[str, bytes], **options: object) -> Layer:
    return Layer(archive(files, **options), "application/vnd.oci.image.layer.v1.tar+gzip", {})  # type: ignore[arg-type]


def test_an_image_carries_a_model_below_models_and_its_later_layers_win(
    registry: Server, cache: Cache, files: dict[str, bytes]
) -> None:
    base = layer({"bin/sh": b"#!", "etc/config.json": b"{}"})
    first = layer({f"models/{name}": content for name, content in files.items()} | {"models/old.json": b"{}"})
    second = layer({"models/config.json": files["config.json"] + b"\n", "models/.wh.old.json": b""})
    push(registry.url, "car", "v1", [base, first, second], config_type=IMAGE)
    found = contents(opened(cache, f"oci://{registry.host}/car:v1").path)
    assert found == {**files, "config.json": files["config.json"] + b"\n"}


def test_an_image_for_several_machines_is_read_for_this_one(
    registry: Server, cache: Cache, files: dict[str, bytes]
) -> None:
    own = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    image = layer({f"models/{name}": content for name, content in files.items()})
    digest = push(registry.url, "cars", "one", [image], config_type=IMAGE)
    size = len(manifest_of(registry, "cars", digest))
    entries = [
        {"mediaType": MANIFEST, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": own}},
        {
            "mediaType": MANIFEST,
            "digest": digest,
            "size": size,
            "platform": {"os": "unknown", "architecture": "unknown"},
        },
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    pinned = push(registry.url, "cars", "v1", [], manifest=index)
    assert contents(opened(cache, f"oci://{registry.host}/cars@{pinned}").path) == files
    foreign = {**index, "manifests": [{**entries[0], "platform": {"os": "linux", "architecture": "s390x"}}]}
    push(registry.url, "cars", "foreign", [], manifest=foreign)
    with pytest.raises(CheckpointError, match=rf"is an index with 0 manifests for {own}; name one by its @sha256"):
        opened(cache, f"oci://{registry.host}/cars:foreign")


def manifest_of(registry: Server, repository: str, digest: str) -> bytes:
    request = urllib.request.Request(f"{registry.url}/v2/{repository}/manifests/{digest}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(request) as answer:
        content: bytes = answer.read()
    return content


@pytest.mark.parametrize(
    ("repository", "layers", "config", "message"),
    [
        ("no/model", [layer({"bin/sh": b""})], IMAGE, "has no *.safetensors"),
        ("no/names", [Layer(b"x", "application/x-thing", {})], EMPTY, "holds no model that is known (config "),
        (
            "no/zstd",
            [Layer(b"x", "application/vnd.oci.image.layer.v1.tar+zstd", {})],
            IMAGE,
            "push it as tar or tar+gzip",
        ),
        ("no/way", [titled("../../etc/config.json", b"{}")], EMPTY, "leads out of its folder"),
        ("no/root", [titled("/etc/config.json", b"{}")], EMPTY, "leads out of its folder"),
        ("no/climb", [layer({"models/../../config.json": b"{}"})], IMAGE, "leads out of its folder"),
        ("no/link", [layer({}, links={"models/config.json": "/etc/passwd"})], IMAGE, "is a link or a device"),
        (
            "no/tar",
            [Layer(b"x" * 600, "application/vnd.oci.image.layer.v1.tar+gzip", {})],
            IMAGE,
            "is no tar+gzip archive",
        ),
        (
            "no/cut",
            [Layer(archive({"models/config.json": b"x" * 10**6})[:900], "a.tar+gzip", {})],
            IMAGE,
            "is no tar+gzip",
        ),
        (
            "no/choice",
            [titled("a.gguf", b"GGUF"), titled("b.gguf", b"GGUF1")],
            EMPTY,
            "holds 2 models (a.gguf, b.gguf)",
        ),
    ],
)
def test_what_is_no_model_is_refused_by_name(
    registry: Server, cache: Cache, repository: str, layers: list[Layer], config: str, message: str
) -> None:
    push(registry.url, repository, "v1", layers, config_type=config)
    with pytest.raises(CheckpointError) as caught:
        opened(cache, f"oci://{registry.host}/{repository}:v1")
    assert message in str(caught.value)
    assert f"source oci://{registry.host}/{repository}:v1" in str(caught.value)
    assert not list((cache.root / "oci").rglob("*.json"))


def test_a_blob_that_breaks_off_is_taken_up_where_it_did(
    proxy: FaultProxy, cache: Cache, files: dict[str, bytes]
) -> None:
    push(f"http://{proxy.upstream}", "team/broken", "v1", oras(files))
    weights = titled("model.safetensors", files["model.safetensors"])
    proxy.faults = [Fault(weights.digest, times=2, cut=5000)]
    assert contents(opened(cache, f"oci://{proxy.host}/team/broken:v1").path) == files
    assert proxy.ranges(weights.digest) == [None, "bytes=5000-", "bytes=10000-"]


def test_what_arrived_outlives_the_pull(proxy: FaultProxy, cache: Cache, files: dict[str, bytes]) -> None:
    push(f"http://{proxy.upstream}", "team/later", "v1", oras(files))
    weights = titled("model.safetensors", files["model.safetensors"])
    proxy.faults = [Fault(weights.digest, cut=5000), Fault(weights.digest, times=1000, status=503)]
    with pytest.raises(DownloadError, match=r"answers 503, 6 times in a row; .* goes on from there"):
        opened(cache, f"oci://{proxy.host}/team/later:v1")
    proxy.faults = []
    proxy.asked.clear()
    assert contents(opened(cache, f"oci://{proxy.host}/team/later:v1").path) == files
    assert proxy.ranges(weights.digest) == ["bytes=5000-"]


def test_bytes_that_do_not_have_their_digest_are_refused_and_forgotten(
    proxy: FaultProxy, cache: Cache, files: dict[str, bytes]
) -> None:
    push(f"http://{proxy.upstream}", "team/changed", "v1", oras(files))
    config = titled("config.json", files["config.json"])
    proxy.faults = [Fault(config.digest, change=(b"llama", b"lLama"))]
    with pytest.raises(
        CheckpointError, match=rf"a layer's digest is sha256:\w+, its manifest names {config.digest}; pull"
    ):
        opened(cache, f"oci://{proxy.host}/team/changed:v1")
    assert contents(opened(cache, f"oci://{proxy.host}/team/changed:v1").path) == files


def test_a_manifest_that_does_not_have_the_pinned_digest_is_refused(
    proxy: FaultProxy, cache: Cache, files: dict[str, bytes]
) -> None:
    digest = push(f"http://{proxy.upstream}", "team/forged", "v1", oras(files))
    proxy.faults = [Fault("/manifests/", change=(b"tokenizer", b"t0kenizer"))]
    with pytest.raises(CheckpointError, match=rf"the manifest's digest is sha256:\w+, {digest} is expected"):
        opened(cache, f"oci://{proxy.host}/team/forged@{digest}")


@pytest.mark.parametrize(
    ("reference", "message"),
    [("team/none:v1", "no such artifact (404)"), ("team/llama:none", "no such artifact (404)")],
)
def test_what_is_not_there_is_named(registry: Server, cache: Cache, reference: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        opened(cache, f"oci://{registry.host}/{reference}")
    assert message in str(caught.value)


def test_a_registry_that_is_not_there_is_named(cache: Cache) -> None:
    with pytest.raises(DownloadError, match=r"127.0.0.1:1 cannot be reached \(.*\); check the network, the proxy"):
        opened(cache, "oci://127.0.0.1:1/team/llama:v1")


def test_a_disk_without_room_is_named(registry: Server, cache: Cache, files: dict[str, bytes]) -> None:
    push(registry.url, "team/large", "v1", oras(files))
    with pytest.raises(StorageError, match="free space there or point FLASHPLANE_CACHE elsewhere"):
        opened(cache, f"oci://{registry.host}/team/large:v1", free_bytes=1000)


def test_a_revision_is_refused_with_what_to_write(registry: Server, cache: Cache) -> None:
    with pytest.raises(RequestError, match="an oci:// source names it itself, as in"):
        opened(cache, f"oci://{registry.host}/team/llama:v1", revision="v2")


def docker_config(path: Path, host: str, **entry: str) -> Path:
    path.write_text(json.dumps({"auths": {host: entry}}))
    return path


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("form", ["auth", "username and password"])
def test_a_registry_with_a_login_takes_it_from_the_docker_configuration(
    login_registry: Server, cache: Cache, files: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    push(login_registry.url, "team/llama", "v1", oras(files), login=LOGIN)
    entry = {"auth": basic(*LOGIN)} if form == "auth" else {"username": LOGIN[0], "password": LOGIN[1]}
    secret = docker_config(tmp_path / "secret", login_registry.host, **entry)
    assert contents(opened(cache, f"oci://{login_registry.host}/team/llama:v1", secret=secret).path) == files


def test_a_refused_login_is_one_sentence_without_the_password(
    login_registry: Server, token_registry: Server, cache: Cache, tmp_path: Path
) -> None:
    for server in (login_registry, token_registry):
        secret = docker_config(tmp_path / "secret", server.host, auth=basic(LOGIN[0], "wrong-password"))
        with pytest.raises(
            DownloadError, match=r"the registry refuses the login \(401\); put a \.dockerconfigjson"
        ) as caught:
            opened(cache, f"oci://{server.host}/team/llama:v1", secret=secret)
        assert "wrong-password" not in str(caught.value)
        with pytest.raises(DownloadError, match=r"the registry wants a login, or has no such artifact \(401\)"):
            opened(cache, f"oci://{server.host}/team/llama:v1")
        other = docker_config(tmp_path / "other", "registry.example.com", auth=basic(*LOGIN))
        with pytest.raises(RequestError, match=f"has no login for {server.host}; add it"):
            opened(cache, f"oci://{server.host}/team/llama:v1", secret=other)


def test_a_registry_with_tokens_gives_one_for_a_login_or_an_identity(
    token_registry: Server, tokens: Tokens, cache: Cache, files: dict[str, bytes], tmp_path: Path
) -> None:
    pushing = f"Bearer {tokens.token('repository:team/llama:push,pull')}"
    push(token_registry.url, "team/llama", "v1", oras(files), authorization=pushing)
    for entry in ({"auth": basic(*LOGIN)}, {"identitytoken": tokens.identity_token}):
        tokens.asked.clear()
        secret = docker_config(tmp_path / "secret", token_registry.host, **entry)
        fresh = Cache(tmp_path / next(iter(entry)))
        assert contents(opened(fresh, f"oci://{token_registry.host}/team/llama:v1", secret=secret).path) == files
        assert tokens.asked == ["repository:team/llama:pull"]


def test_a_token_that_expires_in_mid_pull_is_replaced_and_the_blob_taken_up(
    token_registry: Server, tokens: Tokens, cache: Cache, files: dict[str, bytes], tmp_path: Path
) -> None:
    pushing = f"Bearer {tokens.token('repository:team/hours:push,pull')}"
    push(token_registry.url, "team/hours", "v1", oras(files), authorization=pushing)
    weights = titled("model.safetensors", files["model.safetensors"])
    with between(token_registry.host) as proxy:
        secret = docker_config(tmp_path / "secret", proxy.host, auth=basic(*LOGIN))
        proxy.faults = [Fault(weights.digest, cut=5000), Fault(weights.digest, status=401)]
        tokens.asked.clear()
        assert contents(opened(cache, f"oci://{proxy.host}/team/hours:v1", secret=secret).path) == files
        assert len(tokens.asked) == 2
        assert proxy.ranges(weights.digest) == [None, "bytes=5000-", "bytes=5000-"]
        keys = {authorization for _, address, _, authorization in proxy.asked if weights.digest in address}
        assert len(keys) == 2


def test_a_registry_that_never_takes_its_own_tokens_ends_in_an_error(
    token_registry: Server, tokens: Tokens, cache: Cache, files: dict[str, bytes], tmp_path: Path
) -> None:
    pushing = f"Bearer {tokens.token('repository:team/never:push,pull')}"
    push(token_registry.url, "team/never", "v1", oras(files), authorization=pushing)
    with between(token_registry.host) as proxy:
        secret = docker_config(tmp_path / "secret", proxy.host, auth=basic(*LOGIN))
        proxy.faults = [Fault("/blobs/", times=1000, status=401)]
        with pytest.raises(ModelError, match="refuses the token"):
            opened(cache, f"oci://{proxy.host}/team/never:v1", secret=secret)


def test_titles_of_a_pushed_folder_lose_the_folder(registry: Server, cache: Cache, files: dict[str, bytes]) -> None:
    push(registry.url, "team/folder", "v1", oras({f"out/llama/{name}": content for name, content in files.items()}))
    assert contents(opened(cache, f"oci://{registry.host}/team/folder:v1").path) == files
    whole = {f"llama/{name}": content for name, content in files.items()}
    packed = Layer(
        archive(whole),
        "application/vnd.oci.image.layer.v1.tar+gzip",
        {TITLE: "llama", "io.deis.oras.content.unpack": "true"},
    )
    push(registry.url, "team/unpacked", "v1", [packed])
    assert contents(opened(cache, f"oci://{registry.host}/team/unpacked:v1").path) == files
