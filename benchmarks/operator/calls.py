"""What one ServiceAccount asked of the API server, counted from the server's own audit log: no side counts itself."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import IO, Final

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_OWN_AFFAIRS: Final = frozenset({"leases"})
"""Written on behalf of the process, not of an object."""


class Calls:
    """Finished calls by verb and resource from now on. `read` takes in what has been logged since."""

    def __init__(self, log: Path, user: str) -> None:
        self._path = log
        self._user = user
        self._file: IO[str] | None = None
        self._rest = ""
        self.by_verb: Counter[tuple[str, str]] = Counter()
        if log.exists():
            self._file = log.open()
            self._file.seek(0, os.SEEK_END)

    @property
    def writes(self) -> int:
        """Writes to objects: everything but Leases."""
        return sum(count for (verb, _), count in self.by_verb.items() if verb in WRITES)

    @property
    def lists(self) -> int:
        return sum(count for (verb, _), count in self.by_verb.items() if verb == "list")

    def read(self) -> Calls:
        """Follows the log over its rotations. Returns itself."""
        while True:
            if self._file is None:
                if not self._path.exists():
                    return self
                self._file = self._path.open()
            lines = (self._rest + self._file.read()).split("\n")
            self._rest = lines.pop()
            for line in lines:
                self._count(line)
            if os.fstat(self._file.fileno()).st_ino == self._path.stat().st_ino:
                return self
            self._file.close()
            self._file = None

    def _count(self, line: str) -> None:
        if self._user not in line:
            return
        call = json.loads(line)
        reference = call.get("objectRef") or {}
        if call["user"]["username"] == self._user and reference.get("resource") not in _OWN_AFFAIRS:
            resource = "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))
            self.by_verb[call["verb"], resource] += 1
