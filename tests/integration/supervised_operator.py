"""The operator as a process that is started again whenever it ends, as a kubelet does, without a kubelet's pauses."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
from operator_process import free_port

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 90.0
POLL_SECONDS = 0.05


class SupervisedOperator:
    """An async context manager. `ends` counts how often it ended by itself or by `kill`.
    `settings` are fields of `operator_main`."""

    def __init__(self, kubeconfig: Path, folder: Path, namespace: str, **settings: Any) -> None:
        self.port = free_port()
        self.log = folder / "operator.log"
        self.ends = 0
        self._settings = folder / "settings.json"
        self._given = {
            "kubeconfig": str(kubeconfig),
            "namespace": namespace,
            "port": self.port,
            "pass_seconds": 600.0,
            "inactivity_seconds": 3.0,
            "lease_seconds": (6.0, 4.0, 0.5),
            **settings,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(trust_env=False)
        self._keeper = asyncio.create_task(self._keep_running())
        await self.until("it leads", self._leads)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        await self._session.close()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels, 0 while there is none."""
        _, text = await self.page("/metrics")
        found = [line.rpartition(" ") for line in text.splitlines()]
        return sum(float(value) for key, _, value in found if key == name or key.startswith(name + "{"))

    async def events(self, kind: str) -> float:
        return await self.metric(f'flashplane_events_total{{kind="{kind}"}}')

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text; 0 while nobody listens."""
        try:
            async with self._session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def until(self, what: str, look: Callable[[], Awaitable[bool]]) -> None:
        """Look again and again: another process changes what is seen."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await look():  # noqa: ASYNC110 (it looks at another process)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            tail = self.log.read_text()[-3000:]
            raise AssertionError(
                f"not within {DEADLINE_SECONDS:.0f} s: {what}; the operator's log ends:\n{tail}"
            ) from None

    async def _leads(self) -> bool:
        return await self.metric("flashplane_leading") == 1

    async def _keep_running(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
        environment.pop("KUBECONFIG", None)
        while True:
            given = {**self._given, "identity": secrets.token_hex(4)}
            self._settings.write_text(json.dumps(given))
            with self.log.open("ab") as log:
                command = (sys.executable, str(Path(__file__).with_name("operator_main.py")), str(self._settings))
                self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
            await self._process.wait()
            self.ends += 1
