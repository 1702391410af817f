"""`s3://` and `gs://` sources against a real S3 server and an emulator of Google's, and against what goes wrong."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import obstore
import pytest
from fakes.fault_proxy import Fault, FaultProxy, between
from fakes.file_server import web
from obstore.store import S3Store
from stores_plugin import ACCESS_KEY, SECRET_KEY, Server
from tiny_checkpoints import write_checkpoint
from tiny_gguf import write_gguf

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.cache import Cache
from flash_runtime.model.errors import CheckpointError, DownloadError, ModelError, RequestError, StorageError
from flash_runtime.model.object_source import MAX_OBJECTS, fetch_objects
from flash_runtime.model.object_transfer import Ranges
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull
from flash_runtime.model.sources import LocalSource, open_source
from flash_runtime.packed import PackedFile

BUCKET = "models"
SMALL = Ranges(nbytes=32 << 10, at_once=1)
PARALLEL = Ranges(nbytes=32 << 10, at_once=4)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llama", "llama")
    (folder / "pytorch_model.bin").write_bytes(b"not taken")
    return folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama")


def writer(s3: Server, bucket: str = BUCKET) -> S3Store:
    (s3.data / bucket).mkdir(exist_ok=True)
    config = {"endpoint": s3.url, "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "region": "us-east-1"}
    return S3Store(bucket, config=config, client_options={"allow_http": True})


@pytest.fixture(scope="module")
def bucket(s3: Server, checkpoint: Path, gguf: Path) -> Server:
    """A bucket with a folder in the hub's layout and a folder with one GGUF."""
    store = writer(s3)
    for path in checkpoint.iterdir():
        obstore.put(store, f"team/llama/{path.name}", path.read_bytes())
    obstore.put(store, "team/llama/original/params.json", b"{}")
    obstore.put(store, "team/gguf/tiny.gguf", gguf.read_bytes())
    return s3


@pytest.fixture
def proxy(bucket: Server) -> Iterator[FaultProxy]:
    with between(bucket.host) as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    return path


def fetched(
    cache: Cache,
    secret: Path | None,
    uri: str,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    ranges: Ranges | None = None,
    log: io.StringIO | None = None,
    free_bytes: int = 1 << 40,
) -> Path:
    return fetch_objects(
        uri,
        revision=revision,
        sha256=sha256,
        environment={} if secret is None else {ENV_TOKEN_FILE: str(secret)},
        cache=cache,
        progress=ProgressReporter(log or io.StringIO(), None),
        web=web(free_bytes=free_bytes),
        ranges=ranges,
    )[0]


def uri_of(server: Server | FaultProxy, key: str, *, bucket: str = BUCKET) -> str:
    return f"s3://{bucket}/{key}?endpoint={server.url}"


def model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".bin"}


def test_a_folder_is_fetched_and_packed_and_only_its_model_files_are_taken(
    bucket: Server, cache: Cache, secret: Path, checkpoint: Path, tmp_path: Path
) -> None:
    source = open_source(
        uri_of(bucket, "team/llama"),
        revision=None,
        sha256=hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest(),
        environment={ENV_TOKEN_FILE: str(secret)},
        cache=cache,
        progress=ProgressReporter(io.StringIO(), tmp_path / "progress"),
        web=web(),
    )
    assert isinstance(source, LocalSource)
    assert source.path.name == "llama"
    assert model_files(source.path) == model_files(checkpoint)
    assert not (source.path / "pytorch_model.bin").exists()
    assert json.loads((tmp_path / "progress").read_bytes())["phase"] == "download"
    pull(PullRequest(source, "Lite", tmp_path / "a"), cache=cache, progress=ProgressReporter(io.StringIO(), None))
    PackedFile.open(tmp_path / "a/model.flash").verify()
    assert list((cache.root / "partial").iterdir()) == []


def test_a_folder_that_did_not_change_is_listed_and_not_fetched_again(
    proxy: FaultProxy, cache: Cache, secret: Path
) -> None:
    first = fetched(cache, secret, uri_of(proxy, "team/llama"))
    proxy.asked.clear()
    assert fetched(cache, secret, uri_of(proxy, "team/llama/")) == first
    assert [address.partition("?")[0] for _, address, _, _ in proxy.asked] == [f"/{BUCKET}"]


