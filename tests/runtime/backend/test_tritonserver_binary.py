"""Finding the server binary: which one is taken, and what is said when there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flash_runtime.tritonserver import WHEEL_VERSION, TritonserverMissing, check_platform, fetch, locate

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
NO_IMAGE = Path("/nonexistent")


def an_installation(root: Path, *, stub: str = "backends/python/triton_python_backend_stub") -> Path:
    files = ["bin/tritonserver", "backends/python/libtriton_python.so"]
    for name in [*files, "backends/python/triton_python_backend_utils.py", stub]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o755)
    return root


def a_cached_wheel(cache: Path) -> Path:
    root = cache / "tritonserver" / WHEEL_VERSION / "pytriton" / "tritonserver"
    return an_installation(root, stub=f"python_backend_stubs/{MINOR}/triton_python_backend_stub")


def test_the_environments_server_comes_first(tmp_path: Path) -> None:
    mine, image = an_installation(tmp_path / "mine"), an_installation(tmp_path / "image")
    for named in (mine, mine / "bin" / "tritonserver"):
        found = locate({"FLASHPLANE_TRITONSERVER": str(named)}, image_root=image)
        assert found.binary == mine / "bin" / "tritonserver"


def test_the_images_server_comes_before_the_one_on_path(tmp_path: Path) -> None:
    image, other = an_installation(tmp_path / "image"), an_installation(tmp_path / "other")
    found = locate({"PATH": str(other / "bin")}, image_root=image)
    assert (found.binary, found.kind) == (image / "bin" / "tritonserver", "container")


def test_the_cached_wheel_is_used_where_nothing_is_installed(tmp_path: Path) -> None:
    root = a_cached_wheel(tmp_path)
    found = locate({"FLASHPLANE_CACHE": str(tmp_path)}, image_root=NO_IMAGE)
    assert (found.binary, found.kind) == (root / "bin" / "tritonserver", "wheel")
    assert found.stub.parent.name == MINOR


def test_the_cache_follows_the_xdg_directory(tmp_path: Path) -> None:
    root = a_cached_wheel(tmp_path / "flashplane")
    assert locate({"XDG_CACHE_HOME": str(tmp_path)}, image_root=NO_IMAGE).binary == root / "bin" / "tritonserver"


def test_no_server_anywhere_names_the_places_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TritonserverMissing, match=r"neither in .* nor on PATH.*python -m flash_runtime\.tritonserver"):
        locate({"FLASHPLANE_CACHE": str(tmp_path)}, image_root=NO_IMAGE)


def test_a_server_without_a_stub_for_this_python_is_refused(tmp_path: Path) -> None:
    root = an_installation(tmp_path)
    (root / "backends/python/triton_python_backend_stub").unlink()
    with pytest.raises(TritonserverMissing, match=f"which Python {MINOR} needs"):
        locate({"FLASHPLANE_TRITONSERVER": str(root)})


def test_a_wrong_override_is_an_error_even_when_it_could_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(TritonserverMissing, match="not an executable file"):
        fetch(environ={"FLASHPLANE_TRITONSERVER": str(tmp_path)})


@pytest.mark.parametrize(
    ("machine", "libc", "reason"),
    [
        ("aarch64", ("glibc", "2.36"), "has no server for linux/aarch64"),
        ("x86_64", ("glibc", "2.31"), r"needs glibc 2\.35, this is glibc 2\.31"),
        ("x86_64", ("", ""), r"needs glibc 2\.35, this is another libc"),
    ],
)
def test_a_machine_the_wheel_cannot_run_on_is_refused(machine: str, libc: tuple[str, str], reason: str) -> None:
    with pytest.raises(TritonserverMissing, match=reason):
        check_platform("linux", machine, libc)


def test_this_machine_is_accepted_when_it_is_what_the_wheel_is_built_for() -> None:
    check_platform("linux", "x86_64", ("glibc", "2.35"))
