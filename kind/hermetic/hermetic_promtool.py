"""The `promtool` program: given by PROMTOOL, else installed, else cached, else taken from Debian's package
`prometheus`, which is downloaded and unpacked, not installed.

Prometheus cannot be built from its Go module beside Kubernetes' own pins, so this is the packaged one; apt verifies it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hermetic_errors import BinariesUnavailable

PACKAGE = "prometheus"
REMEDY = "Install it (apt-get install prometheus), or point PROMTOOL at one"


def provide_promtool(environment: Mapping[str, str] = os.environ) -> Path:
    """The program. Raises BinariesUnavailable when it can be neither found nor fetched."""
    if given := environment.get("PROMTOOL") or shutil.which("promtool"):
        return Path(given)
    root = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".cache")
    cached = Path(root) / "flashplane" / "promtool" / "promtool"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
            _fetch(Path(scratch)).replace(cached)  # atomic: what is in the cache is whole
    return cached


def _fetch(scratch: Path) -> Path:
    missing = [program for program in ("apt-get", "dpkg-deb") if not shutil.which(program)]
    if missing:
        raise BinariesUnavailable(f"promtool is not installed, and there is no {missing[0]} to fetch it with", REMEDY)
    done = _run("apt-get", "download", PACKAGE, cwd=scratch)
    if done.returncode and os.geteuid() == 0:
        _run("apt-get", "update", cwd=scratch)  # a container image has no lists of packages
        done = _run("apt-get", "download", PACKAGE, cwd=scratch)
    packages = list(scratch.glob("*.deb"))
    if done.returncode or len(packages) != 1:
        said = (done.stderr.strip().splitlines() or ["apt-get says nothing"])[-1]
        raise BinariesUnavailable(
            f"Debian's package {PACKAGE}, which has promtool, cannot be downloaded: {said}", REMEDY
        )
    unpacked = scratch / "unpacked"
    done = _run("dpkg-deb", "--extract", str(packages[0]), str(unpacked), cwd=scratch)
    program = unpacked / "usr" / "bin" / "promtool"
    if done.returncode or not program.is_file():
        raise BinariesUnavailable(f"there is no promtool in {packages[0].name}: {done.stderr.strip()}", REMEDY)
    return program


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    try:
        program = str(provide_promtool())
    except BinariesUnavailable as error:
        sys.exit(f"promtool: {error}")
    os.execv(program, ["promtool", *sys.argv[1:]])
