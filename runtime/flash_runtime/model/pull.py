"""`flash-pull`: put the packed form of a model into a folder, fetching and packing it only when the cache has it not.

Several pulls at once share the work: one fetches or packs, the others wait for it. Modules that read tensors are
imported only when there is something to pack, so that a cached pull takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from flash_api.names import FILE_TERMINATION, PACKED_MODEL
from flash_runtime.model.cache import Cache, default_root, place, storage_error
from flash_runtime.model.errors import CheckpointError, ModelError, RequestError, StorageError
from flash_runtime.model.progress import ENV_PROGRESS, ProgressReporter
from flash_runtime.model.ready import open_ready, place_ready, verified
from flash_runtime.model.sources import Source, open_source, packed_path
from flash_runtime.model.variants import PACK_VERSION, VARIANTS, Formats, formats, variant_named
from flash_runtime.packed import PackedError, PackedFile

_INTERRUPTED: Final = 130
_TERMINATED: Final = 143


@dataclass(frozen=True)
class PullRequest:
    """What to put where."""

    source: Source
    variant: str
    folder: Path
    sha256: str | None = None
    text_only: bool = False
    head: str | None = None
    """Format of embedding and head; None = the variant's own."""
    rotate: bool | None = None
    """Whether outliers are spread before rounding; None = as the variant does."""
    calibrate: bool = False
    """Whether weights are rounded for the inputs that a text gives them."""
    calibration_text: Path | None = None
    """None = the built-in one."""

    def formats(self) -> Formats:
        """The number formats asked for; raises UnsupportedModel."""
        return formats(self.variant, head=self.head, calibrated=self.calibrate)


def pull(request: PullRequest, *, cache: Cache, progress: ProgressReporter) -> dict[str, Any]:
    """Put `model.flash` into the folder; returns its header. Raises ModelError.

    A text-only pull leaves a whole model of the same key in place: an engine on this folder may need it.
    """
    request.formats()
    target = request.folder / PACKED_MODEL
    try:
        _check_sha256(request, cache)
        ready = _ready(request)
        key = _key(request, cache) if ready is None else str(ready.header.get("key"))
        request.folder.mkdir(parents=True, exist_ok=True)
        with _folder_lock(request.folder):
            if header := _usable(target, key, text_only=request.text_only):
                return header
        if ready is not None:
            with _folder_lock(request.folder):
                return place_ready(ready, target, text_only=request.text_only)
        packed, header = _packed(request, key, cache, progress)
        with _folder_lock(request.folder):
            if present := _usable(target, key, text_only=request.text_only):
                return present
            place(packed, target)
    except OSError as error:
        raise storage_error(error, f"{cache.root} or {request.folder}") from error
    return header


def pull_into_cache(request: PullRequest, *, cache: Cache, progress: ProgressReporter) -> Path:
    """The packed file in the cache, made if need be; nothing is put into the folder. Raises ModelError."""
    request.formats()
    try:
        _check_sha256(request, cache)
        if (ready := _ready(request)) is not None:
            return verified(ready)
        return _packed(request, _key(request, cache), cache, progress)[0]
    except OSError as error:
        raise storage_error(error, str(cache.root)) from error


