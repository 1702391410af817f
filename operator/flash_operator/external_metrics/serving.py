"""Serves the external metrics API as long as the process lives, leader or not: the number is in the status of each
FlashDeployment, so whoever is asked reads it there.

The API server proves itself by the front proxy's certificate, whose authority it publishes; it has asked for the
user's rights before it comes here. We prove ourselves by a certificate that we add to the APIService.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web

from flash_api import names
from flash_operator.cluster.api import Missing
from flash_operator.cluster.protocol import ClusterError, Conflict, Key
from flash_operator.external_metrics.application import GROUP, VERSION, application
from flash_operator.external_metrics.certificates import Credentials, bundle, issue
from flash_operator.plan.autoscale_record import recorded

FRONT_PROXY: Final = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
API_SERVICE: Final = f"/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}"
LOOK_SECONDS: Final = 300.0
"""How soon a changed authority, or a bundle that someone has overwritten, is seen."""
RETRY_SECONDS: Final = 10.0
PUBLISH_TRIES: Final = 5

log = logging.getLogger(__name__)


class Api(Protocol):
    """Requests to the Kubernetes API. Raise ClusterError."""

    async def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any: ...


@dataclass(frozen=True)
class Endpoint:
    """Where we listen, and as whom the API server asks for us."""

    host: str
    port: int
    service: str
    namespace: str

    @property
    def server_name(self) -> str:
        return names.service_host(self.service, self.namespace)


@dataclass(frozen=True)
class FrontProxy:
    """How the API server proves itself."""

    authority: str
    allowed: tuple[str, ...]


class ExternalMetrics:
    """Run it beside everything else; what it cannot do now it tries again."""

    def __init__(self, api: Api, endpoint: Endpoint, now: Callable[[], datetime]) -> None:
        self._api = api
        self._endpoint = endpoint
        self._now = now
        self._runner: web.AppRunner | None = None
        self._served: tuple[Credentials, FrontProxy] | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        said = ""
        try:
            while True:
                try:
                    await self.renew()
                except (ClusterError, OSError) as error:
                    if str(error) != said:
                        log.warning("the external metrics API cannot be served yet: %s", error)
                    said = str(error)
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                said = ""
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self.aclose()

    async def renew(self) -> None:
        """Serve by credentials that hold, to the API server as it proves itself now. Nothing is done without need."""
        now = self._now()
        asks = await self._front_proxy()
        credentials = self._served[0] if self._served is not None else None
        if credentials is None or credentials.is_old(now):
            credentials = issue(self._endpoint.server_name, now)
        await self._publish(credentials, now)
        if self._served != (credentials, asks):
            await self.aclose()
            await self._listen(credentials, asks)
            log.info("the external metrics API is served on port %d", self._endpoint.port)

    async def aclose(self) -> None:
        """Listen no longer."""
        runner, self._runner, self._served = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    async def _listen(self, credentials: Credentials, asks: FrontProxy) -> None:
        runner = web.AppRunner(application(self._wanted, asks.allowed, self._now), access_log=None)
        await runner.setup()
        self._runner = runner
        context = _context(credentials, asks)
        await web.TCPSite(runner, self._endpoint.host, self._endpoint.port, ssl_context=context).start()
        self._served = (credentials, asks)

    async def _front_proxy(self) -> FrontProxy:
        found = (await self._api.request("get", FRONT_PROXY)).get("data") or {}
        authority = str(found.get("requestheader-client-ca-file") or "")
        if not authority:
            raise ClusterError("this cluster has no front proxy, so it cannot ask other servers")
        try:
            allowed = json.loads(found.get("requestheader-allowed-names") or "[]")
        except ValueError as error:
            raise ClusterError(f"requestheader-allowed-names cannot be read: {error}") from error
        return FrontProxy(authority, tuple(map(str, allowed)))

    async def _publish(self, credentials: Credentials, now: datetime) -> None:
        for tries_left in reversed(range(PUBLISH_TRIES)):
            try:
                await self._add(credentials.certificate, now)
                return
            except Conflict:  # its status changes, and so may our fellows change the bundle
                if not tries_left:
                    raise

    async def _add(self, certificate: bytes, now: datetime) -> None:
        live = await self._api.request("get", API_SERVICE)
        service = live["spec"].get("service") or {}
        ours = {"name": self._endpoint.service, "namespace": self._endpoint.namespace}
        if {key: service.get(key) for key in ours} != ours:
            where = f"{service.get('namespace')}/{service.get('name')}"
            raise ClusterError(f"APIService {VERSION}.{GROUP} belongs to {where}; a cluster can have only one")
        former = base64.b64decode(live["spec"].get("caBundle") or "")
        wanted = bundle(former, certificate, now)
        if wanted != former:
            change = {
                "metadata": {"resourceVersion": live["metadata"]["resourceVersion"]},
                "spec": {"caBundle": base64.b64encode(wanted).decode()},
            }
            await self._api.request("patch", API_SERVICE, change, content_type="application/merge-patch+json")

    async def _wanted(self, key: Key) -> int | None:
        path = f"/apis/{names.API_VERSION}/namespaces/{key.namespace}/{names.PLURAL}/{key.name}"
        try:
            found = await self._api.request("get", path)
        except Missing:
            return None
        scaling = recorded(found.get("status") or {})
        return scaling.desired_replicas if scaling is not None else None


def _context(credentials: Credentials, asks: FrontProxy) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=asks.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    # The library reads keys from files only; this one is gone before anyone could ask for it.
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "tls.crt", Path(folder) / "tls.key"
        certificate.write_bytes(credentials.certificate)
        key.touch(mode=0o600)
        key.write_bytes(credentials.key)
        context.load_cert_chain(certificate, key)
    return context
