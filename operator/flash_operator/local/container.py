"""One container's process: started, probed, started again after it ends. Knows nothing of other containers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from flash_operator.local.clock import Clock
from flash_operator.local.logs import end_of_log, last_line
from flash_operator.local.podspec import ContainerSpec, Probe
from flash_operator.local.processes import Process
from flash_operator.local.restarts import RestartPolicy

QUICK_PERIOD_SECONDS: Final = 0.1
"""How often a container that is not ready yet is asked over HTTP: asking on this machine costs next to nothing, and
each second waited for a probe is a second of start-up."""


@dataclass(frozen=True)
class ContainerState:
    """What is known of a container now."""

    pid: int | None = None
    ready: bool = False
    done: bool = False
    """Ran to its end without error (init containers only)."""
    restarts: int = 0
    last_exit_code: int | None = None
    last_line: str = ""
    """Last line of the output of the run that ended."""
    probe_failure: str = ""
    restart_in_seconds: float | None = None
    """Set while it waits to be started again."""


class Container:
    """Keeps one process running."""

    def __init__(
        self,
        spec: ContainerSpec,
        *,
        clock: Clock,
        ask: Callable[[ContainerSpec, Probe, int], Awaitable[str | None]],
        changed: Callable[[], None],
        policy: RestartPolicy,
        grace_seconds: float,
        sockets: Sequence[int] = (),
    ) -> None:
        self.spec = spec
        self.state = ContainerState()
        self._clock = clock
        self._ask = ask
        self._changed = changed
        self._policy = policy
        self._grace_seconds = grace_seconds
        self._sockets = sockets
        self._process: Process | None = None

    async def run_to_completion(self) -> None:
        """Start until it ends without error."""
        failures = 0
        while True:
            started = self._clock.now()
            if await self._run_once() == 0:
                self._note(done=True)
                return
            failures = self._policy.failures(failures, self._clock.now() - started)
            await self._pause(failures)

    async def run_forever(self) -> None:
        """Start again whenever it ends."""
        failures = 0
        while True:
            started = self._clock.now()
            await self._run_once()
            failures = self._policy.failures(failures, self._clock.now() - started)
            await self._pause(failures)

    def kill(self) -> None:
        """SIGKILL, as the kernel does to a process that takes too much memory."""
        if self._process is not None:
            self._process.kill()

    async def stop(self, grace_seconds: float) -> None:
        if self._process is not None:
            await self._process.stop(grace_seconds, self._clock)

    async def _pause(self, failures: int) -> None:
        delay = self._policy.delay_seconds(failures)
        self._note(restart_in_seconds=delay)
        await self._clock.sleep(delay)
        self._note(restart_in_seconds=None, restarts=self.state.restarts + 1)

    async def _run_once(self) -> int | None:
        """The exit code, None when it could not be started at all."""
        output_start = end_of_log(self.spec.log)
        try:
            process = Process.start(
                self.spec.argv,
                env=self.spec.env,
                log=self.spec.log,
                sockets=self._sockets if self.spec.takes_sockets else (),
            )
        except OSError as error:
            self._note(last_exit_code=None, last_line=f"{self.spec.argv[0]} cannot be started: {error.strerror}")
            return None
        self._process = process
        self._note(pid=process.pid)
        watching = asyncio.ensure_future(self._watch(process))
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            watching.cancel()
            self._process = None
        self._note(pid=None, ready=False, last_exit_code=code, last_line=last_line(self.spec.log, output_start))
        return code

    async def _watch(self, process: Process) -> None:
        """Startup probe first, then readiness and liveness side by side."""
        if self.spec.startup is not None and not await self._started(self.spec.startup, process):
            await process.stop(self._grace_seconds, self._clock)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_readiness(process))
            if self.spec.liveness is not None:
                group.create_task(self._watch_liveness(self.spec.liveness, process))

    async def _started(self, probe: Probe, process: Process) -> bool:
        deadline = self._clock.now() + probe.initial_delay_seconds + probe.period_seconds * probe.failure_threshold
        while (failure := await self._ask(self.spec, probe, process.pid)) is not None:
            self._note(probe_failure=f"not started: {failure}")
            if self._clock.now() >= deadline:
                return False
            await self._clock.sleep(_quick_period(probe))
        self._note(probe_failure="")
        return True

    async def _watch_readiness(self, process: Process) -> None:
        probe = self.spec.readiness
        if probe is None:
            self._note(ready=True)
            return
        misses = 0
        while True:
            failure = await self._ask(self.spec, probe, process.pid)
            misses = 0 if failure is None else misses + 1
            if failure is None:
                self._note(ready=True, probe_failure="")
            elif misses >= probe.failure_threshold or not self.state.ready:
                self._note(ready=False, probe_failure=f"not ready: {failure}")
            await self._clock.sleep(probe.period_seconds if self.state.ready else _quick_period(probe))

    async def _watch_liveness(self, probe: Probe, process: Process) -> None:
        await self._clock.sleep(probe.initial_delay_seconds)
        misses = 0
        while misses < probe.failure_threshold:
            await self._clock.sleep(probe.period_seconds)
            failure = await self._ask(self.spec, probe, process.pid)
            misses = 0 if failure is None else misses + 1
            if failure is not None:
                self._note(probe_failure=f"not alive: {failure}")
        await process.stop(self._grace_seconds, self._clock)

    def _note(self, **changes: object) -> None:
        state = ContainerState(**{**self.state.__dict__, **changes})
        if state != self.state:
            self.state = state
            self._changed()


def _quick_period(probe: Probe) -> float:
    """A probe by command starts a program each time, so it keeps to about its own pace."""
    return min(probe.period_seconds, QUICK_PERIOD_SECONDS if probe.http else 1.0)
