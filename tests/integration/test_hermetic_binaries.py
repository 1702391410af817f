"""How the hermetic control plane gets its programs. No control plane and no compiler: a script stands in for Go."""

import threading
from pathlib import Path

import hermetic_binaries
import pytest
from hermetic_binaries import PACKAGES, cache_directory, pinned_version, provide
from hermetic_errors import BinariesUnavailable, BuildFailed

# The last two arguments of `go build ... -o FILE PACKAGE` are all that matters here.
GO_THAT_BUILDS = """
while [ $# -gt 2 ]; do shift; done
echo "$2" >> "$HOME/built"
sleep 0.2
echo program > "$1"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "tools"
    tools.mkdir()
    return {"PATH": f"{tools}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}


def write_go(environment: dict[str, str], script: str) -> None:
    go = Path(environment["PATH"].split(":")[0]) / "go"
    go.write_text(f"#!/bin/sh\n{script}\n")
    go.chmod(0o755)


def test_no_go_is_said_with_a_remedy(environment: dict[str, str]) -> None:
    environment["PATH"] = "/nowhere"
    with pytest.raises(BinariesUnavailable) as refused:
        provide(environment)
    assert "no Go" in refused.value.reason
    assert "KUBEBUILDER_ASSETS" in refused.value.remedy


def test_given_programs_are_used(environment: dict[str, str], tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).touch()
    environment |= {"KUBEBUILDER_ASSETS": str(tmp_path), "PATH": "/nowhere"}
    assert provide(environment).kubectl == tmp_path / "kubectl"
    (tmp_path / "etcd").unlink()
    with pytest.raises(BinariesUnavailable, match="has no etcd"):
        provide(environment)


def test_two_builds_at_once_build_each_program_once(environment: dict[str, str], tmp_path: Path) -> None:
    write_go(environment, GO_THAT_BUILDS)
    news: list[str] = []
    builders = [threading.Thread(target=provide, args=(environment, news.append)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert (tmp_path / "built").read_text().split() == list(PACKAGES.values())
    assert sum(": built in" in line for line in news) == len(PACKAGES)
    assert sorted(path.name for path in cache_directory(environment).iterdir()) == sorted([".lock", *PACKAGES])


def test_a_broken_build_shows_what_go_said(environment: dict[str, str]) -> None:
    write_go(environment, "echo no required module provides it >&2; exit 1")
    with pytest.raises(BuildFailed, match="no required module provides it"):
        provide(environment, lambda line: None)
    assert not any((cache_directory(environment) / name).exists() for name in PACKAGES)


def test_the_pins_name_the_same_release_throughout() -> None:
    staging = pinned_version().replace("v1.", "v0.", 1)
    replaced = [line.split() for line in (hermetic_binaries.MODULE / "go.mod").read_text().splitlines() if "=>" in line]
    assert replaced
    assert {line[-1] for line in replaced} == {staging}
