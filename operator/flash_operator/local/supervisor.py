"""Runs what the store's Deployments ask for: look, decide, act, report. Holds the pods; every decision is elsewhere.

`sync()` is level-triggered: it starts from the objects and pods there are, may be called at any time, and is called
again whenever either changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from flash_operator.local import listeners, probes
from flash_operator.local.clock import Clock
from flash_operator.local.logs import forget, log_files, rotate
from flash_operator.local.pod import Pod
from flash_operator.local.pods import MissingObjectError, container_ports, translate
from flash_operator.local.podspec import ContainerSpec, Machine, Probe
from flash_operator.local.replicas import Look, deployment_status
from flash_operator.local.restarts import RestartPolicy
from flash_operator.local.rollout import PodFact, decide
from flash_operator.local.services import Backend, endpoint_ports, hosts_file
from flash_operator.local.store import Manifest, Ref, Store, ref_of, write_atomically

SYNC_SECONDS: Final = 2.0
"""Longest pause between two looks: what sends no event (a port that became free, a log that grew) is noticed then."""
UNROUTE_SECONDS: Final = 0.5
"""Between leaving the hosts file and SIGTERM: the gateway looks at the file for each request."""
KEPT_LOGS: Final = 12
"""Log files of one Deployment, those of former pods included."""

log = logging.getLogger(__name__)


Ask = Callable[[ContainerSpec, Probe, int], Awaitable[str | None]]


async def ask_container(container: ContainerSpec, probe: Probe, pid: int) -> str | None:
    return await probes.ask(probe, pid=pid, env=container.env, log=container.log)


class Supervisor:
    """All pods of one state directory."""

    def __init__(
        self,
        store: Store,
        machine: Machine,
        *,
        clock: Clock,
        ask: Ask = ask_container,
        policy: RestartPolicy = RestartPolicy(),
        unroute_seconds: float = UNROUTE_SECONDS,
    ) -> None:
        self._store = store
        self._machine = machine
        self._clock = clock
        self._ask = ask
        self._policy = policy
        self._unroute_seconds = unroute_seconds
        self._pods: dict[Ref, list[Pod]] = {}
        self._ready_at: dict[Ref, float] = {}
        """When a Deployment last had all the pods it wants, for the progress deadline."""
        self._listeners = listeners.Listeners()
        self._stops: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        store.on_change(lambda _: self._wake.set())

    def pods(self) -> list[Pod]:
        """Every pod that has not ended yet."""
        return [pod for _, pods in sorted(self._pods.items()) for pod in pods]

    @property
    def is_idle(self) -> bool:
        """No process runs."""
        return not any(self._pods.values())

    async def until_idle(self) -> None:
        """Wait for the pods that are being stopped."""
        while self._pods:
            await asyncio.gather(*self._stops) if self._stops else await asyncio.sleep(0)

    async def run(self) -> None:
        """Sync after each change and every now and then, until cancelled."""
        while True:
            self._wake.clear()
            try:
                self.sync()
                for path in log_files(self._machine.place.logs):
                    rotate(path)
            except Exception:  # the outermost loop: a full disk must not end what serves
                log.exception("looking after the pods failed; it is tried again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_SECONDS):
                    await self._wake.wait()

    def sync(self) -> None:
        deployments = {ref_of(manifest): manifest for manifest in self._store.list("Deployment")}
        services = self._store.list("Service")
        for ref in [ref for ref in self._pods if ref not in deployments]:
            for pod in self._pods[ref]:
                self._stop(ref, pod)
        endpoints = {
            port for ref in deployments for port in self._endpoint_ports(ref, deployments[ref], services).values()
        }
        self._listeners.close_except(endpoints | {port for pod in self.pods() for port in pod.spec.ports.values()})
        for ref, deployment in deployments.items():
            failure = self._converge(ref, deployment, services)
            self._report(ref, deployment, services, failure)
        self._write_hosts(services)

    async def stop(self) -> None:
        """Stop every pod; clients are not waited for, since nothing else could serve them."""
        self._unroute_seconds = 0
        for ref, pods in self._pods.items():
            for pod in pods:
                self._stop(ref, pod)
        await asyncio.gather(*self._stops)
        self._listeners.close_except(())

    def _converge(self, ref: Ref, deployment: Manifest, services: tuple[Manifest, ...]) -> str:
        """Start and stop what the rollout asks for; why pods cannot be made, if so."""
        template = deployment["spec"]["template"]
        ports = self._endpoint_ports(ref, deployment, services)
        revision = self._revision(ref, template, ports)
        pods = self._pods.setdefault(ref, [])
        decision = decide(_facts(pods), revision=revision, replicas=deployment["spec"].get("replicas", 1))
        for pod in pods:
            if pod.spec.name in decision.stop or self._lost_a_port(pod, ports):
                self._stop(ref, pod)
        try:
            for ordinal in decision.start:
                self._start(ref, template, revision, ordinal, ports)
        except (MissingObjectError, listeners.PortInUseError) as error:
            return str(error)
        return next((pod.failure for pod in pods if pod.revision == revision and pod.failure), "")

    def _lost_a_port(self, pod: Pod, endpoint: Mapping[int, int]) -> bool:
        """Someone else took a port of this pod while its process was down: only a new pod, with other ports, helps.

        Right after the first failure it may be the old process whose sockets are still being closed.
        """
        own = [port for number, port in pod.spec.ports.items() if number not in endpoint]
        return pod.is_failing_again and not all(map(listeners.is_free, own))

    def _start(self, ref: Ref, template: Manifest, revision: str, ordinal: int, endpoint: Mapping[int, int]) -> None:
        sockets = [self._listeners.open(port) for port in endpoint.values()]
        own = [port for port in container_ports(template) if port not in endpoint]
        taken = [port for pod in self.pods() for port in pod.spec.ports.values()]
        taken += [port["port"] for service in self._store.list("Service") for port in service["spec"]["ports"]]
        free = listeners.free_ports(len(own), taken, start=zlib.crc32(bytes(self._machine.place.root)))
        spec = translate(
            template,
            name=f"{ref.name}-{revision}-{ordinal}",
            namespace=ref.namespace,
            machine=self._machine,
            ports={**endpoint, **dict(zip(own, free, strict=True))},
            passed=endpoint,
            find=lambda kind, name: self._store.get(Ref(kind, ref.namespace, name)),
        )
        pod = Pod(
            spec,
            revision=revision,
            ordinal=ordinal,
            clock=self._clock,
            ask=self._ask,
            changed=self._wake.set,
            policy=self._policy,
            sockets=sockets,
        )
        log.info("starting pod %s/%s", ref.namespace, spec.name)
        self._pods[ref].append(pod)
        pod.start()

    def _stop(self, ref: Ref, pod: Pod) -> None:
        if pod.stopping:
            return
        log.info("stopping pod %s/%s", ref.namespace, pod.spec.name)
        pod.stopping = True
        stopping = asyncio.ensure_future(self._stop_and_forget(ref, pod))
        self._stops.add(stopping)
        stopping.add_done_callback(self._stops.discard)

    async def _stop_and_forget(self, ref: Ref, pod: Pod) -> None:
        await pod.stop(unroute_seconds=self._unroute_seconds if self._store.get(ref) is not None else 0)
        self._pods[ref].remove(pod)
        if not self._pods[ref]:
            del self._pods[ref]
        kept = KEPT_LOGS if self._store.get(ref) is not None else 0
        forget(self._machine.place.logs / ref.namespace, f"{ref.name}-", keep=kept)
        self._wake.set()

    def _report(self, ref: Ref, deployment: Manifest, services: tuple[Manifest, ...], failure: str) -> None:
        ports = self._endpoint_ports(ref, deployment, services)
        revision = self._revision(ref, deployment["spec"]["template"], ports)
        facts = _facts(self._pods.get(ref, []))
        now = self._clock.now()
        current = [pod for pod in facts if pod.ready and not pod.stopping and pod.revision == revision]
        if ref not in self._ready_at or len(current) >= deployment["spec"].get("replicas", 1):
            self._ready_at[ref] = now
        look = Look(facts, revision, failure, now - self._ready_at[ref])
        self._store.write_status(ref, deployment_status(deployment, look))

    def _write_hosts(self, services: tuple[Manifest, ...]) -> None:
        ready = [
            Backend(pod.spec.namespace, pod.spec.labels, pod.spec.ports, pod.spec.port_names)
            for pods in self._pods.values()
            for pod in pods
            if pod.is_ready
        ]
        content = hosts_file(services, ready).encode()
        path = self._machine.place.hosts
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)

    def _revision(self, ref: Ref, template: Manifest, endpoint: Mapping[int, int]) -> str:
        """Which pods are alike: those of one template that listen on the same socket and read the same Secrets.

        (A kubelet rewrites the files of a changed Secret in place; here new pods take over.)
        """
        volumes = template["spec"].get("volumes", ())
        names = [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]
        secrets = [self._store.get(Ref("Secret", ref.namespace, name)) for name in names]
        contents = [(secret.get("data"), secret.get("stringData")) if secret else None for secret in secrets]
        text = json.dumps([template, sorted(endpoint.items()), contents], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @staticmethod
    def _endpoint_ports(ref: Ref, deployment: Manifest, services: tuple[Manifest, ...]) -> dict[int, int]:
        near = [service for service in services if service["metadata"]["namespace"] == ref.namespace]
        return endpoint_ports(near, deployment["spec"]["template"])


def _facts(pods: list[Pod]) -> tuple[PodFact, ...]:
    return tuple(PodFact(pod.spec.name, pod.revision, pod.ordinal, pod.is_ready, pod.stopping) for pod in pods)
