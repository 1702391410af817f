"""What the gateway counts. Labels hold the served model, the route, the status and the side of a
rollout only: no client can add a series."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flash_runtime.gateway.tracks import Result, Track

# fmt: off
TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5,
    0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)
"""The bounds that OpenTelemetry's GenAI conventions give for gen_ai.server.time_to_first_token, and more between and
above them: autoscaling compares a percentile with a target, and sees no better than the bucket around it."""
TPOT_BUCKETS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15,
    0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0,
)
"""gen_ai.server.time_per_output_token, with more bounds below its first, between and above."""
# fmt: on


class Metrics:
    """All series of one gateway, in a registry of their own."""

    def __init__(self, model: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "flashplane_gateway_requests", "Requests answered.", ("route", "code"), registry=registry
        )
        labels, values = ("model",), (model,)
        self.time_to_first_token = Histogram(
            "flashplane_gateway_time_to_first_token_seconds",
            "From the request's arrival to its first token, in seconds.",
            labels,
            buckets=TTFT_BUCKETS,
            registry=registry,
        ).labels(*values)
        self.time_per_output_token = Histogram(
            "flashplane_gateway_time_per_output_token_seconds",
            "Mean time between tokens after the first, per answer, in seconds.",
            labels,
            buckets=TPOT_BUCKETS,
            registry=registry,
        ).labels(*values)
        self.inflight = Gauge(
            "flashplane_gateway_inflight_requests", "Requests being worked on.", labels, registry=registry
        ).labels(*values)
        self.prompt_tokens = Counter(
            "flashplane_gateway_prompt_tokens", "Prompt tokens of answered requests.", labels, registry=registry
        ).labels(*values)
        self.completion_tokens = Counter(
            "flashplane_gateway_completion_tokens", "Tokens generated for clients.", labels, registry=registry
        ).labels(*values)

        # By side of a rollout, for the operator to compare. Nothing is in them before something is counted.
        self._model = model
        self._streams = Counter(
            "flashplane_gateway_track_streams",
            "Streams of engines that ended, by the revision that they were given to.",
            ("model", "track", "result"),
            registry=registry,
        )
        self._track_ttft = Histogram(
            "flashplane_gateway_track_time_to_first_token_seconds",
            "The same as flashplane_gateway_time_to_first_token_seconds, by revision.",
            ("model", "track"),
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self._track_tpot = Histogram(
            "flashplane_gateway_track_time_per_output_token_seconds",
            "The same as flashplane_gateway_time_per_output_token_seconds, by revision.",
            ("model", "track"),
            buckets=TPOT_BUCKETS,
            registry=registry,
        )

    def observe_first_token(self, seconds: float, *, track: Track) -> None:
        """A request got its first token."""
        self.time_to_first_token.observe(seconds)
        self._track_ttft.labels(self._model, track).observe(seconds)

    def observe_output_token(self, seconds: float, *, track: Track) -> None:
        """An answer is over whose further tokens took so long in the mean."""
        self.time_per_output_token.observe(seconds)
        self._track_tpot.labels(self._model, track).observe(seconds)

    def count_stream(self, track: Track, result: Result) -> None:
        """A stream of an engine has ended."""
        self._streams.labels(self._model, track, result).inc()

    def count_request(self, *, route: str, code: int) -> None:
        """One request was answered."""
        self._requests.labels(route, str(code)).inc()

    def watch_certificate(self, expires_at: Callable[[], float]) -> None:
        """Show when the certificate ends that clients see, in Unix time."""
        Gauge(
            "flashplane_gateway_certificate_expiry_timestamp_seconds",
            "When the certificate ends that clients see, in Unix time.",
            ("model",),
            registry=self._registry,
        ).labels(self._model).set_function(expires_at)

    def render(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self._registry)
