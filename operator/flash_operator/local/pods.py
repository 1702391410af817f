"""A pod template as processes of this machine: pure translation, no effects.

Container paths become paths below the pod's own folder, in arguments, environment and configuration files alike;
container ports become loopback ports. Knows Kubernetes' vocabulary and our two servers' flags, starts nothing.
"""

from __future__ import annotations

import base64
import os.path
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flash_api.names import (
    ENV_CACHE,
    ENV_HOSTS,
    LABEL_COMPONENT,
    PORT_ENGINE_GRPC,
    PORT_ENGINE_HTTP,
    PORT_ENGINE_METRICS,
)
from flash_operator.local.place import ENV_OWNER, ENV_PROGRESS
from flash_operator.local.podspec import ContainerSpec, File, Machine, PodSpec, Probe
from flash_operator.local.store import Manifest

LOOPBACK: Final = "127.0.0.1"
DEFAULT_GRACE_SECONDS: Final = 30
GRACE_MAX_SECONDS: Final = 45
"""Someone sits before this machine and waits for the end."""

_SERVERS: Final = frozenset({"flash-engine", "flash-draft"})
_ENGINE_PORT_FLAGS: Final = {
    PORT_ENGINE_HTTP: "--http-port",
    PORT_ENGINE_GRPC: "--grpc-port",
    PORT_ENGINE_METRICS: "--metrics-port",
}
_SHARED: Final = frozenset({"/dev/shm"})
"""tritonserver and its stub meet there by name, so it cannot be moved; the engine picks names of its own."""


class MissingObjectError(Exception):
    """A pod names an object that does not exist (yet)."""


def container_ports(template: Manifest) -> tuple[int, ...]:
    """Every container port of a pod template, each once."""
    ports = (port["containerPort"] for entry in template["spec"]["containers"] for port in entry.get("ports", ()))
    return tuple(dict.fromkeys(ports))


