"""The console script `flash-engine`, and what `flash-draft` shares with it.

Reads a config, prepares tritonserver and stays as its thin parent.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import secrets
import socket
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import ValidationError

from flash_api.config.draft import DraftConfig
from flash_api.config.engine import EngineConfig
from flash_api.names import (
    FILE_ENGINE_CONFIG,
    PACKED_MODEL,
    PORT_ENGINE_GRPC,
    PORT_ENGINE_HTTP,
    PORT_ENGINE_METRICS,
)
from flash_runtime.backend.command import Listen, server_arguments, server_environment
from flash_runtime.backend.repository import model_repository
from flash_runtime.backend.rundir import RunDir, run_dir
from flash_runtime.backend.supervise import Exit, supervise
from flash_runtime.tritonserver import Tritonserver, TritonserverMissing, locate


class StartError(Exception):
    """The engine cannot start: one line for the person who started it."""


Config = TypeVar("Config", EngineConfig, DraftConfig)


@dataclass(frozen=True)
class Program(Generic[Config]):
    """What `flash-engine` and `flash-draft` differ in."""

    name: str
    what: str
    description: str
    grpc_help: str
    config: type[Config]
    config_file: str
    repository: Callable[[Config], Mapping[str, str]]


ENGINE: Final = Program(
    name="flash-engine",
    what="engine",
    description="Serve one packed model with tritonserver: token ids in, token ids out, over gRPC streams.",
    grpc_help="the gateway's streams",
    config=EngineConfig,
    config_file=FILE_ENGINE_CONFIG,
    repository=model_repository,
)


def main(arguments: list[str] | None = None) -> int:
    """Run an engine until SIGTERM. Exit status 2 = it could not start as asked."""
    return run(ENGINE, arguments)


def run(program: Program[Config], arguments: list[str] | None = None) -> int:
    """Run it until SIGTERM. Exit status 2 = it could not start as asked."""
    options = _parser(program).parse_args(arguments)
    listen = Listen(options.address, options.http_port, options.grpc_port, options.metrics_port)
    try:
        config = _read(options.config, program)
        _check_packed_model(config)
        _check_ports(listen)
        ended = serve(config, listen, program.repository(config), locate())
    except (StartError, TritonserverMissing) as error:
        print(f"{program.name}: {error}", file=sys.stderr)
        return 2
    if ended.reason:
        print(f"{program.name}: {ended.reason}", file=sys.stderr)
    return ended.status


def serve(
    config: EngineConfig | DraftConfig, listen: Listen, repository: Mapping[str, str], server: Tritonserver
) -> Exit:
    """Write the repository to a fresh folder and run the server on it until it ends."""
    with run_dir() as run:
        _write_files(run.path / "repository", repository)
        lifeline = run.path / "lifeline"
        return supervise(
            server_arguments(
                server,
                repository=run.path / "repository",
                backends=_backends(server, run),
                listen=listen,
                shm_prefix=run.shm_prefix,
                exit_timeout_seconds=config.shutdown_seconds,
                closed_api_key=secrets.token_urlsafe(24),
            ),
            server_environment(
                server, os.environ, python=Path(sys.executable), python_libraries=_python_libraries(), lifeline=lifeline
            ),
            lifeline=lifeline,
            exit_timeout_seconds=config.shutdown_seconds,
        )


def read_config(path: Path) -> EngineConfig:
    """The engine config in a file. Raises StartError naming the file and what is wrong with it."""
    return _read(path, ENGINE)


def _read(path: Path, program: Program[Config]) -> Config:
    """The config in a file. Raises StartError naming the file and what is wrong with it."""
    try:
        text = path.read_text()
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}; name the {program.what}'s config with --config") from error
    try:
        return program.config.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise StartError(f"{path}: {field + ': ' if field else ''}{problem['msg']}{more}") from error


def _parser(program: Program[Config]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program.name,
        description=program.description,
        epilog="SIGTERM lets running streams finish for up to `shutdown_seconds` of the config, then ends the server.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(program.config_file),
        help=f"{program.what} config, JSON (default: %(default)s)",
    )
    parser.add_argument("--address", default="0.0.0.0", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--http-port", type=int, default=PORT_ENGINE_HTTP, help="health and canary (default: %(default)s)"
    )
    parser.add_argument(
        "--grpc-port", type=int, default=PORT_ENGINE_GRPC, help=f"{program.grpc_help} (default: %(default)s)"
    )
    parser.add_argument(
        "--metrics-port", type=int, default=PORT_ENGINE_METRICS, help="Prometheus metrics (default: %(default)s)"
    )
    return parser


def _check_packed_model(config: EngineConfig | DraftConfig) -> None:
    packed = Path(config.model_dir) / PACKED_MODEL
    if not packed.is_file():
        pull = f"flash-pull --source {config.source} --variant {config.variant.value} --to {config.model_dir}"
        raise StartError(f"{packed} does not exist; make it with `{pull}`")


def _check_ports(listen: Listen) -> None:
    for name, port in (("http", listen.http_port), ("grpc", listen.grpc_port), ("metrics", listen.metrics_port)):
        family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen.address, port))
            except OSError as error:
                where = f"{listen.address}:{port}"
                raise StartError(
                    f"cannot listen on {where}: {error.strerror}; choose another --{name}-port or --address"
                ) from error


def _write_files(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _backends(server: Tritonserver, run: RunDir) -> Path:
    """A backend directory whose only backend is Python's, with the stub beside its library, where the server looks."""
    python = run.path / "backends" / "python"
    python.mkdir(parents=True)
    for file in (*server.backend_files, server.stub):
        (python / file.name).symlink_to(file)
    return python.parent


def _python_libraries() -> Path | None:
    """The folder of this Python's libpython, which the stub is linked to; None where the system finds it itself."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent")
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    if (folder / name).exists():
        return folder
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise TritonserverMissing(
            f"the Python backend needs {name}, which this Python was built without",
            "install it (Debian: the libpython package) or use a Python built with --enable-shared",
        ) from error
    return None


if __name__ == "__main__":
    sys.exit(main())
