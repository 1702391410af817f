"""The operator's own figures and its two pages: `/metrics` for Prometheus, `/livez` for the kubelet."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flash_operator.cluster.protocol import Key
from flash_operator.reconcile import Outcome

PASS_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WAIT_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CALL_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Fact = tuple[str, str]
"""Type and status of a condition."""


class Metrics:
    """All figures of one process, in a registry of their own. docs/metrics.md lists them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Counter(
            "flashplane_reconcile_passes",
            "Passes over a FlashDeployment or FlashModel.",
            ["result"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "flashplane_reconcile_seconds",
            "Duration of one pass in seconds.",
            registry=self.registry,
            buckets=PASS_BUCKETS,
        )
        self.queue_depth = Gauge(
            "flashplane_queue_depth", "FlashDeployments that wait for a pass now.", registry=self.registry
        )
        self.queue_seconds = Histogram(
            "flashplane_queue_seconds",
            "From the first reason to look at a FlashDeployment to the begin of its pass, in seconds.",
            registry=self.registry,
            buckets=WAIT_BUCKETS,
        )
        self.calls = Counter(
            "flashplane_api_calls",
            "Requests to the Kubernetes API; code 0 = no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "flashplane_api_call_seconds",
            "Duration of a request to the Kubernetes API in seconds.",
            ["verb"],
            registry=self.registry,
            buckets=CALL_BUCKETS,
        )
        self.writes = Counter(
            "flashplane_api_writes", "Writes to the Kubernetes API.", ["verb"], registry=self.registry
        )
        self.leading = Gauge("flashplane_leading", "1 while this process holds the Lease.", registry=self.registry)
        self.objects = Gauge("flashplane_objects", "FlashDeployments that have a loop.", registry=self.registry)
        self.by_condition = Gauge(
            "flashplane_objects_by_condition",
            "FlashDeployments by type and status of a condition.",
            ["condition", "status"],
            registry=self.registry,
        )
        self.failing = Gauge(
            "flashplane_objects_failing", "FlashDeployments whose last pass failed.", registry=self.registry
        )
        self.watch_stale = Gauge("flashplane_watch_stale", "1 while events do not arrive.", registry=self.registry)
        self.events = Counter("flashplane_events", "Events by kind of object.", ["kind"], registry=self.registry)
        self.last_event = Gauge(
            "flashplane_last_event_timestamp_seconds",
            "When the last event of a kind arrived, in Unix time.",
            ["kind"],
            registry=self.registry,
        )
        self.watch_restarts = Counter(
            "flashplane_watch_restarts", "Times that a watch failed and was begun anew.", registry=self.registry
        )
        self.list_failures = Counter(
            "flashplane_list_failures", "Lists of FlashDeployments that failed.", registry=self.registry
        )
        self._facts: dict[Key, frozenset[Fact]] = {}
        self._tally: Tally[Fact] = Tally()

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

    def called(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Count one request to the API."""
        self.calls.labels(verb=verb, resource=resource, code=str(code)).inc()
        self.call_seconds.labels(verb=verb).observe(seconds)

    def heard(self, kind: str, now: float) -> None:
        """Count one event. `now` is Unix time."""
        self.events.labels(kind=kind).inc()
        self.last_event.labels(kind=kind).set(now)

    def waited(self, seconds: float) -> None:
        """A pass begins after it has been wanted for so long."""
        self.queue_seconds.observe(seconds)

    def is_now(self, key: Key, outcome: Outcome) -> None:
        """The conditions of one object as of its last pass; nothing is kept of one that is gone."""
        before = self._facts.pop(key, frozenset())
        now = frozenset((str(c["type"]), str(c["status"])) for c in outcome.status.get("conditions") or ())
        if now:
            self._facts[key] = now
        self._tally.subtract(before)
        self._tally.update(now)
        for condition, status in before ^ now:
            self.by_condition.labels(condition=condition, status=status).set(self._tally[condition, status])

    def forget(self) -> None:
        """Nobody leads here any more: what objects are like is for someone else to say."""
        self._facts.clear()
        self._tally.clear()
        self.by_condition.clear()


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
