"""How tritonserver is started: its arguments and environment. Pure: looks at no file and starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_runtime.tritonserver import Tritonserver

ENV_LIFELINE: Final = "FLASHPLANE_LIFELINE"
"""Path of the pipe over which the process that holds the model tells its supervisor that it lives."""

# Nobody administers an engine through its API; the key is drawn anew for each start and given to no one.
_CLOSED_APIS: Final = "model-repository,shared-memory,trace,logging"
_STUB_TIMEOUT_SECONDS: Final = 300


@dataclass(frozen=True)
class Listen:
    """Where the three endpoints listen."""

    address: str = "0.0.0.0"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002


def server_arguments(
    server: Tritonserver,
    *,
    repository: Path,
    backends: Path,
    listen: Listen,
    shm_prefix: str,
    exit_timeout_seconds: int,
    closed_api_key: str,
) -> list[str]:
    """The command line. `backends` is a folder with `python/` in it; shared memory regions begin with `shm_prefix`."""
    return [
        str(server.binary),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--http-address={listen.address}",
        f"--grpc-address={listen.address}",
        f"--metrics-address={listen.address}",
        f"--http-port={listen.http_port}",
        f"--grpc-port={listen.grpc_port}",
        f"--metrics-port={listen.metrics_port}",
        f"--http-restricted-api={_CLOSED_APIS}:flashplane-admin={closed_api_key}",
        f"--grpc-restricted-protocol={_CLOSED_APIS}:flashplane-admin={closed_api_key}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        f"--exit-timeout-secs={exit_timeout_seconds}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,stub-timeout-seconds={_STUB_TIMEOUT_SECONDS}",
        "--log-format=ISO8601",
    ]


def server_environment(
    server: Tritonserver, base: Mapping[str, str], *, python: Path, python_libraries: Path | None, lifeline: Path
) -> dict[str, str]:
    """The environment: the process that runs our model must find this Python, its packages and its shared library.

    It takes its packages from the `python3` that comes first on PATH. The wheel's build of it also needs to be told
    where this Python's libpython lies; the image's finds its own.
    """
    environ = dict(base)
    environ["PATH"] = _prepend(str(python.parent), base.get("PATH"))
    environ["PYTHONUNBUFFERED"] = "1"
    environ[ENV_LIFELINE] = str(lifeline)
    if server.kind == "wheel" and python_libraries is not None:
        environ["LD_LIBRARY_PATH"] = _prepend(str(python_libraries), base.get("LD_LIBRARY_PATH"))
    return environ


def _prepend(entry: str, path: str | None) -> str:
    return f"{entry}:{path}" if path else entry
