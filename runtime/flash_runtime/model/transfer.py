"""One file over HTTP: taken up again where it broke off, bounded in size, never longer than the disk has room for.

What was received lies in a partial file that outlives the program, beside a note of which version of the remote file
it is; `If-Range` keeps two versions apart. Proxies come from the environment, as everywhere (`https_proxy`,
`no_proxy`). Knows no models and no cache: callers hold the lock, compare the digest and give the file its name.
Standard library only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from urllib.parse import urlsplit

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.errors import CheckpointError, DownloadError, StorageError

MAX_FILE_BYTES: Final = 1 << 40
"""No one weights file is larger; a server that says so is mistaken or means harm."""
_SPARE_BYTES: Final = 64 << 20
"""Left free on the disk beside the download."""
_CHUNK_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 6
"""Tries in a row that bring not one byte."""
_MAX_WAIT_SECONDS: Final = 60.0
_MAX_REDIRECTS: Final = 5
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

OnBytes = Callable[[int, int], None]
"""(done, total) in bytes."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Remote:
    """A file to fetch."""

    url: str
    token: str | None = field(default=None, repr=False)
    token_kind: str = "Bearer"
    """The word before the token in the Authorization header."""
    nbytes: int | None = None
    """Its size, where it is known beforehand."""
    begins: tuple[bytes, ...] = ()
    """What its first bytes may be; empty = anything."""
    pinned: bool = False
    """The caller compares a digest, so that parts may be joined even where the server names no version."""
    unless: str | None = None
    """The ETag of a copy that the caller has."""

    @property
    def shown(self) -> str:
        """The address for people: without a query, which may be a signature."""
        return shown(self.url)


@dataclass(frozen=True)
class Web:
    """The way out: what opens addresses, waits between tries and knows the disk."""

    opener: urllib.request.OpenerDirector
    sleep: Callable[[float], None] = time.sleep
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    timeout_seconds: float = 60.0
    """For connecting, and for each wait for the next bytes."""


class TokenRefused(DownloadError):
    """The server wants a token, or another one than it got."""


