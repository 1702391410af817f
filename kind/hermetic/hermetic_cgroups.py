"""The control groups that a cluster's pods are accounted in: made before a node starts, for both versions.

Who removes them is the guardian: they outlive the processes in them.
"""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
COPIED = ("cpuset.cpus", "cpuset.mems")
"""Empty in a new group of version 1, and no process may enter it until they are set."""

LIMITS = ("cpu", "cpuset", "io", "memory", "pids")
"""The controllers that a kubelet uses."""


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The mounted hierarchies: one in version 2, one for each controller in version 1."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(path for path in root.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())


def make_group(name: str, root: Path = ROOT) -> None:
    """Makes `name`, such as cluster/node, in every hierarchy. Raises OSError where the system does not allow it."""
    for hierarchy in hierarchies(root):
        parent = hierarchy
        for part in name.split("/"):
            group = parent / part
            group.mkdir(exist_ok=True)
            for setting in COPIED:
                if (group / setting).exists() and (parent / setting).exists() and not (parent / "cgroup.type").exists():
                    (group / setting).write_text((parent / setting).read_text())
            _delegate(parent)
            parent = group
        _delegate(parent)


def _delegate(group: Path) -> None:
    """Version 2: what this group may limit, its children may limit too."""
    if (group / "cgroup.subtree_control").exists():
        wanted = [each for each in (group / "cgroup.controllers").read_text().split() if each in LIMITS]
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in wanted))
