"""The operator's own figures and its two pages: `/metrics` for Prometheus, `/livez` for the kubelet."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flash_operator.reconcile import Outcome


class Metrics:
    """All figures of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Counter(
            "flashplane_reconcile_passes", "Passes over a FlashDeployment.", ["result"], registry=self.registry
        )
        self.seconds = Histogram(
            "flashplane_reconcile_seconds", "Duration of one pass in seconds.", registry=self.registry
        )
        self.writes = Counter(
            "flashplane_api_writes", "Writes to the Kubernetes API.", ["verb"], registry=self.registry
        )
        self.leading = Gauge("flashplane_leading", "1 while this process holds the Lease.", registry=self.registry)
        self.objects = Gauge("flashplane_objects", "FlashDeployments that have a loop.", registry=self.registry)
        self.failing = Gauge(
            "flashplane_objects_failing", "FlashDeployments whose last pass failed.", registry=self.registry
        )
        self.watch_stale = Gauge("flashplane_watch_stale", "1 while events do not arrive.", registry=self.registry)
        self.events = Counter("flashplane_events", "Events by kind of object.", ["kind"], registry=self.registry)
        self.watch_restarts = Counter(
            "flashplane_watch_restarts", "Times that the event source was started anew.", registry=self.registry
        )
        self.list_failures = Counter(
            "flashplane_list_failures", "Lists of FlashDeployments that failed.", registry=self.registry
        )

    def finished(self, outcome: Outcome, seconds: float) -> None:
        """Count one pass that came to its end."""
        self.passes.labels(result="error" if outcome.error is not None else "ok").inc()
        self.seconds.observe(seconds)
        for verb, count in (
            ("apply", len(outcome.applied)),
            ("delete", len(outcome.deleted)),
            ("status", int(outcome.status_written)),
        ):
            if count:
                self.writes.labels(verb=verb).inc(count)

    def failed(self, seconds: float) -> None:
        """Count one pass that was cut off by an error."""
        self.passes.labels(result="error").inc()
        self.seconds.observe(seconds)


def application(metrics: Metrics, ailments: Callable[[], tuple[str, ...]]) -> web.Application:
    """The two pages. `ailments` says why the process should be restarted; empty = it is well."""

    async def livez(_: web.Request) -> web.Response:
        found = ailments()
        return web.Response(text="\n".join(found) or "ok", status=503 if found else 200)

    async def figures(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/metrics", figures)])
    return app
