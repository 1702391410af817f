"""`https://` and `http://` sources: taken up where they broke off, never mixed, never trusted without reason."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.file_server import Served, serving, web
from tiny_gguf import write_gguf

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.cache import Cache
from flash_runtime.model.errors import CheckpointError, DownloadError, ModelError, RequestError, StorageError
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pack_file, pull
from flash_runtime.model.sources import LocalSource, Source, open_source
from flash_runtime.model.transfer import Web
from flash_runtime.packed import PackedFile


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def content(served: Served, tmp_path: Path) -> bytes:
    found = write_gguf(tmp_path / "tiny.gguf", "llama").read_bytes()
    served.files["/m/tiny.gguf"] = found
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def opened(
    served: Served,
    cache: Cache,
    path: str = "/m/tiny.gguf",
    *,
    pin: str | None = None,
    https: bool = True,
    token_file: Path | None = None,
    way: Web | None = None,
    log: io.StringIO | None = None,
) -> Source:
    address = served.url.replace("http://", "https://") if https else served.url
    return open_source(
        address + path,
        revision=None,
        sha256=pin,
        environment={} if token_file is None else {ENV_TOKEN_FILE: str(token_file)},
        cache=cache,
        progress=ProgressReporter(log or io.StringIO(), None),
        web=way or web(),
    )


def bytes_of(source: Source) -> bytes:
    assert isinstance(source, LocalSource)
    return source.path.read_bytes()


def test_a_file_is_fetched_packed_and_known_by_its_address(
    served: Served, cache: Cache, content: bytes, tmp_path: Path
) -> None:
    source = opened(served, cache, "/m/tiny.gguf?signature=secret", pin=sha256(content).upper(), https=False)
    header = pull(
        PullRequest(source, "Lite", tmp_path / "a", sha256(content)),
        cache=cache,
        progress=ProgressReporter(io.StringIO(), None),
    )
    assert header["about"]["source"] == f"{served.url}/m/tiny.gguf"
    assert header["about"]["sha256"] == sha256(content)
    PackedFile.open(tmp_path / "a/model.flash").verify()


def test_a_packed_file_is_a_source_as_it_is(served: Served, cache: Cache, content: bytes, tmp_path: Path) -> None:
    progress = ProgressReporter(io.StringIO(), None)
    pack_file(PullRequest(opened(served, cache), "Nano", tmp_path), tmp_path / "x", cache=cache, progress=progress)
    served.files["/m/tiny.flash"] = (tmp_path / "x").read_bytes()
    source = opened(served, cache, "/m/tiny.flash")
    pull(PullRequest(source, "Nano", tmp_path / "a"), cache=cache, progress=progress)
    assert (tmp_path / "a/model.flash").read_bytes() == served.files["/m/tiny.flash"]


def test_a_pinned_file_in_the_cache_needs_no_network(served: Served, cache: Cache, content: bytes) -> None:
    opened(served, cache, pin=sha256(content))
    served.files.clear()
    assert bytes_of(opened(served, cache, pin=sha256(content))) == content
    assert len(served.asked) == 1


def test_an_unpinned_file_is_fetched_again_only_when_it_changed(served: Served, cache: Cache, content: bytes) -> None:
    opened(served, cache)
    served.breaks = [0]  # a body would be cut off
    assert bytes_of(opened(served, cache)) == content
    served.breaks = []
    served.files["/m/tiny.gguf"] = content + b"more"
    assert bytes_of(opened(served, cache)) == content + b"more"


@pytest.mark.parametrize("etags", [True, False])
def test_a_broken_download_goes_on_where_it_broke(served: Served, cache: Cache, content: bytes, etags: bool) -> None:
    served.etags, served.breaks = etags, [5000, 1000, 0]
    waits: list[float] = []
    source = opened(served, cache, pin=sha256(content), way=web(slept=waits.append))
    assert bytes_of(source) == content
    assert served.ranges_asked() == [None, "bytes=5000-", "bytes=6000-", "bytes=6000-"]
    assert waits == [1.0, 1.0, 2.0]


def test_without_a_version_and_a_digest_parts_are_not_joined(served: Served, cache: Cache, content: bytes) -> None:
    served.etags, served.breaks = False, [5000]
    assert bytes_of(opened(served, cache)) == content
    assert served.ranges_asked() == [None, None]


def test_a_later_pull_goes_on_where_an_earlier_one_gave_up(served: Served, cache: Cache, content: bytes) -> None:
    served.breaks = [5000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"ended after 5000 of .* 6 times in a row; check the network .* is kept"):
        opened(served, cache)
    served.asked.clear()
    assert bytes_of(opened(served, cache)) == content
    assert served.ranges_asked() == ["bytes=5000-"]
    assert list((cache.root / "partial").iterdir()) == []


def test_a_file_that_changed_in_between_is_fetched_from_its_start(served: Served, cache: Cache, content: bytes) -> None:
    served.breaks = [5000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        opened(served, cache)
    served.files["/m/tiny.gguf"] = changed = content[::-1].replace(content[::-1][:4], b"GGUF", 1)
    assert bytes_of(opened(served, cache)) == changed


def test_a_server_without_ranges_sends_it_all_again(served: Served, cache: Cache, content: bytes) -> None:
    served.ranges, served.breaks = False, [5000]
    assert bytes_of(opened(served, cache)) == content


def test_a_file_that_became_shorter_than_what_arrived_is_fetched_from_its_start(
    served: Served, cache: Cache, content: bytes
) -> None:
    served.etags, served.breaks, short = False, [5000, 0, 0, 0, 0, 0], content[:400]
    with pytest.raises(DownloadError):
        opened(served, cache, pin=sha256(short))
    served.files["/m/tiny.gguf"] = short
    assert bytes_of(opened(served, cache, pin=sha256(short))) == short
    assert served.ranges_asked()[-2:] == ["bytes=5000-", None]


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(served: Served, cache: Cache, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=rf"tiny\.gguf: sha256 is {sha256(content)}, {'0' * 64} is expected"):
        opened(served, cache, pin="0" * 64)
    assert list((cache.root / "partial").iterdir()) == []
    assert list((cache.root / "sources").iterdir()) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(served: Served, cache: Cache, content: bytes, status: int) -> None:
    served.statuses = [status, status]
    waits: list[float] = []
    assert bytes_of(opened(served, cache, way=web(slept=waits.append))) == content
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, DownloadError, "the server answers 400"),
        (401, DownloadError, r"the server wants a token \(401\).*model\.credentialsSecretRef.*FLASHPLANE_TOKEN_FILE"),
        (403, DownloadError, "the server wants a token"),
        (404, CheckpointError, r"has no such file \(404\); check model\.source"),
        (410, CheckpointError, "has no such file"),
    ],
)
def test_a_refusal_is_not_asked_again(
    served: Served, cache: Cache, content: bytes, status: int, error: type[ModelError], reason: str
) -> None:
    served.statuses = [status]
    with pytest.raises(error, match=rf"source https://.*/m/tiny\.gguf: .*{reason}"):
        opened(served, cache)
    assert len(served.asked) == 1


def test_a_token_opens_the_source_and_stays_secret(
    served: Served, cache: Cache, content: bytes, tmp_path: Path
) -> None:
    served.token, log, file = "s3cret", io.StringIO(), tmp_path / "token"
    file.write_text("s3cret\n")
    assert bytes_of(opened(served, cache, token_file=file, log=log)) == content
    file.write_text("wr0ng")
    with pytest.raises(DownloadError, match="refuses the token") as caught:
        opened(served, cache, "/m/other.gguf", token_file=file, log=log)
    assert not {"s3cret", "wr0ng"} & set((log.getvalue() + str(caught.value)).replace("'", " ").split())
    assert all(b"s3cret" not in path.read_bytes() for path in cache.root.rglob("*") if path.is_file())


@pytest.mark.parametrize("text", ["", "two words", "two\nlines", "\u00e9"])
def test_a_file_that_holds_no_token_is_refused(
    served: Served, cache: Cache, content: bytes, tmp_path: Path, text: str
) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(RequestError, match=r"FLASHPLANE_TOKEN_FILE \(.*token\): must"):
        opened(served, cache, token_file=tmp_path / "token")
    assert served.asked == []


def test_a_token_goes_along_within_one_server_only(
    served: Served, cache: Cache, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret")
    served.moved["/moved"] = "/m/tiny.gguf"
    opened(served, cache, "/moved", token_file=tmp_path / "token")
    assert [authorization for *_, authorization in served.asked] == ["Bearer s3cret"] * 2
    with serving() as elsewhere:
        elsewhere.files["/x.gguf"] = content
        served.moved["/away"] = elsewhere.url.replace("http:", "https:") + "/x.gguf"
        opened(served, cache, "/away", token_file=tmp_path / "token")
        assert [authorization for *_, authorization in elsewhere.asked] == [None]


def test_https_is_never_left(served: Served, cache: Cache, content: bytes) -> None:
    served.moved["/down"] = f"{served.url}/m/tiny.gguf"
    with pytest.raises(DownloadError, match="is redirected to http://, which protects nothing"):
        opened(served, cache, "/down")
    assert len(served.asked) == 1


def test_a_circle_of_redirections_ends(served: Served, cache: Cache) -> None:
    served.moved["/round"] = "/round"
    with pytest.raises(DownloadError, match="more than 5 times, or in a circle"):
        opened(served, cache, "/round")
    assert len(served.asked) <= 6


@pytest.mark.parametrize(
    ("uri", "pin", "reason"),
    [
        ("http://host/m.gguf", None, r"http:// protects nothing on the way; write model\.sha256, or use https://"),
        ("https://user:pass@host/m.gguf", None, r"source https://…@host/m\.gguf: must not hold a password"),
        ("https://host/", None, "names no file"),
        ("https:///m.gguf", None, "names no file"),
    ],
)
def test_an_unsafe_address_is_refused_before_anything_is_asked(
    cache: Cache, uri: str, pin: str | None, reason: str
) -> None:
    progress = ProgressReporter(io.StringIO(), None)
    with pytest.raises(RequestError, match=reason):
        open_source(uri, revision=None, sha256=pin, environment={}, cache=cache, progress=progress, web=web())


def test_a_token_is_never_sent_in_plain(served: Served, cache: Cache, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    with pytest.raises(RequestError, match="a token is never sent over http://"):
        opened(served, cache, pin=sha256(content), https=False, token_file=tmp_path / "token")
    assert served.asked == []


def test_a_page_for_people_is_refused_at_its_first_bytes(served: Served, cache: Cache) -> None:
    served.files["/page"] = b"<!DOCTYPE html>" + b" " * 10_000_000
    with pytest.raises(CheckpointError, match=r"begins with b'<!DOCTYPE ht', which is neither a GGUF nor a packed"):
        opened(served, cache, "/page")


def test_a_file_that_has_no_room_is_refused_at_the_door(served: Served, cache: Cache, content: bytes) -> None:
    with pytest.raises(StorageError, match=r"the download needs .* MB more and the disk has 64 MB; free space"):
        opened(served, cache, way=web(free_bytes=64_500_000))
    assert sum(path.stat().st_size for path in cache.root.rglob("*.gguf")) == 0


def test_pulls_at_the_same_time_share_one_download(served: Served, cache: Cache, content: bytes) -> None:
    sources: list[Source] = []
    threads = [
        threading.Thread(target=lambda: sources.append(opened(served, Cache(cache.root), pin=sha256(content))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bytes_of(source) for source in sources] == [content] * 4
    assert len(served.asked) == 1


def test_a_server_that_is_not_there_is_named_with_what_to_check(cache: Cache) -> None:
    progress = ProgressReporter(io.StringIO(), None)
    with pytest.raises(DownloadError, match=r"source https://127\.0\.0\.1:1/m\.gguf: no connection .* check the netw"):
        open_source(
            "https://127.0.0.1:1/m.gguf",
            revision=None,
            sha256=None,
            environment={},
            cache=cache,
            progress=progress,
            web=web(),
        )