class Broken(Exception):
    """The connection or the server failed in a way that another try may mend."""

    def __init__(self, reason: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Changed(Broken):
    """What arrived is not of the file that the server has now."""


def the_web() -> Web:
    """The network with this environment's proxies."""
    return Web(urllib.request.build_opener(Redirects))


def shown(url: str) -> str:
    """An address without its query and fragment."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def download(remote: Remote, partial: Path, *, web: Web, on_bytes: OnBytes, say: Callable[[str], None]) -> str | None:
    """Fill `partial` with the whole file; returns its ETag ("" = the server names none), None for an unchanged copy.

    Raises DownloadError (network, refusal), CheckpointError (no such file, another size) or StorageError (no room).
    """
    return keep_trying(
        lambda: _attempt(remote, partial, web, on_bytes), partial, what=remote.shown, sleep=web.sleep, say=say
    )


def keep_trying(
    attempt: Callable[[], _Result],
    partial: Path,
    *,
    what: str,
    sleep: Callable[[float], None],
    say: Callable[[str], None],
) -> _Result:
    """The attempt's result. A Broken one is made again, with growing pauses, as long as `partial` grows meanwhile.

    Raises DownloadError when several attempts in a row bring nothing.
    """
    failures = 0
    while True:
        before = _size(partial)
        try:
            return attempt()
        except Broken as broken:
            if isinstance(broken, Changed):
                discard(partial)
            failures = 1 if _size(partial) > before else failures + 1
            if failures >= _ATTEMPTS:
                raise DownloadError(
                    f"source {what}: {broken}, {failures} times in a row; check the network and the proxy "
                    "settings; what arrived is kept, and the next pull goes on from there"
                ) from broken
            wait = min(broken.wait_seconds or 2.0 ** (failures - 1), _MAX_WAIT_SECONDS)
            say(f"{what}: {broken}; going on in {wait:.0f} s")
            sleep(wait)


def discard(partial: Path) -> None:
    """Forget what arrived."""
    partial.unlink(missing_ok=True)
    _note(partial).unlink(missing_ok=True)


def check_room(folder: Path, needed: int, *, web: Web, what: str) -> None:
    """Raises StorageError where the disk of `folder` has less than `needed` bytes to give."""
    free = web.free_bytes(folder)
    if needed + _SPARE_BYTES > free:
        raise StorageError(
            f"{folder}: {what} needs {needed / 1e6:.0f} MB more and the disk has {free / 1e6:.0f} MB; free space there "
            "or point FLASHPLANE_CACHE elsewhere"
        )


def _attempt(remote: Remote, partial: Path, web: Web, on_bytes: OnBytes) -> str | None:
    known = _read_note(partial)
    if not (known.get("version") or remote.pinned):
        discard(partial)
    done, total = _size(partial), known.get("total")
    if total is not None and done == total:  # it ended before the digest was compared
        return str(known.get("etag", ""))
    with _open(remote, web, done, str(known.get("version", ""))) as response:
        if response is None:
            return None
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"source {remote.shown}: the server sends it compressed, unasked; use another server")
        if response.status == HTTPStatus.PARTIAL_CONTENT and done:
            if _content_range(response.headers) != (done, total):
                raise Changed("the server sent another part than the one asked for")
        else:
            done, total = 0, _length(remote, response.headers)
            known = _write_note(partial, response.headers, total)
        assert total is not None
        check_room(partial.parent, total - done, web=web, what="the download")
        _receive(remote, response, partial, done, total, on_bytes)
    return str(known.get("etag", ""))


def _receive(remote: Remote, response: IO[bytes], partial: Path, done: int, total: int, on_bytes: OnBytes) -> None:
    with partial.open("r+b" if done else "wb") as file:
        file.seek(done)
        file.truncate()
        on_bytes(done, total)
        while done < total:
            try:
                chunk = response.read(min(_CHUNK_BYTES, total - done))
            except (OSError, http.client.HTTPException) as error:
                raise Broken(f"the connection broke after {done} of {total} bytes ({_reason(error)})") from error
            if not chunk:
                raise Broken(f"the connection ended after {done} of {total} bytes")
            if done == 0 and remote.begins and not chunk.startswith(remote.begins):
                raise CheckpointError(
                    f"source {remote.shown}: begins with {chunk[:12]!r}, which is neither a GGUF nor a packed file; "
                    "check the address (a page for people, or a folder of files?)"
                )
            file.write(chunk)
            done += len(chunk)
            on_bytes(done, total)


@contextlib.contextmanager
def _open(remote: Remote, web: Web, done: int, version: str) -> Iterator[http.client.HTTPResponse | None]:
    """The answer with a body to come; None where the caller's copy is the present one."""
    request = urllib.request.Request(remote.url, headers={"Accept-Encoding": "identity", "User-Agent": "flashplane"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        if version:
            request.add_header("If-Range", version)
    if remote.unless:
        request.add_header("If-None-Match", remote.unless)
    if remote.token is not None:  # not copied to where a redirection leads
        request.add_unredirected_header("Authorization", f"{remote.token_kind} {remote.token}")
    try:
        response = web.opener.open(request, timeout=web.timeout_seconds)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.NOT_MODIFIED:
                yield None
                return
            raise _refused(remote, error, done) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise DownloadError(
                f"source {remote.shown}: {_reason(error)}; add the authority's certificate to this system, or name "
                "its file in SSL_CERT_FILE"
            ) from error
        raise Broken(f"no connection ({_reason(error)})") from error
    with response:
        yield response


def _refused(remote: Remote, error: urllib.error.HTTPError, done: int) -> Exception:
    """What an error status means: another try, or a sentence for the user."""
    where, code = f"source {remote.shown}", error.code
    if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
        return Changed("the server's file is shorter than what arrived of it")
    if code in _TRY_AGAIN:
        after = error.headers.get("Retry-After", "")
        return Broken(f"the server answers {code}", wait_seconds=float(after) if after.isdecimal() else None)
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        what = "wants a token" if remote.token is None else "refuses the token"
        return TokenRefused(
            f"{where}: the server {what} ({code}); put a valid one into the Secret that model.credentialsSecretRef "
            f"names (outside of a deployment: into a file that {ENV_TOKEN_FILE} names)"
        )
    if code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return CheckpointError(f"{where}: the server has no such file ({code}); check model.source")
    if HTTPStatus.MULTIPLE_CHOICES <= code < HTTPStatus.BAD_REQUEST:
        return DownloadError(f"{where}: is redirected more than {_MAX_REDIRECTS} times, or in a circle; check the URL")
    return DownloadError(f"{where}: the server answers {code} {error.reason}; check model.source")


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirections, never out of https; a token goes along only within one server."""

    max_redirections = _MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise DownloadError(
                f"source {shown(req.full_url)}: is redirected to {new.scheme}://, which protects nothing on the way; "
                "name an address that stays within https"
            )
        followed = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        token = req.unredirected_hdrs.get("Authorization")
        if followed is not None and token is not None and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            followed.add_unredirected_header("Authorization", token)
        return followed


def _length(remote: Remote, headers: Message) -> int:
    text = headers.get("Content-Length", "")
    if not text.isdecimal():
        raise DownloadError(f"source {remote.shown}: the server does not tell the size of the file; use another server")
    total = int(text)
    if total > MAX_FILE_BYTES:
        raise CheckpointError(f"source {remote.shown}: {total} bytes are more than the {MAX_FILE_BYTES} that are taken")
    if remote.nbytes is not None and total != remote.nbytes:
        raise CheckpointError(f"source {remote.shown}: has {total} bytes, {remote.nbytes} are expected")
    return total


def _content_range(headers: Message) -> tuple[int, int] | None:
    """First byte and total of `bytes 100-199/200`."""
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    return (int(first), int(total)) if first.isdecimal() and total.isdecimal() else None


def _note(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _read_note(partial: Path) -> Mapping[str, Any]:
    try:
        known = json.loads(_note(partial).read_bytes())
    except (OSError, ValueError):  # none, or one that was cut off
        return {}
    return known if isinstance(known, dict) else {}


def _write_note(partial: Path, headers: Message, total: int) -> Mapping[str, Any]:
    """Remember which version of the file the partial one is. A weak ETag does not speak of bytes."""
    discard(partial)
    etag = headers.get("ETag", "")
    strong = "" if etag.startswith("W/") else etag
    known = {"total": total, "etag": etag, "version": strong or headers.get("Last-Modified", "")}
    _note(partial).write_text(json.dumps(known), encoding="utf-8")
    return known


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__