def test_a_folder_whose_object_changed_is_another_folder(
    s3: Server, cache: Cache, secret: Path, checkpoint: Path
) -> None:
    store = writer(s3)
    for path in checkpoint.iterdir():
        obstore.put(store, f"team/changing/{path.name}", path.read_bytes())
    first = fetched(cache, secret, uri_of(s3, "team/changing"))
    obstore.put(store, "team/changing/config.json", (checkpoint / "config.json").read_bytes() + b"\n")
    second = fetched(cache, secret, uri_of(s3, "team/changing"))
    assert first != second
    assert (second / "config.json").read_bytes() == (first / "config.json").read_bytes() + b"\n"


def test_a_file_is_kept_by_its_digest_and_one_that_was_pinned_needs_no_network_later(
    proxy: FaultProxy, cache: Cache, secret: Path, gguf: Path
) -> None:
    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    path = fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"), sha256=sha256)
    assert path.read_bytes() == gguf.read_bytes()
    proxy.asked.clear()
    assert fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"), sha256=sha256) == path
    assert proxy.asked == []
    assert fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf")) == path
    assert len(proxy.asked) == 1


def test_a_file_with_another_digest_is_refused_and_forgotten(bucket: Server, cache: Cache, secret: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sha256 is [0-9a-f]{64}, 0{64} is expected"):
        fetched(cache, secret, uri_of(bucket, "team/gguf/tiny.gguf"), sha256="0" * 64)
    assert list((cache.root / "partial").iterdir()) == []


def test_a_revision_is_the_version_of_an_object(s3: Server, cache: Cache, secret: Path, gguf: Path) -> None:
    store = writer(s3, "versioned")
    keep_versions(s3, "versioned")
    old = obstore.put(store, "tiny.gguf", gguf.read_bytes())["version"]
    obstore.put(store, "tiny.gguf", b"GGUF, but another one")
    assert old is not None
    uri = uri_of(s3, "tiny.gguf", bucket="versioned")
    assert fetched(cache, secret, uri, revision=old).read_bytes() == gguf.read_bytes()
    assert fetched(cache, secret, uri).read_bytes() == b"GGUF, but another one"
    with pytest.raises(ModelError, match=r"no such object|refuses"):
        fetched(cache, secret, uri, revision="01G65Z755AFWAKHE12NY0CQ9FH")
    with pytest.raises(RequestError, match="is a version of one object"):
        fetched(cache, secret, uri_of(s3, "team/llama"), revision=old)


def test_a_connection_that_breaks_within_a_range_is_taken_up_there(
    proxy: FaultProxy, cache: Cache, secret: Path, gguf: Path
) -> None:
    proxy.faults = [Fault("tiny.gguf", times=3, skip=2, cut=1000)]
    assert (
        fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"), ranges=PARALLEL).read_bytes() == gguf.read_bytes()
    )


def test_what_arrived_outlives_the_pull_and_the_next_one_goes_on_from_there(
    proxy: FaultProxy, cache: Cache, secret: Path, gguf: Path
) -> None:
    proxy.faults = [Fault("tiny.gguf", times=1000, skip=4, status=503)]
    with pytest.raises(DownloadError, match=r"the store answers 503, 6 times in a row; .* goes on from there"):
        fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"), ranges=SMALL)
    proxy.faults = []
    proxy.asked.clear()
    path = fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"), ranges=SMALL)
    assert path.read_bytes() == gguf.read_bytes()
    asked = [wanted for wanted in proxy.ranges("tiny.gguf")[1:] if wanted]
    assert asked[0].startswith(f"bytes={3 * SMALL.nbytes}-")
    assert len(asked) == -(-gguf.stat().st_size // SMALL.nbytes) - 3


def test_an_object_that_changes_during_the_pull_is_never_mixed(
    s3: Server, cache: Cache, secret: Path, gguf: Path
) -> None:
    store, other = writer(s3), b"GGUF" + b"other" * (gguf.stat().st_size // 5)
    obstore.put(store, "team/moving/tiny.gguf", gguf.read_bytes())
    with between(s3.host) as proxy:
        proxy.faults = [Fault("tiny.gguf", times=1000, skip=3, status=503)]
        with pytest.raises(DownloadError):
            fetched(cache, secret, uri_of(proxy, "team/moving/tiny.gguf"), ranges=SMALL)
        obstore.put(store, "team/moving/tiny.gguf", other)
        proxy.faults = []
        assert fetched(cache, secret, uri_of(proxy, "team/moving/tiny.gguf"), ranges=SMALL).read_bytes() == other


def test_bytes_that_are_not_the_ones_that_were_stored_are_found_by_the_stores_md5(
    proxy: FaultProxy, cache: Cache, secret: Path
) -> None:
    proxy.faults = [Fault("tiny.gguf", times=1000, skip=1, change=(b"llama", b"lLama"))]
    with pytest.raises(CheckpointError, match=r"its MD5 is [0-9a-f]{32}, the store names [0-9a-f]{32}; pull again"):
        fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"))
    assert not list((cache.root / "sources").glob("*"))


@pytest.mark.parametrize("header", ["x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm"])
def test_an_object_under_a_key_of_its_own_has_an_etag_that_is_no_md5(
    proxy: FaultProxy, cache: Cache, secret: Path, header: str
) -> None:
    proxy.faults = [
        Fault("Signature=", status=200, headers={header: "aws:kms"}),
        Fault("tiny.gguf", times=1000, skip=1, change=(b"llama", b"lLama")),
    ]
    fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"))


def test_a_listing_that_is_cut_off_is_asked_for_again(
    proxy: FaultProxy, cache: Cache, secret: Path, checkpoint: Path
) -> None:
    proxy.faults = [Fault("list-type=2", times=4, cut=300)]
    assert model_files(fetched(cache, secret, uri_of(proxy, "team/llama"))) == model_files(checkpoint)


def test_a_listing_that_stays_cut_off_is_an_error_and_never_half_a_model(
    proxy: FaultProxy, cache: Cache, secret: Path
) -> None:
    proxy.faults = [Fault("list-type=2", times=1000, cut=300)]
    with pytest.raises(DownloadError, match=rf"source s3://{BUCKET}/team/llama: no answer .*6 times in a row"):
        fetched(cache, secret, uri_of(proxy, "team/llama"))


def test_a_folder_with_more_objects_than_a_model_has_is_refused(s3: Server, cache: Cache, secret: Path) -> None:
    heap = s3.data / BUCKET / "heap"
    for number in range(MAX_OBJECTS // 1000 + 1):
        (heap / f"{number:03}").mkdir(parents=True)
        for count in range(1000):
            (heap / f"{number:03}" / f"{count:04}.txt").touch()
    with pytest.raises(CheckpointError, match=rf"more than {MAX_OBJECTS} objects are below it; name the model's own"):
        fetched(cache, secret, uri_of(s3, "heap"))


def test_a_disk_without_room_is_named_before_anything_is_fetched(proxy: FaultProxy, cache: Cache, secret: Path) -> None:
    with pytest.raises(StorageError, match="free space there or point FLASHPLANE_CACHE elsewhere"):
        fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"), free_bytes=1000)
    assert len(proxy.asked) == 1


REFUSED = (
    "put valid ones, which may list the folder and read its objects, into the Secret that model.credentialsSecretRef"
)


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        (f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key=wrong\n", "403 SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID=nobody\nAWS_SECRET_ACCESS_KEY=x\n", "404 XAdminUserNotFound"),
        (
            f"[a]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\naws_session_token=expired\n",
            "400 InvalidToken",
        ),
        (None, "403 AccessDenied"),
    ],
    ids=["a wrong secret", "an unknown key", "an expired token", "none"],
)
@pytest.mark.parametrize("key", ["team/llama", "team/gguf/tiny.gguf"])
def test_refused_credentials_are_one_sentence_without_the_secret(
    bucket: Server, cache: Cache, tmp_path: Path, credentials: str | None, message: str, key: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(credentials or "")
    with pytest.raises(DownloadError, match=message) as caught:
        fetched(cache, secret if credentials else None, uri_of(bucket, key))
    assert REFUSED in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET_KEY not in str(caught.value)


def test_a_token_that_expires_in_mid_pull_leaves_what_arrived(proxy: FaultProxy, cache: Cache, secret: Path) -> None:
    body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    proxy.faults = [Fault("tiny.gguf", times=1000, skip=4, status=400, body=body)]
    with pytest.raises(DownloadError, match=r"refuses the credentials \(400 ExpiredToken\)"):
        fetched(cache, secret, uri_of(proxy, "team/gguf/tiny.gguf"), ranges=SMALL)
    kept = [path for path in (cache.root / "partial").iterdir() if path.suffix == ".gguf"]
    assert [path.stat().st_size for path in kept] == [3 * SMALL.nbytes]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no-such-bucket/team/llama", "there is no bucket no-such-bucket (404 NoSuchBucket); check model.source"),
        ("s3://no-such-bucket/tiny.gguf", "there is no bucket no-such-bucket"),
        (f"s3://{BUCKET}/team/gguf/none.gguf", "the bucket has no such object (404 NoSuchKey); check model.source"),
        (f"s3://{BUCKET}/team/none", "there is nothing below it; check model.source"),
        (f"s3://{BUCKET}/team/gguf", "has no *.safetensors; name one of its files, as in"),
    ],
)
def test_what_is_not_there_is_named(bucket: Server, cache: Cache, secret: Path, uri: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetched(cache, secret, f"{uri}?endpoint={bucket.url}")
    assert message in str(caught.value)


def test_a_bucket_of_another_region_is_named_with_the_remedy(proxy: FaultProxy, cache: Cache, secret: Path) -> None:
    body = b"<Error><Code>PermanentRedirect</Code></Error>"
    proxy.faults = [Fault("", times=1000, status=301, body=body)]
    with pytest.raises(DownloadError, match=r"in another region; name it, as in s3://models/team/llama\?region="):
        fetched(cache, secret, uri_of(proxy, "team/llama"))


def test_a_server_that_is_not_there_is_named(cache: Cache, secret: Path) -> None:
    with pytest.raises(DownloadError, match=r"no answer \(.*\), 6 times in a row; check the network"):
        fetched(cache, secret, f"s3://{BUCKET}/team/llama?endpoint=http://127.0.0.1:1")


def emulated(gcs: Server, files: dict[str, bytes]) -> None:
    bucket = urllib.request.Request(f"{gcs.url}/storage/v1/b?project=p", json.dumps({"name": BUCKET}).encode())
    bucket.add_header("Content-Type", "application/json")
    urllib.request.urlopen(bucket).close()
    for name, content in files.items():
        upload = f"{gcs.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        urllib.request.urlopen(urllib.request.Request(upload, content)).close()


def test_google_cloud_storage_is_read_like_s3(gcs: Server, cache: Cache, checkpoint: Path, gguf: Path) -> None:
    files = {f"team/llama/{name}": content for name, content in model_files(checkpoint).items()}
    emulated(gcs, {**files, "team/tiny.gguf": gguf.read_bytes()})
    folder = fetched(cache, None, f"gs://{BUCKET}/team/llama?endpoint={gcs.url}")
    assert model_files(folder) == model_files(checkpoint)
    path = fetched(cache, None, f"gs://{BUCKET}/team/tiny.gguf?endpoint={gcs.url}", ranges=PARALLEL)
    assert path.read_bytes() == gguf.read_bytes()
    with pytest.raises(CheckpointError, match=r"the bucket has no such object \(404\)"):
        fetched(cache, None, f"gs://{BUCKET}/team/none.gguf?endpoint={gcs.url}")


def keep_versions(s3: Server, bucket: str) -> None:
    """A request of the S3 API that the client library has no call for, signed by hand."""
    body, now = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>", datetime.now(UTC)
    stamp, digest = now.strftime("%Y%m%dT%H%M%SZ"), hashlib.sha256(body).hexdigest()
    headers = {"host": s3.host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    signed = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    asked = f"PUT\n/{bucket}\nversioning=\n{lines}\n{signed}\n{digest}"
    scope = f"{stamp[:8]}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key = f"AWS4{SECRET_KEY}".encode()
    for word in (*scope.split("/"), text):
        key = hmac.digest(key, word.encode(), "sha256")
    proof = f"Credential={ACCESS_KEY}/{scope}, SignedHeaders={signed}, Signature={key.hex()}"
    headers |= {"Authorization": f"AWS4-HMAC-SHA256 {proof}"}
    address = f"{s3.url}/{bucket}?versioning="
    urllib.request.urlopen(urllib.request.Request(address, body, headers, method="PUT")).close()
