"""What a deployment tells about itself: metrics objects, traces and log level. Never prompts or answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from flash_api.v1alpha1.base import HTTP_PATTERN, ApiModel, LabelValueOrEmpty


class MonitorMode(StrEnum):
    """Whether an object is made that tells Prometheus where to scrape."""

    AUTO = "Auto"
    OFF = "Off"


class LogLevel(StrEnum):
    """The least serious lines that are still written."""

    DEBUG = "Debug"
    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"


class Metrics(ApiModel):
    """How Prometheus finds the pods."""

    pod_monitor: MonitorMode = Field(
        default=MonitorMode.AUTO,
        description="Auto: a PodMonitor is made where the cluster knows that kind; Off: none is. Example: Auto.",
    )
    pod_monitor_labels: Annotated[dict[str, LabelValueOrEmpty], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="Labels of the PodMonitor, by which a Prometheus chooses what it scrapes. "
        "Example: {release: prometheus}.",
    )
    interval_seconds: int = Field(
        default=15, ge=1, le=3600, description="Time between two scrapes, in seconds. Example: 15."
    )


class Tracing(ApiModel):
    """Where traces of requests go."""

    otlp_endpoint: Annotated[str, StringConstraints(pattern=HTTP_PATTERN, min_length=8, max_length=512)] = Field(
        description="URL of an OpenTelemetry collector that speaks OTLP over HTTP; spans hold counts, times and codes, "
        "never text of a prompt or an answer. Example: http://collector.monitoring.svc:4318."
    )
    sampling_percent: int = Field(
        default=1,
        ge=0,
        le=100,
        description="Share of requests that are traced, in percent, where the client has not decided in its "
        "traceparent header. Example: 1.",
    )


class Observability(ApiModel):
    """What the pods tell about themselves."""

    metrics: Metrics = Field(default=Metrics(), description="How Prometheus finds the pods.")
    tracing: Tracing | None = Field(default=None, description="Where traces of requests go; unset = nowhere.")
    log_level: LogLevel = Field(
        default=LogLevel.INFO, description="Least serious lines that pods still write. Example: Warning."
    )
