"""The pages of the external metrics API. Knows neither certificates nor where the numbers come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from flash_api import names
from flash_operator.cluster.protocol import ClusterError, Key

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
_ROOT: Final = f"/apis/{GROUP}/{VERSION}"
_SELECTOR: Final = f"{names.LABEL_DEPLOYMENT}="

Wanted = Callable[[Key], Awaitable[int | None]]
"""Engine pods that autoscaling wants for a FlashDeployment; None = it has decided nothing. Raises ClusterError."""


def application(wanted: Wanted, allowed: Collection[str], now: Callable[[], datetime]) -> web.Application:
    """`allowed` are the common names that the API server's certificate may have; none = any of its authority."""

    @web.middleware
    async def only_the_api_server(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        if allowed and _common_name(request) not in allowed:
            return _failure(403, "only the API server may ask")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def resources(_: web.Request) -> web.Response:
        resource = {
            "name": names.METRIC_DESIRED_ENGINES,
            "singularName": "",
            "namespaced": True,
            "kind": "ExternalMetricValueList",
            "verbs": ["get"],
        }
        group = f"{GROUP}/{VERSION}"
        return web.json_response(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": [resource]}
        )

    async def values(request: web.Request) -> web.Response:
        metric, selector = request.match_info["metric"], request.query.get("labelSelector", "")
        if metric != names.METRIC_DESIRED_ENGINES:
            return _failure(404, f"there is no metric {metric}; there is {names.METRIC_DESIRED_ENGINES}")
        name = selector.removeprefix(_SELECTOR)
        if not selector.startswith(_SELECTOR) or not _is_name(name):
            return _failure(400, f"labelSelector ({selector}) must be {_SELECTOR}NAME")
        key = Key(request.match_info["namespace"], name)
        try:
            number = await wanted(key)
        except ClusterError as error:
            return _failure(503, str(error))
        if number is None:
            return _failure(404, f"{names.KIND} {name} has no number of engine pods from autoscaling")
        item = {
            "metricName": metric,
            "metricLabels": {names.LABEL_DEPLOYMENT: name},
            "timestamp": now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": str(number),
        }
        found = {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": [item]}
        return web.json_response(found)

    app = web.Application(middlewares=[only_the_api_server])
    app.add_routes([web.get(_ROOT, resources), web.get(f"{_ROOT}/namespaces/{{namespace}}/{{metric}}", values)])
    return app


def _common_name(request: web.Request) -> str:
    shown = request.get_extra_info("peercert") or {}
    parts = [part for relative in shown.get("subject", ()) for part in relative]
    return next((str(value) for key, value in parts if key == "commonName"), "")


def _is_name(text: str) -> bool:
    """Of an object, so that it makes one segment of a path."""
    return bool(text) and text.replace("-", "").replace(".", "").isalnum() and text.isascii()


def _failure(code: int, message: str) -> web.Response:
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return web.json_response(said, status=code)
