"""Cleans up after a control plane or a cluster, whether its owner says so or dies without a word.

A program, not a module: it leads the process group of etcd and the Kubernetes programs and waits on its standard
input. A byte means "stop"; end of file means that the owner is gone, even by SIGKILL. Either way it kills the
group and removes the directory, and the control groups that are called like it. Its standard output stays open until
that is done. The first processes of a cluster's nodes are in the group, and what is in a node dies with its first
process: the kernel sees to that, as it does to mounts and interfaces.

The pipe is used instead of PR_SET_PDEATHSIG: that signal is sent when the *thread* that started a program ends,
needs code between fork and exec, and would leave the directory behind.

    python hermetic_guardian.py DIRECTORY
"""

import os
import shutil
import signal
import sys
import time

REMOVAL_DEADLINE_SECONDS = 30.0
CONTROL_GROUPS = "/sys/fs/cgroup"


def main() -> None:
    directory = sys.argv[1]
    # Whatever asks the owner to end must not end the one who cleans up after it.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    os.read(0, 1)

    group = os.getpgrp()
    if os.fork() == 0:
        os.setpgid(0, 0)  # out of the group that dies now
        os.killpg(group, signal.SIGKILL)
        deadline = time.monotonic() + REMOVAL_DEADLINE_SECONDS
        groups = _control_groups(os.path.basename(directory))
        while (os.path.exists(directory) or groups) and time.monotonic() < deadline:
            # A dying process may still create a file behind the back of one pass, and keeps its control group.
            shutil.rmtree(directory, ignore_errors=True)
            groups = [group for group in groups if not _removed(group)]
        os._exit(0)
    signal.pause()  # until the child above kills this process with its group


def _control_groups(name: str) -> list[str]:
    """In each hierarchy of version 1, or in the one of version 2."""
    try:
        hierarchies = [CONTROL_GROUPS, *(entry.path for entry in os.scandir(CONTROL_GROUPS) if entry.is_dir())]
    except OSError:
        return []
    return [path for path in (os.path.join(hierarchy, name) for hierarchy in hierarchies) if os.path.isdir(path)]


def _removed(group: str) -> bool:
    """Whether the group and those in it are gone; one that still has a process stays."""
    for path, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(path)
        except OSError:
            time.sleep(0.01)  # its processes are dying
    return not os.path.exists(group)


if __name__ == "__main__":
    main()
