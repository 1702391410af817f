"""Cleans up after a control plane, whether its owner says so or dies without a word.

A program, not a module: it leads the process group of etcd and the Kubernetes programs and waits on its standard
input. A byte means "stop"; end of file means that the owner is gone, even by SIGKILL. Either way it kills the
group and removes the directory. Its standard output stays open until that is done.

The pipe is used instead of PR_SET_PDEATHSIG: that signal is sent when the *thread* that started a program ends,
needs code between fork and exec, and would leave the directory behind.

    python hermetic_guardian.py DIRECTORY
"""

import os
import shutil
import signal
import sys
import time

REMOVAL_DEADLINE_SECONDS = 10.0


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
        while os.path.exists(directory) and time.monotonic() < deadline:
            # A dying process may still create a file behind the back of one pass.
            shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)
    signal.pause()  # until the child above kills this process with its group


if __name__ == "__main__":
    main()
