"""Requests to the Kubernetes API. The only module that imports its client, which is heavy: import this one late.

Knows how to ask, not what to ask for: it turns requests into HTTP and HTTP errors into ClusterError.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError
from yaml import YAMLError

from flash_operator.cluster.protocol import ClusterError, Conflict, Forbidden, Manifest

REQUEST_TIMEOUT_SECONDS: Final = 30.0
_TERMINAL: Final = (400, 405, 422)
"""The request itself is wrong: sending it again cannot help."""

Called = Callable[[str, str, int, float], None]
"""Hears of a request: verb, resource, status code (0 = no answer) and seconds."""


class KubernetesApi:
    """Requests to one API server. Close it by `aclose`."""

    def __init__(
        self, client: ApiClient, kubeconfig: str | None, timeout_seconds: float, *, context: str | None, called: Called
    ) -> None:
        self._client = client
        self._dynamic = DynamicClient(client)  # type: ignore[no-untyped-call]
        self._kubeconfig = kubeconfig
        self._timeout_seconds = timeout_seconds
        self._context = context
        self._called = called

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None,
        *,
        context: str | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
        called: Called = lambda verb, resource, code, seconds: None,
    ) -> KubernetesApi:
        """By the kubeconfig file (its current context unless one is named), or inside a pod by its ServiceAccount.

        `called` hears of every request. Raises ClusterError when neither file nor account is usable.
        """
        configuration = Configuration()
        await _load(configuration, kubeconfig, context)
        return cls(ApiClient(configuration=configuration), kubeconfig, timeout_seconds, context=context, called=called)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def request(self, method: str, path: str, body: Manifest | None = None, **params: Any) -> Any:
        """The decoded answer, an object.

        Raises Conflict for 409, Forbidden for 403, Missing for 404, ClusterError for everything else.
        """
        try:
            return await self._request(method, path, body, params)
        except _Unauthorized:
            # Credentials are rotated under us: read them once more before giving up.
            await _load(self._client.configuration, self._kubeconfig, self._context)
            return await self._request(method, path, body, params)

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, *, header_seconds: float, silence_seconds: float, **params: Any
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch, bookmarks included, until the server ends it. What is cut off comes as it is.

        Raises as `request` does, and ClusterError after so much silence.
        """
        params["query_params"] = [("watch", "true"), ("allowWatchBookmarks", "true")]
        silence = aiohttp.ClientTimeout(total=None, sock_connect=header_seconds, sock_read=silence_seconds)
        try:
            async with asyncio.timeout(header_seconds):
                try:
                    response = await self._open("get", path, silence, **params)
                except _Unauthorized:
                    await _load(self._client.configuration, self._kubeconfig, self._context)
                    params["query_params"] = params["query_params"][:2]  # the client appends to it
                    response = await self._open("get", path, silence, **params)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _silence(error) from error
        try:
            yield _lines(response)
        finally:
            response.close()

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text of what is no object, such as a page that the API server fetches from a pod.

        Raises ClusterError when there is no answer.
        """
        try:
            return 200, str(await self._answer("get", path, None, {}, decode=False))
        except ClusterError as error:
            if isinstance(error.__cause__, DynamicApiError):
                body = error.__cause__.body or ""
                return int(error.__cause__.status), body.decode(errors="replace") if isinstance(body, bytes) else body
            raise

    async def _request(self, method: str, path: str, body: Manifest | None, params: Mapping[str, Any]) -> Any:
        answer = await self._answer(method, path, body, params, decode=True)
        # Whatever stands between us and the API server may answer in its place.
        if not isinstance(answer, dict) or "kind" not in answer:
            raise ClusterError("the answer is not one of the Kubernetes API: it is no object with a kind")
        return answer

    async def _answer(
        self, method: str, path: str, body: Manifest | None, params: Mapping[str, Any], *, decode: bool
    ) -> Any:
        started, code = time.perf_counter(), 0
        try:
            response = await self._open(method, path, self._timeout_seconds, body=body, **params)
            code = int(response.status)
            return await (response.json() if decode else response.text())
        except ClusterError as error:
            if isinstance(error.__cause__, DynamicApiError):
                code = int(error.__cause__.status or 0)
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _silence(error) from error
        except ValueError as error:
            raise ClusterError(f"the Kubernetes API did not answer in JSON: {error}") from error
        finally:
            self._called(*verb_and_resource(method, path), code, time.perf_counter() - started)

    async def _open(self, method: str, path: str, patience: Any, **params: Any) -> Any:
        """The answer before it is read."""
        try:
            return await self._dynamic.request(method, path, serialize=False, _request_timeout=patience, **params)
        except DynamicApiError as error:
            raise _failure(error) from error


async def _lines(response: Any) -> AsyncIterator[bytes]:
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _silence(error) from error
    if rest.strip():
        yield rest


def context_namespace(kubeconfig: str, context: str | None) -> str:
    """The namespace that a context (None = the current one) names, else `default`. Raises ClusterError."""
    try:
        contexts, current = config.list_kube_config_contexts(config_file=kubeconfig)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        raise ClusterError(f"kubeconfig {kubeconfig}: {error}", retryable=False) from error
    if context is not None:
        current = next((each for each in contexts if each["name"] == context), None)
        if current is None:
            there = ", ".join(sorted(each["name"] for each in contexts))
            raise ClusterError(f"kubeconfig {kubeconfig} has no context {context}; there is: {there}", retryable=False)
    return str((current or {}).get("context", {}).get("namespace") or "default")


async def _load(configuration: Configuration, kubeconfig: str | None, context: str | None) -> None:
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, context=context, client_configuration=configuration
            )
    # A kubeconfig may be half-written when it is read.
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        where = "no cluster around this process" if kubeconfig is None else f"kubeconfig {kubeconfig}"
        raise ClusterError(f"{where}: {error}", retryable=False) from error


def verb_and_resource(method: str, path: str) -> tuple[str, str]:
    """What a request asks for, in the API's own words, without names: `list`, `pods`."""
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    resource = "/".join((rest[0], *rest[2:3])) if rest else "discovery"
    if method == "get":
        return ("get" if len(rest) > 1 or not rest else "list"), resource
    return {"post": "create", "put": "update"}.get(method, method), resource


class Missing(ClusterError):
    """There is no such object."""


class _Unauthorized(ClusterError):
    """The API server does not know us (any more)."""


def _silence(error: Exception) -> ClusterError:
    return ClusterError(f"the Kubernetes API did not answer: {error or type(error).__name__}")


def _failure(error: DynamicApiError) -> ClusterError:
    message = f"the Kubernetes API answered {error.status}: {_message(error)}"
    if error.status == 401:
        return _Unauthorized(message)
    if error.status == 403:
        return Forbidden(message)
    if error.status == 404:
        return Missing(message)
    if error.status == 409:
        return Conflict(message)
    return ClusterError(message, retryable=error.status not in _TERMINAL)


def _message(error: DynamicApiError) -> str:
    try:
        return str(error.summary())  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, AttributeError):
        return str(error.reason)