def pack_file(request: PullRequest, path: Path, *, cache: Cache, progress: ProgressReporter) -> None:
    """Pack the source into one file of this name, whatever the cache holds of it. Raises ModelError."""
    request.formats()
    if packed_path(request.source) is not None:
        raise RequestError(f"source {request.source.uri}: is packed already; name the checkpoint it was packed from")
    try:
        _check_sha256(request, cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        _pack(request, _key(request, cache), path, cache, progress)
    except OSError as error:
        raise storage_error(error, str(path)) from error


def _ready(request: PullRequest) -> PackedFile | None:
    """The source itself, where it is a packed model of the wanted kind."""
    path = packed_path(request.source)
    return None if path is None else open_ready(path, variant=request.variant, head=request.head)


def _check_sha256(request: PullRequest, cache: Cache) -> None:
    if request.sha256 is None:
        return
    found = request.source.weights_sha256(cache)
    if found != request.sha256.lower():
        raise CheckpointError(
            f"source {request.source.uri}: sha256 is {found}, {request.sha256} is expected; the weights are not the "
            "ones that were pinned"
        )


def _key(request: PullRequest, cache: Cache) -> str:
    """Names one packed result: the source, its content, the number format, its rotation and our version of it."""
    chosen = request.formats()
    rotation = f"rotated {chosen.rotated}, asked for {request.rotate}"
    numbers = [variant_named(request.variant), chosen.weight, chosen.head, str(PACK_VERSION), rotation]
    facts = [request.source.uri, request.source.digest(cache), *numbers]
    if request.calibrate:
        from flash_runtime.model.calibrated import METHOD
        from flash_runtime.model.calibration import calibration

        facts += [METHOD, calibration(request.calibration_text).sha256]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _usable(path: Path, key: str, *, text_only: bool) -> dict[str, Any] | None:
    """The header of a packed file that serves: right key, undamaged, with weights unless they are not needed.

    Whoever opens the file afterwards only maps it, so this is where damage is found, and another pull mends it.
    """
    try:
        packed = PackedFile.open(path)
        if packed.header.get("key") != key or not (text_only or packed.header.get("contents") == "model"):
            return None
        if text_only:
            packed.text_bytes("tokenizer.json")
        else:
            packed.verify()
    except PackedError:
        return None
    return dict(packed.header)


def _packed(request: PullRequest, key: str, cache: Cache, progress: ProgressReporter) -> tuple[Path, dict[str, Any]]:
    """The packed file in the cache, made if need be, and its header."""
    whole = cache.path("packed", f"{key}.flash")
    if header := _usable(whole, key, text_only=request.text_only):
        return whole, header
    name = f"{key}-text" if request.text_only else key
    path = cache.path("packed", f"{name}.flash")
    with cache.exclusive(name, on_wait=lambda: progress.say("waiting for another pull of the same model")) as work:
        if header := _usable(path, key, text_only=request.text_only):
            return path, header
        _pack(request, key, work / PACKED_MODEL, cache, progress)
        (work / PACKED_MODEL).replace(path)
    if header := _usable(path, key, text_only=request.text_only):
        return path, header
    raise StorageError(f"{path}: cannot be read back after writing; check the disk under {cache.root}")


def _pack(request: PullRequest, key: str, path: Path, cache: Cache, progress: ProgressReporter) -> None:
    checkpoint_path = request.source.locate(cache, progress)

    from flash_runtime.model.calibration import calibration
    from flash_runtime.model.checkpoint import open_checkpoint
    from flash_runtime.model.pack import pack

    checkpoint = open_checkpoint(checkpoint_path)
    what = "the text of" if request.text_only else f"{request.variant} weights of"
    progress.say(f"packing {what} {request.source.uri}")
    pack(
        checkpoint,
        path,
        variant=request.variant,
        head=request.head,
        rotate=request.rotate,
        calibration=calibration(request.calibration_text) if request.calibrate else None,
        progress=lambda done, total: progress.update("pack", done, total, "tensors"),
        about={**request.source.about, "source": request.source.uri, "sha256": request.source.digest(cache)},
        key=key,
        text_only=request.text_only,
    )
    path.chmod(0o444)  # the file is shared by hard links: nobody writes into it


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Looking at the target and replacing it are one step among pulls into the same folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Expected failures are one line on stderr and an exit code (see `errors`)."""
    signal.signal(signal.SIGTERM, _terminated)  # so that work in progress is cleared and pip is stopped
    options = _parser().parse_args(arguments)
    progress_file = os.environ.get(ENV_PROGRESS)
    progress = ProgressReporter(sys.stderr, Path(progress_file) if progress_file else None)
    try:
        formats(options.variant, head=options.head)  # before anything is downloaded
        cache = Cache(default_root(os.environ))
        source = open_source(
            options.source,
            revision=options.revision,
            sha256=options.sha256,
            environment=os.environ,
            cache=cache,
            progress=progress,
        )
        request = PullRequest(source, options.variant, options.to, options.sha256, options.text_only, options.head)
        header = pull(request, cache=cache, progress=progress)
    except ModelError as error:
        progress.say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        progress.say("interrupted; nothing half done is in the way of the next pull")
        return _INTERRUPTED
    about = header.get("about", {})
    found = {field: str(about[field]) for field in ("name", "license", "attribution") if about.get(field)}
    progress.ready({**found, "tokenizer": tokenizer_sha256(options.to / PACKED_MODEL)})
    if not options.text_only:
        _tell(options.to / PACKED_MODEL, header, cache if options.tell_digest else None)
    progress.say(
        f"{options.to / PACKED_MODEL}: {about.get('name')} ({options.variant}), licence {about.get('license')}, "
        f"{about.get('attribution')}"
    )
    return 0


def _tell(packed: Path, header: dict[str, Any], cache: Cache | None) -> None:
    with contextlib.suppress(OSError):  # it is for information: the model is in its place
        leave_last_words(Path(FILE_TERMINATION), header, packed, cache.digest(packed) if cache is not None else None)


def leave_last_words(file: Path, header: dict[str, Any], packed: Path, digest: str | None = None) -> None:
    """In a container: what was pulled, where the operator reads it. Elsewhere nobody has made the file."""
    about = header.get("about", {})
    if not file.is_file():
        return
    words = {
        "name": str(about.get("name", "")),
        "sizeBytes": packed.stat().st_size,
        "tokenizer": tokenizer_sha256(packed),
    }
    if source := about.get("sha256"):
        words["digest"] = f"sha256:{source}"
    if digest is not None:
        words["packedDigest"] = f"sha256:{digest}"
    with contextlib.suppress(OSError):
        file.write_text(json.dumps(words))


def tokenizer_sha256(packed: Path) -> str:
    """What a draft and its model must have in common; empty for a file that says nothing of it."""
    try:
        return hashlib.sha256(PackedFile.open(packed).text_bytes("tokenizer.json")).hexdigest()
    except PackedError:
        return ""


def _terminated(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(_TERMINATED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-pull",
        description="Put the packed form of a model into a folder (DIR/model.flash), from the cache when it is there.",
        epilog="Environment: FLASHPLANE_CACHE, the cache folder (default ~/.cache/flashplane); FLASHPLANE_PROGRESS, "
        "a file that always holds {phase, done, total, unit} as JSON; FLASHPLANE_TOKEN_FILE, a file with what the "
        "source asks for (a token; for s3 an AWS credentials file, for gs a service account's key, for oci a Docker "
        "configuration); HF_ENDPOINT, another model hub; AWS_*, GOOGLE_APPLICATION_CREDENTIALS, DOCKER_CONFIG, as for "
        "other programs; https_proxy, no_proxy. Exit codes: 0 done, "
        "2 unsupported request, 3 missing or damaged weights, 4 download failed, 5 storage failed.",
    )
    parser.add_argument(
        "--source",
        required=True,
        metavar="URI",
        help="builtin://NAME, file:///PATH (GGUF, folder, packed file), hf://ORG/NAME[/FILE.gguf], https://HOST/FILE, "
        "s3://BUCKET/FOLDER or /FILE.gguf, gs://BUCKET/FOLDER or /FILE.gguf, oci://REGISTRY/REPOSITORY[:TAG|@DIGEST]",
    )
    parser.add_argument("--variant", default="Lite", help=f"{', '.join(VARIANTS)}; default: Lite")
    parser.add_argument("--head", help="format of embedding and head for Nano: int8 (default) or int4")
    parser.add_argument("--revision", help="branch, tag or commit of the source, version of an object")
    parser.add_argument("--sha256", metavar="HEX", help="expected SHA-256 of the weights file; another one is refused")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder that gets model.flash")
    parser.add_argument("--text-only", action="store_true", help="leave the weights out: what a gateway needs")
    parser.add_argument("--tell-digest", action="store_true", help="in a container: say the digest of model.flash too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
