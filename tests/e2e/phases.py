"""Where the time of an end-to-end run goes: named phases, printed as they end."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """In the order in which they were passed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began
        # Around pytest's capture: whoever waits for minutes wants to see where they go.
        print(f"    {name:44} {self.seconds[name]:6.1f} s", file=sys.__stderr__, flush=True)
