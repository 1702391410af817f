"""A real tritonserver with our backend, as pytest fixtures: started on free loopback ports, killed without residue.

The model behind it is the fakes' PagedModel, put in where the product opens the packed model; everything else, from the
command line to the shared memory, is the product's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from flash_api.config.draft import DraftConfig
from flash_api.config.engine import EngineConfig
from flash_runtime.backend.command import Listen
from flash_runtime.backend.rundir import SHARED_MEMORY, sweep
from flash_runtime.tritonserver import TritonserverMissing, fetch

START_SECONDS = 60.0
STOP_SECONDS = 60.0
TESTS = Path(__file__).parents[1]

MODEL = """
import sys

sys.path.append({tests!r})
from fakes.paged_model import PagedModel
from flash_runtime.backend import model
from flash_runtime.backend.load import Loaded


class TritonPythonModel(model.TritonPythonModel):
    def load(self, config):
        return Loaded(PagedModel({arguments}), ())
"""

DRAFT_MODEL = """
import sys

sys.path.append({tests!r})
from fakes.paged_model import PagedModel
from flash_runtime.backend import draft_model
from flash_runtime.backend.load import Loaded


class TritonPythonModel(draft_model.TritonPythonModel):
    def load(self, config):
        return Loaded(PagedModel({arguments}), (), vocabulary={vocabulary!r})
"""

DRAFT_LAUNCHER = """
import sys
from pathlib import Path
from flash_api.config.draft import DraftConfig
from flash_runtime.backend import serve
from flash_runtime.backend.command import Listen
from flash_runtime.backend.repository import FILE_DRAFT, draft_repository
from flash_runtime.tritonserver import locate

config = DraftConfig.model_validate_json(Path(sys.argv[1]).read_text())
repository = draft_repository(config) | {FILE_DRAFT: Path(sys.argv[2]).read_text()}
ended = serve.serve(config, Listen("127.0.0.1", *map(int, sys.argv[3:])), repository, locate())
print(ended.reason, file=sys.stderr)
sys.exit(ended.status)
"""

LAUNCHER = """
import sys
from pathlib import Path
from flash_runtime.backend import serve
from flash_runtime.backend.command import Listen
from flash_runtime.backend.repository import FILE_MODEL, model_repository
from flash_runtime.tritonserver import locate

config = serve.read_config(Path(sys.argv[1]))
repository = model_repository(config) | {FILE_MODEL: Path(sys.argv[2]).read_text()}
ended = serve.serve(config, Listen("127.0.0.1", *map(int, sys.argv[3:])), repository, locate())
print(ended.reason, file=sys.stderr)
sys.exit(ended.status)
"""


@dataclass
class RunningEngine:
    """A started engine: where it listens, and its supervising process."""

    listen: Listen
    process: subprocess.Popen[bytes]
    log: Path
    model: str = "engine"
    """As tritonserver calls it."""

    @property
    def grpc(self) -> str:
        return f"{self.listen.address}:{self.listen.grpc_port}"

    def metrics(self) -> dict[str, float]:
        """The engine's own metrics, by name."""
        return {name.partition("{")[0]: value for name, value in self.series("flash_engine_")}

    def metrics_of(self, name: str) -> float:
        """One metric without labels that tell it from others."""
        return sum(value for found, value in self.series(name) if found.partition("{")[0] == name)

    def series(self, prefix: str) -> list[tuple[str, float]]:
        """Name with labels, and value, of every series whose name begins so."""
        url = f"http://{self.listen.address}:{self.listen.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith(prefix))
        return [(name, float(value)) for name, _, value in found]

    def model_pid(self) -> int:
        """The process that holds the model: the only grandchild."""
        (server,) = children(self.process.pid)
        (stub,) = children(server)
        return stub

    def wait_until_ready(self) -> None:
        url = f"http://{self.listen.address}:{self.listen.http_port}/v2/models/{self.model}/ready"
        eventually(lambda: self._answers(url), START_SECONDS)

    def leftovers(self) -> list[Path]:
        """What is in shared memory under this engine's name once dead engines have been swept up."""
        sweep()
        name = self.log.read_text().partition(f"{SHARED_MEMORY}/flash-engine-")[2][:12]
        return list(SHARED_MEMORY.glob(f"flash-engine-{name}*")) if name else []

    def stop(self) -> int:
        """SIGTERM and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End everything it started, now."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def _answers(self, url: str) -> bool:
        assert self.process.poll() is None, f"the engine ended:\n{self.log.read_text()}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Look until it holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Processes started by any thread of this one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def free_listen() -> Listen:
    """Three loopback ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return Listen("127.0.0.1", *ports)


