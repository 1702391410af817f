"""How long to wait before a container starts again. Pure: the clock is the caller's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Exponential backoff that forgets after a stable run."""

    first_seconds: float = 1.0
    longest_seconds: float = 60.0
    stable_seconds: float = 60.0
    """A container that ran this long has recovered: its next failure is a first one."""

    def failures(self, before: int, ran_seconds: float) -> int:
        """Failures in a row, counting the one that just happened."""
        return 1 if ran_seconds >= self.stable_seconds else before + 1

    def delay_seconds(self, failures: int) -> float:
        """Pause before the next start, after `failures` in a row."""
        return float(min(self.longest_seconds, self.first_seconds * 2 ** min(failures - 1, 30)))
