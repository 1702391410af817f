"""Fixtures `s3`, `gcs` and `registry`: real servers of the kinds that models are pulled from, on this machine.

They are built once from the Go modules that `stores/go.mod` pins, into a cache outside of the work tree, after
collection and before the first test. Where that cannot be, tests are skipped on a developer's machine and fail in CI.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hermetic_processes import ProgramGroup
from token_server import ISSUER, SERVICE, Tokens, giving, make_tokens

from flash_operator.local.listeners import free_ports

MODULE = Path(__file__).resolve().parent / "stores"
PACKAGES: Mapping[str, str] = {
    "registry": "./registry",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw",
    "fake-gcs-server": "github.com/fsouza/fake-gcs-server",
}
FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
FIXTURES = frozenset({"s3", "gcs", "registry", "login_registry", "token_registry", "store_programs"})
START_SECONDS = 30.0
POLL_SECONDS = 0.02
ACCESS_KEY, SECRET_KEY = "reader", "reader-secret"
LOGIN = ("puller", "puller-password")
_HTPASSWD = "puller:$2b$05$I9SJen7FbzKyZSVYWUQMfurmUgV0moOzdaW.g3Rosv5g/9p9vk9MS\n"


class CannotBuildError(Exception):
    """The servers are not cached and cannot be built here."""


def build_stores(session: pytest.Session) -> None:
    """Builds what the collected tests will need, with its progress shown."""
    needed = any(FIXTURES.intersection(getattr(item, "fixturenames", ())) for item in session.items)
    if needed and not session.config.option.collectonly:
        capture = session.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            try:
                programs(os.environ)
            except CannotBuildError as error:
                print(error, file=sys.stderr)


def programs(environment: Mapping[str, str]) -> Path:
    """The folder with the servers, built now if need be. Raises CannotBuildError."""
    digest = hashlib.sha256(repr(FLAGS).encode())
    for name in ("go.mod", "go.sum", "registry/main.go"):
        digest.update((MODULE / name).read_bytes())
    root = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".cache")
    folder = Path(root) / "flashplane" / "stores" / digest.hexdigest()[:12]
    if all((folder / name).exists() for name in PACKAGES):
        return folder
    if shutil.which("go") is None:
        raise CannotBuildError("the servers that models are pulled from are not built yet, and there is no Go")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, package in PACKAGES.items():
            if not (folder / name).exists():
                _build(name, package, folder, environment)
    return folder


def _build(name: str, package: str, folder: Path, environment: Mapping[str, str]) -> None:
    print(f"{name}: building", file=sys.stderr, flush=True)
    started = time.monotonic()
    scratch = folder / f".{name}"
    done = subprocess.run(
        ["go", "build", *FLAGS, "-o", str(scratch), package],
        cwd=MODULE,
        env={**environment, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CannotBuildError(f"go build of {name} ended with {done.returncode}: {done.stderr[-2000:]}")
    scratch.replace(folder / name)  # atomic: a name in the cache is a whole program
    print(f"{name}: built in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


@pytest.fixture(scope="session")
def store_programs() -> Path:
    """The folder with the servers."""
    try:
        return programs(os.environ)
    except CannotBuildError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must pull from real servers: {error}", pytrace=False)
        pytest.skip(str(error))


@dataclass(frozen=True)
class Server:
    """One server, and where it keeps what it has."""

    port: int
    data: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextmanager
def running(name: str, command: Sequence[str], port: int, data: Path) -> Iterator[Server]:
    group = ProgramGroup()
    try:
        program = group.spawn(name, command)
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            program.require_running()
            assert time.monotonic() < deadline, program.last_lines()
            time.sleep(POLL_SECONDS)
        yield Server(port, data)
    finally:
        group.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def s3(store_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Versity's S3 gateway over a folder: signatures are checked, buckets keep versions."""
    data, versions, port = tmp_path_factory.mktemp("s3"), tmp_path_factory.mktemp("versions"), free_ports(1, ())[0]
    command = [str(store_programs / "versitygw"), "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--quiet"]
    backend = ["posix", "--versioning-dir", str(versions), str(data)]
    with running("versitygw", [*command, "--port", f"127.0.0.1:{port}", *backend], port, data) as server:
        yield server


@pytest.fixture(scope="session")
def gcs(store_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An emulator of Google Cloud Storage; it asks for no credentials."""
    port, data = free_ports(1, ())[0], tmp_path_factory.mktemp("gcs")
    command = [str(store_programs / "fake-gcs-server"), "-backend", "memory", "-scheme", "http", "-log-level", "error"]
    where = ["-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with running("fake-gcs-server", [*command, *where], port, data) as server:
        yield server


@pytest.fixture(scope="session")
def registry(store_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The reference registry, open to everybody."""
    with _registry(store_programs, tmp_path_factory.mktemp("registry"), "") as server:
        yield server


@pytest.fixture(scope="session")
def login_registry(store_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The reference registry, which asks for a user and a password."""
    data = tmp_path_factory.mktemp("login-registry")
    (data / "htpasswd").write_text(_HTPASSWD)
    with _registry(store_programs, data, f"auth: {{htpasswd: {{realm: models, path: {data}/htpasswd}}}}\n") as server:
        yield server


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokens]:
    """What gives out tokens for `token_registry`."""
    made = make_tokens(tmp_path_factory.mktemp("tokens"), login=LOGIN, identity_token="identity-of-puller")
    with giving(made):
        yield made


@pytest.fixture(scope="session")
def token_registry(store_programs: Path, tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The reference registry, which asks for a token, as registries in clouds do."""
    wanted = f"realm: '{tokens.url}', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {tokens.certificate}"
    with _registry(store_programs, tmp_path_factory.mktemp("tokens"), f"auth: {{token: {{{wanted}}}}}\n") as server:
        yield server


@contextmanager
def _registry(folder: Path, data: Path, auth: str) -> Iterator[Server]:
    port = free_ports(1, ())[0]
    (data / "config.yaml").write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n{auth}"
        f"storage: {{filesystem: {{rootdirectory: {data}/blobs}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with running("registry", [str(folder / "registry"), "serve", str(data / "config.yaml")], port, data) as server:
        yield server
