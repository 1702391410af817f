"""The whole suite in steps that may be interrupted: `whole.py FOLDER` goes on where it was cut off.

Two control planes outlive this process in FOLDER until every step is done. OBJECTS=1000,5000 are our sizes; the peer is
measured with the smallest. A step is one phase of one side at one size, and each says how long it took.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sides import install_peer

HERE: Final = Path(__file__).resolve().parent
PEER_PHASES: Final = ("create", "steady")
OUR_PHASES: Final = ("create", "steady", "hour")
READY_SECONDS: Final = 300.0

Step = tuple[str, int, str]
"""Side, number of objects, phase."""


def steps() -> Iterator[Step]:
    """In the order in which each finds what it needs."""
    sizes = sorted(int(word) for word in os.environ.get("OBJECTS", "1000,5000").replace(",", " ").split())
    yield from (("peer", sizes[0], phase) for phase in PEER_PHASES)
    yield from (("ours", objects, phase) for objects in sizes for phase in OUR_PHASES)


def runs(side: str, folder: Path) -> bool:
    """Whether the side's control plane is there, with what earlier steps left on it."""
    held = folder / f"{side}.pid"
    return held.exists() and Path(f"/proc/{held.read_text()}").exists()


def plane(side: str, folder: Path) -> Path:
    """The folder of the side's control plane, which is started unless its process still runs. Raises TimeoutError."""
    home, held = folder / side, folder / f"{side}.pid"
    if runs(side, folder):
        return home
    for stale in home.glob("*.json"):
        stale.unlink()
    with (folder / f"{side}.log").open("ab") as log:
        command = [sys.executable, str(HERE / "plane.py"), side, str(home)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    held.write_text(str(process.pid))
    deadline = time.monotonic() + READY_SECONDS
    while not (home / "plane.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"the control plane of {side} has not come up: {folder / f'{side}.log'}")
        time.sleep(0.2)
    return home


def measured(step: Step, folder: Path) -> bool:
    """Whether the step came to its end."""
    side, objects, phase = step
    there = {"PLANE": str(plane(side, folder)), "PEER_PLANE": str(folder / "peer"), "SIDE": side}
    environment = {**os.environ, **there, "OBJECTS": str(objects), "PHASES": phase}
    return subprocess.run([sys.executable, str(HERE / "run.py")], env=environment, check=False).returncode == 0


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "done.json"
    done: dict[str, float] = json.loads(log.read_text()) if log.exists() else {}
    named = {"-".join(map(str, step)): step for step in steps()}
    for side in ("peer", "ours"):
        of_side = {name for name in named if name.startswith(side)}
        if of_side - done.keys() and not runs(side, folder):
            done = {name: seconds for name, seconds in done.items() if name not in of_side}
    if any(name.startswith("peer") for name in named.keys() - done.keys()):
        install_peer()
    for name, step in named.items():
        if name in done:
            continue
        print(f"{name}", flush=True)
        begin = time.monotonic()
        if not measured(step, folder):
            print(f"{name} failed; the same command goes on from here", file=sys.stderr)
            return 1
        done[name] = round(time.monotonic() - begin, 1)
        log.write_text(json.dumps(done, indent=2))
    for side in ("peer", "ours"):
        held = folder / f"{side}.pid"
        if runs(side, folder):
            os.kill(int(held.read_text()), signal.SIGTERM)
        held.unlink(missing_ok=True)
    print(json.dumps(done, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
