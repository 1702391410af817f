"""Whether this process may make nodes at all, and what is missing where it may not. Tries, and leaves nothing."""

import contextlib
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from hermetic_cgroups import hierarchies, make_group
from hermetic_errors import PrivilegesMissing

PROGRAMS: Mapping[str, str] = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux", "mount": "mount"}
"""With the package that has each."""
_TRIAL = """
mount --make-rshared / && mount -t tmpfs tmpfs /run &&
ip link add trial0 type veth peer name trial1 && ip link add trial type bridge
"""


def require_privileges() -> None:
    """Raises PrivilegesMissing, which names everything that is missing."""
    missing = list(_missing())
    if missing:
        raise PrivilegesMissing(missing)


def _missing() -> list[str]:
    if platform.system() != "Linux":
        return [f"this is {platform.system()}, and nodes are made of Linux namespaces"]
    if os.geteuid() != 0:
        return ["this user is not root"]
    absent = [f"no {name} (package {package})" for name, package in PROGRAMS.items() if shutil.which(name) is None]
    if absent:
        return absent
    missing = []
    if "overlay" not in Path("/proc/filesystems").read_text():
        missing.append("the kernel has no overlay file system")
    trial = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "sh", "-c", _TRIAL]
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        missing.append(f"no namespaces with mounts and interfaces of their own ({tried.stderr.strip()})")
    name = f"flashplane-trial-{uuid.uuid4().hex[:8]}"
    try:
        make_group(name)
    except OSError as error:
        missing.append(f"no control groups may be made ({error})")
    for hierarchy in hierarchies():
        with contextlib.suppress(OSError):
            (hierarchy / name).rmdir()
    return missing