def translate(
    template: Manifest,
    *,
    name: str,
    namespace: str,
    machine: Machine,
    ports: Mapping[int, int],
    passed: Collection[int],
    find: Callable[[str, str], Manifest | None],
) -> PodSpec:
    """The processes of one pod.

    `ports` gives each container port a loopback port; those in `passed` are listening sockets that the container is
    given. `find(kind, name)` looks an object up. Raises MissingObjectError.
    """
    directory = machine.place.pod(namespace, name)
    volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", ())}
    roots = {volume: directory / "volumes" / volume for volume in volumes}
    entries = [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]
    relocate = _Relocation(
        {
            mount["mountPath"]: roots[mount["name"]]
            for entry in entries
            for mount in entry.get("volumeMounts", ())
            if mount["mountPath"] not in _SHARED
        }
    )
    files = tuple(
        File(roots[volume] / path, relocate(content.decode()).encode() if "configMap" in volumes[volume] else content)
        for volume in volumes
        for path, content in _volume_content(volumes[volume], find)
    )
    context = _Context(machine, namespace, name, directory, relocate, ports, passed)
    return PodSpec(
        name=name,
        namespace=namespace,
        component=template["metadata"]["labels"].get(LABEL_COMPONENT, name),
        labels=template["metadata"]["labels"],
        directory=directory,
        folders=(directory, *roots.values()),
        files=files,
        init=tuple(context.container(entry) for entry in template["spec"].get("initContainers", ())),
        containers=tuple(context.container(entry) for entry in template["spec"]["containers"]),
        ports=ports,
        port_names={
            port["name"]: port["containerPort"]
            for entry in template["spec"]["containers"]
            for port in entry.get("ports", ())
            if "name" in port
        },
        grace_seconds=min(
            GRACE_MAX_SECONDS, template["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        ),
    )


class _Relocation:
    """Replaces container paths by local ones wherever they stand as whole paths in a text."""

    def __init__(self, local: Mapping[str, Path]) -> None:
        self._local = local
        longest_first = sorted(local, key=len, reverse=True)
        choice = "|".join(re.escape(path) for path in longest_first)
        # Not inside a longer path: `/tmp` must leave `/var/tmp` and `/tmpfiles` alone, and `file:///tmp` too.
        self._pattern = re.compile(rf"(?<![\w./:-])(?:{choice})(?![\w.-])") if local else None

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: str(self._local[found.group()]), text)


@dataclass(frozen=True)
class _Context:
    """What the translation of each container of a pod needs."""

    machine: Machine
    namespace: str
    pod: str
    directory: Path
    relocate: _Relocation
    ports: Mapping[int, int]
    passed: Collection[int]

    def container(self, entry: Manifest) -> ContainerSpec:
        name = entry["name"]
        command = [*entry.get("command", ()), *entry.get("args", ())]
        if not command:
            raise MissingObjectError(f"container {name} names no command; its image cannot run without containers")
        has_ports = bool(entry.get("ports"))
        named_ports = {port["name"]: port["containerPort"] for port in entry.get("ports", ()) if "name" in port}
        progress = self.directory / f"{name}.progress.json"
        own_env = {item["name"]: self.relocate(item["value"]) for item in entry.get("env", ()) if "value" in item}
        return ContainerSpec(
            name=name,
            argv=(*self._argv(command), *self._listening(command[0], has_ports)),
            env={
                **self.machine.env,
                "PATH": f"{self.machine.bin}{os.pathsep}{self.machine.env.get('PATH', os.defpath)}",
                "TMPDIR": self.relocate("/tmp"),
                "PYTHONUNBUFFERED": "1",
                ENV_HOSTS: str(self.machine.place.hosts),
                ENV_PROGRESS: str(progress),
                ENV_OWNER: str(self.machine.place.root),
                **own_env,
                # The user's cache, not the pod's own: pods here share one machine.
                ENV_CACHE: str(self.machine.cache),
            },
            log=self.machine.place.log(self.namespace, self.pod, name),
            progress=progress,
            takes_sockets=any(port["containerPort"] in self.passed for port in entry.get("ports", ())),
            startup=self._probe(entry.get("startupProbe"), named_ports),
            readiness=self._probe(entry.get("readinessProbe"), named_ports),
            liveness=self._probe(entry.get("livenessProbe"), named_ports),
        )

    def _argv(self, command: Sequence[str]) -> tuple[str, ...]:
        program, *arguments = command
        if program in ("python", "python3"):
            program = str(self.machine.python)
        elif "/" not in program and program.startswith("flash"):
            program = str(self.machine.bin / program)
        return (program, *self._local_ports(self.relocate(argument) for argument in arguments))

    def _local_ports(self, arguments: Iterable[str]) -> Iterable[str]:
        """`--http-port 8000` names a container port; the process has another."""
        previous = ""
        for argument in arguments:
            is_port = previous.endswith("port") and argument.isdecimal()
            yield str(self.ports.get(int(argument), argument)) if is_port else argument
            previous = argument

    def _listening(self, program: str, has_ports: bool) -> tuple[str, ...]:
        if program not in _SERVERS or not has_ports:
            return ()
        flags = [
            word
            for port, flag in _ENGINE_PORT_FLAGS.items()
            if port in self.ports
            for word in (flag, str(self.ports[port]))
        ]
        return ("--address", LOOPBACK, *flags)

    def _probe(self, entry: Manifest | None, named_ports: Mapping[str, int]) -> Probe | None:
        if entry is None:
            return None
        http = command = None
        shared = False
        if get := entry.get("httpGet"):
            port = named_ports.get(get["port"], get["port"])
            shared = port in self.passed
            http = f"http://{LOOPBACK}:{self.ports.get(port, port)}{get.get('path', '/')}"
        elif run := entry.get("exec"):
            command = self._argv(run["command"])
        else:
            return None
        return Probe(
            http=http,
            shared=shared,
            command=command,
            period_seconds=entry.get("periodSeconds", 10),
            timeout_seconds=entry.get("timeoutSeconds", 1),
            failure_threshold=entry.get("failureThreshold", 3),
            initial_delay_seconds=entry.get("initialDelaySeconds", 0),
        )


def _volume_content(volume: Manifest, find: Callable[[str, str], Manifest | None]) -> list[tuple[str, bytes]]:
    """The files of a ConfigMap or Secret volume; nothing for an empty folder."""
    if (claim := volume.get("persistentVolumeClaim")) is not None:
        raise MissingObjectError(
            f"PersistentVolumeClaim {claim['claimName']!r} does not exist on this machine; "
            "write file:///PATH instead of pvc:// into spec.model.source"
        )
    for source, kind, name_key in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
        if (wanted := volume.get(source)) is None:
            continue
        found = find(kind, wanted[name_key])
        if found is None:
            raise MissingObjectError(f"{kind} {wanted[name_key]!r} does not exist")
        data = object_data(found)
        items = wanted.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] not in data:
                has = ", ".join(sorted(data)) or "none"
                raise MissingObjectError(f"{kind} {wanted[name_key]!r} has no key {item['key']!r}; it has {has}")
        return [(item["path"], data[item["key"]]) for item in items]
    return []


def object_data(manifest: Manifest) -> dict[str, bytes]:
    """The bytes of a ConfigMap or Secret by key."""
    if manifest["kind"] == "Secret":
        encoded = {key: base64.b64decode(text) for key, text in (manifest.get("data") or {}).items()}
        return encoded | {key: text.encode() for key, text in (manifest.get("stringData") or {}).items()}
    return {key: text.encode() for key, text in (manifest.get("data") or {}).items()}
