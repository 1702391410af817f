"""A real Kubernetes API on this machine: etcd, kube-apiserver and kube-controller-manager as plain processes.

    with ControlPlane() as cluster:
        cluster.kubectl("get", "namespaces")

Knows how the three are brought up and taken down. Has no scheduler, no nodes and no pods that run: a Deployment gets
its ReplicaSet and its Pods, and these stay Pending.

As a program: python kind/hermetic/control_plane.py build|up|status|down
"""

import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hermetic_api import Api, certificate_user, write_kubeconfig
from hermetic_binaries import Binaries, provide
from hermetic_errors import ControlPlaneFailed, KubectlFailed
from hermetic_pki import Pki, write_pki
from hermetic_processes import ProgramGroup
from hermetic_programs import (
    AUDIT_POLICY,
    Addresses,
    Audit,
    apiserver_command,
    controller_manager_command,
    etcd_command,
    etcd_is_healthy,
)

START_TIMEOUT_SECONDS = 90.0  # 5 s on an idle machine; the rest is for one that compiles at the same time
POLL_SECONDS = 0.05
TOKEN_SECONDS = 12 * 60 * 60


class ControlPlane:
    """One control plane in a temporary directory of its own, bound to 127.0.0.1. Several may run side by side.

    Use it as a context manager, or call `start()` and `stop()`. It can be started once.

    `crds` are manifests, or folders of them, that are there before the controllers start. For a kind that comes later
    the garbage collector needs up to a minute until it acts on its objects: it looks for new kinds every 30 s.

    `group` is what it lives and dies with; without one it makes its own. Either is closed by `stop()`.
    """

    def __init__(
        self,
        binaries: Binaries | None = None,
        *,
        crds: Sequence[Path] = (),
        start_timeout_seconds: float = START_TIMEOUT_SECONDS,
        addresses: Addresses | None = None,
        group: ProgramGroup | None = None,
    ) -> None:
        self._crds = tuple(path.resolve() for path in crds)
        self._binaries = binaries
        self._start_timeout_seconds = start_timeout_seconds
        self._addresses = addresses or Addresses()
        self._port_holder: socket.socket | None = None
        self._group = group
        self._started = False
        self._api: Api | None = None
        self._pki: Pki | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the API is ready and the controllers act. Builds the programs first where that is needed.

        Raises BinariesUnavailable, BuildFailed, ControlPlaneFailed, or KubectlFailed when the API refuses one of
        `crds`; nothing is left behind then.
        """
        if self._started:
            raise ControlPlaneFailed("this control plane was started before; make a new one")
        self._started = True
        binaries = self._binaries = self._binaries or provide()
        self._group = self._group or ProgramGroup()
        try:
            self._start(binaries)
        except BaseException:
            self.stop()
            raise

    def _start(self, binaries: Binaries) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        group, directory = self._running_group(), self.directory
        keys = directory / "keys"
        keys.mkdir()
        self._pki = write_pki(keys, self._addresses.server_names, datetime.datetime.now(datetime.UTC))

        etcd_socket = directory / "etcd.sock"
        group.spawn(
            "etcd",
            etcd_command(binaries, data=directory / "etcd", listen=etcd_socket, listen_peer=directory / "peer.sock"),
        )
        self.wait("etcd is healthy", lambda: etcd_is_healthy(etcd_socket), deadline)

        self._port_holder = _hold_free_port()
        audit = Audit(policy=directory / "audit-policy.json", log=self.audit_log)
        audit.policy.write_text(json.dumps(AUDIT_POLICY))
        group.spawn(
            "kube-apiserver",
            apiserver_command(
                binaries, self._pki, etcd=etcd_socket, port=self.port, audit=audit, addresses=self._addresses
            ),
        )
        self.write_kubeconfig("admin", certificate_user(self._pki.admin))
        self._api = Api(self.port, self._pki.authority.certificate, self._pki.admin)
        self.wait("the API server is ready", lambda: self.api.answers("/readyz"), deadline)

        self._install_crds(deadline)

        # Not earlier: before the API server has made the default roles, the controller manager is refused and exits.
        kubeconfig = self.write_kubeconfig("controller-manager", certificate_user(self._pki.controller_manager))
        group.spawn(
            "kube-controller-manager",
            controller_manager_command(
                binaries, self._pki, kubeconfig=kubeconfig, volume_plugins=directory / "volume-plugins"
            ),
        )
        default_account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.wait("the default ServiceAccount exists", lambda: self.api.answers(default_account), deadline)

    def _install_crds(self, deadline: float) -> None:
        if not self._crds:
            return
        for path in self._crds:
            self.kubectl("apply", "--server-side", "-f", str(path))
        crds = json.loads(self.kubectl("get", "customresourcedefinitions", "-o", "json"))["items"]
        names = {crd["metadata"]["name"] for crd in crds}  # PLURAL.GROUP, as discovery lists them
        self.wait(
            f"the API serves {', '.join(sorted(names))}",
            lambda: names <= set(self.kubectl("api-resources", "--cached=false", "-o", "name").split()),
            deadline,
        )

    def wait(self, fact: str, holds: Callable[[], bool], deadline: float) -> None:
        """Raises ControlPlaneFailed when a program ends, or at the deadline (of time.monotonic)."""
        while not holds():
            self.require_running()
            if time.monotonic() > deadline:
                newest = self._running_group().programs[-1]
                raise ControlPlaneFailed(
                    f"not true after {self._start_timeout_seconds:.0f} s: {fact}; "
                    f"the last lines of {newest.name}:\n{newest.last_lines()}"
                )
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends all processes and removes the directory. Safe to call at any time, and more than once."""
        if self._group is not None:
            self._group.close()
        if self._port_holder is not None:
            self._port_holder.close()

    def require_running(self) -> None:
        """Raises ControlPlaneFailed, with the last log lines, when a program has ended."""
        for program in self._running_group().programs:
            program.require_running()

    @property
    def api(self) -> Api:
        """The API as cluster admin, without any client library."""
        if self._api is None:
            raise ControlPlaneFailed("the control plane is not started")
        return self._api

    @property
    def binaries(self) -> Binaries:
        """The programs that run."""
        if self._binaries is None:
            raise ControlPlaneFailed("the control plane is not started")
        return self._binaries

    @property
    def directory(self) -> Path:
        """Keys, kubeconfigs, data and one log per program; readable by this user only."""
        return self._running_group().directory

    @property
    def port(self) -> int:
        if self._port_holder is None:
            raise ControlPlaneFailed("the control plane is not started")
        port: int = self._port_holder.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """The cluster admin's."""
        return self.directory / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON line per finished call of a ServiceAccount outside kube-system: who, what, and with which result."""
        return self.directory / "audit.log"

    @property
    def pids(self) -> list[int]:
        """Of every process that belongs to this control plane."""
        return self._running_group().pids

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Standard output of kubectl, as cluster admin or with another kubeconfig. Raises KubectlFailed."""
        done = subprocess.run(
            [str(self.binaries.kubectl), *arguments],
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            # Its discovery cache stays in our directory instead of the home directory.
            env={
                **os.environ,
                "KUBECONFIG": str(kubeconfig or self.kubeconfig),
                "KUBECACHEDIR": str(self.directory / "kubectl-cache"),
            },
        )
        if done.returncode != 0:
            raise KubectlFailed(arguments, done.returncode, done.stderr)
        return done.stdout

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig that acts as this service account, with a token that is good for 12 hours.

        The account must exist. Raises ControlPlaneFailed with the server's answer when no token is given.
        """
        answer = self.api.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": TOKEN_SECONDS},
            },
        )
        if answer.status != 201:
            raise ControlPlaneFailed(f"no token for service account {namespace}/{name}: {answer.text.strip()}")
        token = answer.json()["status"]["token"]
        return self.write_kubeconfig(f"{namespace}.{name}", {"token": token}, namespace=namespace)

    @property
    def pki(self) -> Pki:
        """The keys, and who signs more of them."""
        if self._pki is None:
            raise ControlPlaneFailed("the control plane is not started")
        return self._pki

    def write_kubeconfig(
        self, name: str, user: Mapping[str, str], *, namespace: str = "default", url: str | None = None
    ) -> Path:
        """A kubeconfig file in the directory; `url` is for who does not reach 127.0.0.1."""
        return write_kubeconfig(
            self.directory / f"{name}.kubeconfig",
            url=url or self.url,
            authority=self.pki.authority.certificate,
            user=user,
            namespace=namespace,
        )

    def _running_group(self) -> ProgramGroup:
        if self._group is None:
            raise ControlPlaneFailed("the control plane is not started")
        return self._group


def _hold_free_port() -> socket.socket:
    """A socket that keeps a free port of 127.0.0.1 reserved: bound, but never listening."""
    with contextlib.ExitStack() as on_error:
        holder = on_error.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        on_error.pop_all()
        return holder


if __name__ == "__main__":
    from hermetic_cli import main  # only here: the command line imports this module

    sys.exit(main())
