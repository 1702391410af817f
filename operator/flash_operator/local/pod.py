"""One pod: its folder, its init containers in turn, its containers side by side. Knows no Deployment."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence

from flash_operator.local.clock import Clock
from flash_operator.local.container import Container
from flash_operator.local.podspec import ContainerSpec, PodSpec, Probe
from flash_operator.local.restarts import RestartPolicy
from flash_operator.local.store import write_atomically


class Pod:
    """A running pod."""

    def __init__(
        self,
        spec: PodSpec,
        *,
        revision: str,
        ordinal: int,
        clock: Clock,
        ask: Callable[[ContainerSpec, Probe, int], Awaitable[str | None]],
        changed: Callable[[], None],
        policy: RestartPolicy,
        sockets: Sequence[int] = (),
    ) -> None:
        self.spec = spec
        self.revision = revision
        self.ordinal = ordinal
        self.stopping = False
        self.init, self.containers = (
            [
                Container(
                    entry,
                    clock=clock,
                    ask=ask,
                    changed=changed,
                    policy=policy,
                    grace_seconds=spec.grace_seconds,
                    sockets=sockets,
                )
                for entry in entries
            ]
            for entries in (spec.init, spec.containers)
        )
        self._clock = clock
        self._changed = changed
        self._policy = policy
        self._unprepared = ""
        """Why its folder could not be filled; empty when it was."""
        self._task: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        return not self.stopping and all(container.state.ready for container in self.containers)

    @property
    def is_failing_again(self) -> bool:
        """A container that was started again has ended once more and waits for its next start."""
        states = [container.state for container in self.containers]
        return any(state.restart_in_seconds is not None and state.restarts > 0 for state in states)

    @property
    def failure(self) -> str:
        """What went wrong last in a container that does not work now; empty when nothing did."""
        if self._unprepared:
            return self._unprepared
        for container in (*self.init, *self.containers):
            state, name = container.state, container.spec.name
            if state.done or state.ready:
                continue
            if state.last_exit_code is not None or state.last_line:
                code = "" if state.last_exit_code is None else f" exited {state.last_exit_code}"
                return f"container {name} of {self.spec.name}{code}, {state.restarts} restarts: {state.last_line}"
        return ""

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._run())

    async def stop(self, *, unroute_seconds: float) -> None:
        """Out of the hosts file first (the caller's `changed`), then, once clients know, SIGTERM and the grace."""
        self.stopping = True
        self._changed()
        if self.spec.ports and any(container.state.ready for container in self.containers):
            await self._clock.sleep(unroute_seconds)
        stops = [container.stop(self.spec.grace_seconds) for container in (*self.init, *self.containers)]
        await asyncio.gather(*stops)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        shutil.rmtree(self.spec.directory, ignore_errors=True)

    async def _run(self) -> None:
        await self._prepare()
        for container in self.init:
            await container.run_to_completion()
        async with asyncio.TaskGroup() as group:
            for container in self.containers:
                group.create_task(container.run_forever())

    async def _prepare(self) -> None:
        failures = 0
        while True:
            try:
                for folder in self.spec.folders:
                    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                for file in self.spec.files:
                    write_atomically(file.path, file.content)
            except OSError as error:
                failures += 1
                self._unprepared = f"pod {self.spec.name} cannot be prepared: {error}"
                self._changed()
                await self._clock.sleep(self._policy.delay_seconds(failures))
            else:
                self._unprepared = ""
                return
