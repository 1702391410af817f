"""The Kubernetes API as tests use it: requests with their raw answer, and watches that start with a list.

Knows no kind by heart: plurals come from discovery. The operator has a client of its own; tests do not share its code,
so that a mistake there is seen here.
"""

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
FIRST_LIST_SECONDS = 60.0
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return self.status < 300

    def require(self) -> Any:
        assert self.ok, f"{self.status}: {self.body}"
        return self.body


class LiveApi:
    """One API server, as the user of a kubeconfig. An async context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._url = cluster["server"]
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        self._headers = {}
        if "token" in user:
            self._headers["Authorization"] = f"Bearer {user['token']}"
        else:
            _load_client_certificate(self._tls, user)
        self._plurals: dict[str, dict[str, str]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=64)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()
        await asyncio.sleep(0)  # aborted connections are closed in the next turn of the loop

    async def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **params: str
    ) -> Answer:
        assert self._session is not None
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        async with self._session.request(method, self._url + path, data=data, headers=headers, params=params) as answer:
            return Answer(answer.status, json.loads(await answer.text()))

    async def path(self, api_version: str, kind: str, namespace: str, name: str | None = None) -> str:
        """The URL path of an object or of a namespace's collection."""
        root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        if api_version not in self._plurals:
            found = (await self.request("GET", root)).require()["resources"]
            self._plurals[api_version] = {r["kind"]: r["name"] for r in found if "/" not in r["name"]}
        collection = f"{root}/namespaces/{namespace}/{self._plurals[api_version][kind]}"
        return collection if name is None else f"{collection}/{name}"

    async def _listed(self, collection: str, chosen: dict[str, str]) -> Any:
        """A list. The storage of a kind that is new to the server, or of a server that is, may need a moment."""
        async with asyncio.timeout(FIRST_LIST_SECONDS):
            while not (answer := await self.request("GET", collection, **chosen)).ok:
                assert answer.status in (404, 429, 503), answer
                await asyncio.sleep(POLL_SECONDS)
        return answer.body

    async def events(self, api_version: str, kind: str, namespace: str, selector: str) -> AsyncIterator[dict[str, Any]]:
        """The objects that are there as ADDED, then every change, for ever. Lists carry no kind: it is put in."""
        assert self._session is not None
        collection = await self.path(api_version, kind, namespace)
        chosen = {"labelSelector": selector} if selector else {}
        listed = await self._listed(collection, chosen)
        for item in listed["items"]:
            yield {"type": "ADDED", "object": {"apiVersion": api_version, "kind": kind, **item}}
        version = listed["metadata"]["resourceVersion"]
        while True:
            params = {**chosen, "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
            endless = aiohttp.ClientTimeout(total=None)
            async with self._session.get(self._url + collection, params=params, timeout=endless) as stream:
                try:
                    async for line in stream.content:
                        event = json.loads(line)
                        assert event["type"] != "ERROR", event
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            yield event
                finally:
                    # A polite end of TLS takes longer than the loop of a test may live.
                    if stream.connection is not None and stream.connection.transport is not None:
                        stream.connection.transport.abort()


def _load_client_certificate(tls: ssl.SSLContext, user: Mapping[str, str]) -> None:
    # The ssl module reads certificates from files only.
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("client.crt", "client.key")]
        for path, field in zip(paths, ("client-certificate-data", "client-key-data"), strict=True):
            path.touch(mode=0o600)
            path.write_bytes(base64.b64decode(user[field]))
        tls.load_cert_chain(*paths)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end. Raises what one of them had failed with before."""
    failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for error in failed:
        if error is not None:
            raise error