@pytest.fixture(scope="session")
def tritonserver() -> None:
    """Have a server binary, or skip saying why."""
    try:
        fetch()
    except TritonserverMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def launch(tritonserver: None) -> Iterator[Callable[..., RunningEngine]]:
    """Run a command on free ports with its output in `folder/log`; what it started is killed at the end."""
    started: list[RunningEngine] = []

    def launch(
        folder: Path, command: Callable[[Listen], list[str]], *, model: str = "engine", listen: Listen | None = None
    ) -> RunningEngine:
        listen, log = listen or free_listen(), folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command(listen), stdout=output, stderr=output, start_new_session=True)
        engine = RunningEngine(listen, process, log, model)
        started.append(engine)
        return engine

    yield launch
    for engine in started:
        engine.kill()
    eventually(lambda: not any(engine.leftovers() for engine in started))


@pytest.fixture(scope="session")
def start_engine(
    launch: Callable[..., RunningEngine], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RunningEngine]:
    """Start an engine with these config fields over a PagedModel with these arguments, and wait until it is ready."""

    def start(*, model: str = "max_context_tokens=100_000, num_blocks=25_000", **config: object) -> RunningEngine:
        folder = tmp_path_factory.mktemp("engine")
        write_config(folder, **config)
        (folder / "model.py").write_text(MODEL.format(tests=str(TESTS), arguments=model))
        engine = launch(folder, lambda listen: [*launcher_command(folder), *map(str, ports(listen))])
        engine.wait_until_ready()
        return engine

    return start


@pytest.fixture(scope="session")
def start_draft(
    launch: Callable[..., RunningEngine], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RunningEngine]:
    """Start a draft with these config fields over a PagedModel with these arguments; at `listen`, or on free ports."""

    def start(
        *,
        model: str = "max_context_tokens=100_000, num_blocks=25_000",
        vocabulary: str = "",
        listen: Listen | None = None,
        **config: object,
    ) -> RunningEngine:
        folder = tmp_path_factory.mktemp("draft")
        defaults = {"served_model_name": "tiny", "source": "builtin://x", "model_dir": str(folder)}
        fields = DraftConfig.model_validate({**defaults, "rollout_revision": "1", **config})
        (folder / "draft.json").write_text(fields.model_dump_json())
        content = DRAFT_MODEL.format(tests=str(TESTS), arguments=model, vocabulary=vocabulary)
        (folder / "model.py").write_text(content)
        files = [str(folder / "draft.json"), str(folder / "model.py")]
        draft = launch(
            folder,
            lambda listen: [sys.executable, "-c", DRAFT_LAUNCHER, *files, *map(str, ports(listen))],
            model="draft",
            listen=listen,
        )
        draft.wait_until_ready()
        return draft

    return start


@pytest.fixture(scope="session")
def start_packed_engine(launch: Callable[..., RunningEngine]) -> Callable[..., RunningEngine]:
    """Start `flash-engine` on the packed model in a folder."""

    def start(folder: Path, **config: object) -> RunningEngine:
        write_config(folder, **config)
        return launch(folder, lambda listen: flash_engine_command(folder, listen))

    return start


def write_config(folder: Path, **fields: object) -> None:
    """The engine config of a model in this folder."""
    defaults = {"served_model_name": "tiny", "source": "builtin://smollm2-135m-instruct", "model_dir": str(folder)}
    config = EngineConfig.model_validate({**defaults, **fields})
    (folder / "engine.json").write_text(config.model_dump_json())


def launcher_command(folder: Path) -> list[str]:
    """The product's `serve` with the model file of this folder."""
    return [sys.executable, "-c", LAUNCHER, str(folder / "engine.json"), str(folder / "model.py")]


def flash_engine_command(folder: Path, listen: Listen) -> list[str]:
    """The console script."""
    options = zip(("--http-port", "--grpc-port", "--metrics-port"), map(str, ports(listen)), strict=True)
    command = [sys.executable, "-m", "flash_runtime.backend.serve", "--config", str(folder / "engine.json")]
    return [*command, "--address", listen.address, *(word for option in options for word in option)]


def ports(listen: Listen) -> tuple[int, int, int]:
    """In the order of the command line."""
    return listen.http_port, listen.grpc_port, listen.metrics_port


@pytest.fixture(scope="session")
def engine(start_engine: Callable[..., RunningEngine]) -> RunningEngine:
    """One engine for the tests that leave it running."""
    return start_engine()
