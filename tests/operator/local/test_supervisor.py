"""The supervisor with real small programs as containers: rollouts, failures, sockets, what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flash_operator.local.clock import MonotonicClock
from flash_operator.local.listeners import free_ports
from flash_operator.local.place import ENV_OWNER
from flash_operator.local.podspec import Machine
from flash_operator.local.processes import marked
from flash_operator.local.restarts import RestartPolicy
from flash_operator.local.store import Ref, Store
from flash_operator.local.supervisor import Supervisor

SERVER = """
    import json, os, select, signal, socket, sys
    word = sys.argv[1]
    if "--port" in sys.argv:
        listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
    else:
        listener = socket.socket(fileno=3)
    listener.setblocking(False)  # another process may be faster
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    while True:
        # Told to stop only between requests, as a server that drains.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        poll.poll()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        path = client.recv(4096).split()[1].decode()
        body = word.encode()
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
        client.close()
"""
CRASHING = """
    import sys
    print("no weights here", file=sys.stderr)
    sys.exit(3)
"""


def a_deployment(*command: str, name: str = "web", replicas: int = 1, **pod: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "command": list(command),
        "ports": [{"name": "http", "containerPort": 80}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "timeoutSeconds": 5},
    }
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **pod}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "template": template},
    }


def a_service(port: int, *, name: str = "web") -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


class Site:
    """A supervisor at work."""

    def __init__(self, store: Store, machine: Machine) -> None:
        self.store = store
        self.machine = machine
        self.supervisor = Supervisor(
            store, machine, clock=MonotonicClock(), policy=RestartPolicy(first_seconds=0.05), unroute_seconds=0.05
        )
        self._changed = asyncio.Event()
        store.on_change(lambda _: self._changed.set())

    def status(self, name: str = "web") -> dict[str, Any]:
        live = self.store.get(Ref("Deployment", "default", name))
        assert live is not None
        status: dict[str, Any] = live.get("status", {})
        return status

    def failure(self, name: str = "web") -> str:
        conditions = {entry["type"]: entry["message"] for entry in self.status(name).get("conditions", ())}
        return str(conditions.get("ReplicaFailure", ""))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):  # the end of an old pod changes no object
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()

    async def until_ready(self, count: int = 1) -> None:
        def rolled_out() -> bool:
            status = self.status()
            counts = [status.get(key) for key in ("readyReplicas", "updatedReplicas", "replicas")]
            live = self.store.get(Ref("Deployment", "default", "web"))
            assert live is not None
            return counts == [count] * 3 and status["observedGeneration"] == live["metadata"]["generation"]

        await self.until(rolled_out)


@pytest.fixture
async def site(store: Store, machine: Machine, program: Callable[[str, str], Path]) -> AsyncIterator[Site]:
    program("flash-server", SERVER)
    program("flash-crashing", CRASHING)
    async with supervised(store, machine) as site:
        yield site
    assert marked(ENV_OWNER, str(machine.place.root)) == ()


@contextlib.asynccontextmanager
async def supervised(store: Store, machine: Machine) -> AsyncIterator[Site]:
    site = Site(store, machine)
    running = asyncio.ensure_future(site.supervisor.run())
    yield site
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await site.supervisor.stop()


@pytest.fixture
def port() -> int:
    return free_ports(1, ())[0]


async def ask(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /word HTTP/1.1\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.rpartition(b"\r\n")[2].decode()


async def test_a_deployment_becomes_processes_that_answer(site: Site, port: int) -> None:
    site.store.apply(a_service(port))
    site.store.apply(a_deployment("flash-server", "one"))
    await site.until_ready()
    assert await ask(port) == "one"


async def test_a_rollout_refuses_no_request_and_ends_with_the_new_pods(site: Site, port: int) -> None:
    site.store.apply(a_service(port))
    site.store.apply(a_deployment("flash-server", "one"))
    await site.until_ready()
    answers: list[str] = []
    rolled_out = asyncio.Event()

    async def client() -> None:
        while not rolled_out.is_set():
            answers.append(await ask(port))

    asking = asyncio.ensure_future(client())
    site.store.apply(a_deployment("flash-server", "two"))
    await site.until(lambda: len(site.supervisor.pods()) == 2)
    await site.until_ready()
    await site.until(lambda: len(site.supervisor.pods()) == 1)
    rolled_out.set()
    await asking
    assert answers[0] == "one"
    assert await ask(port) == "two"


async def test_a_new_revision_that_crashes_leaves_the_old_one_serving_and_says_why(site: Site, port: int) -> None:
    site.store.apply(a_service(port))
    site.store.apply(a_deployment("flash-server", "one"))
    await site.until_ready()
    site.store.apply(a_deployment("flash-crashing"))
    await site.until(lambda: "exited 3" in site.failure() and "no weights here" in site.failure())
    assert await ask(port) == "one"
    assert site.status()["readyReplicas"] == 1


async def test_a_killed_process_comes_back_on_the_same_port(site: Site) -> None:
    site.store.apply(a_deployment("flash-server", "one", "--port", "80"))
    await site.until_ready()
    (pod,) = site.supervisor.pods()
    pid, ports = pod.containers[0].state.pid, dict(pod.spec.ports)
    assert pid is not None
    pod.containers[0].kill()
    await site.until(lambda: site.status()["readyReplicas"] == 0)
    await site.until_ready()
    (pod,) = site.supervisor.pods()
    assert pod.containers[0].state.pid != pid
    assert pod.containers[0].state.restarts == 1
    assert pod.spec.ports == ports


async def test_scaling_changes_the_number_of_processes(site: Site) -> None:
    site.store.apply(a_deployment("flash-server", "one", "--port", "80", replicas=3))
    await site.until_ready(3)
    assert len({pod.spec.ports[80] for pod in site.supervisor.pods()}) == 3
    site.store.apply(a_deployment("flash-server", "one", "--port", "80", replicas=1))
    await site.until_ready(1)
    await site.until(lambda: len(site.supervisor.pods()) == 1)


async def test_the_hosts_file_names_ready_pods_only(site: Site, machine: Machine) -> None:
    service = a_service(8001)
    service["spec"]["clusterIP"] = "None"
    site.store.apply(service)
    site.store.apply(a_deployment("flash-server", "one", "--port", "80"))
    await site.until_ready()
    (pod,) = site.supervisor.pods()
    site.supervisor.sync()
    assert read(machine.place.hosts) == f"web.default.svc:8001 127.0.0.1:{pod.spec.ports[80]}\n"
    site.store.apply(a_deployment("flash-server", "one", "--port", "80", replicas=0))
    await site.until(lambda: not site.supervisor.pods())
    site.supervisor.sync()
    assert read(machine.place.hosts) == "web.default.svc:8001\n"


async def test_a_port_in_use_is_a_failure_with_its_remedy_until_the_port_is_free(site: Site, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        site.store.apply(a_service(port))
        site.store.apply(a_deployment("flash-server", "one"))
        await site.until(lambda: "is in use by" in site.failure())
        assert str(port) in site.failure()
        assert "spec.endpoint.port" in site.failure()
        assert site.supervisor.is_idle
    await site.until_ready()
    assert site.failure() == ""


async def test_a_pod_waits_for_its_secret_and_new_pods_take_over_when_it_changes(site: Site) -> None:
    volumes = [{"name": "keys", "secret": {"secretName": "chat-keys"}}]
    site.store.apply(a_deployment("flash-server", "one", "--port", "80", volumes=volumes))
    await site.until(lambda: site.failure() == "Secret 'chat-keys' does not exist")
    secret = {"kind": "Secret", "metadata": {"name": "chat-keys"}, "stringData": {"api-keys": "a"}}
    site.store.apply(secret)
    await site.until_ready()
    (first,) = site.supervisor.pods()
    site.store.apply({**secret, "stringData": {"api-keys": "b"}})
    await site.until(lambda: first not in site.supervisor.pods())
    await site.until_ready()
    (second,) = site.supervisor.pods()
    assert read(second.spec.files[0].path) == "b"


async def test_nothing_is_left_of_a_deployment_that_is_gone(site: Site, machine: Machine, port: int) -> None:
    site.store.apply(a_service(port))
    site.store.apply(a_deployment("flash-server", "one"))
    await site.until_ready()
    site.store.delete(Ref("Deployment", "default", "web"))
    site.store.delete(Ref("Service", "default", "web"))
    await site.supervisor.until_idle()
    site.supervisor.sync()
    assert marked(ENV_OWNER, str(machine.place.root)) == ()
    assert files_below(machine.place.pods) + files_below(machine.place.logs) == []
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_a_pod_whose_folder_cannot_be_made_says_why_and_starts_once_it_can(site: Site, machine: Machine) -> None:
    machine.place.pods.rmdir()
    machine.place.pods.write_text("a file where a folder should be")
    site.store.apply(a_deployment("flash-server", "one", "--port", "80"))
    await site.until(lambda: "cannot be prepared" in site.failure())
    assert str(machine.place.pods) in site.failure()
    machine.place.pods.unlink()
    await site.until_ready()


async def test_a_look_that_fails_does_not_end_the_looking(
    site: Site, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    await site.until(machine.place.hosts.is_file)
    machine.place.hosts.unlink()
    machine.place.hosts.mkdir()
    site.store.apply(a_deployment("flash-server", "one", "--port", "80"))
    await site.until(lambda: "looking after the pods failed" in caplog.text)
    machine.place.hosts.rmdir()
    await site.until_ready()
    await site.until(machine.place.hosts.is_file)


def read(path: Path) -> str:
    return path.read_text()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_pod_whose_port_was_taken_while_it_was_down_is_replaced(site: Site) -> None:
    site.store.apply(a_deployment("flash-server", "one", "--port", "80"))
    await site.until_ready()
    (first,) = site.supervisor.pods()
    port = first.spec.ports[80]
    first.containers[0].kill()
    await site.until(lambda: site.status()["readyReplicas"] == 0)
    with socket.create_server(("127.0.0.1", port)):
        await site.until(lambda: first not in site.supervisor.pods())
        await site.until_ready()
        (second,) = site.supervisor.pods()
    assert second.spec.ports[80] != port
