"""One gateway's metrics page, read over HTTP. Knows which series autoscaling needs, and decides nothing."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, Protocol

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from flash_operator.plan.autoscale_load import GatewayReading, Histogram, TrackReading

INFLIGHT: Final = "flashplane_gateway_inflight_requests"
TTFT: Final = "flashplane_gateway_time_to_first_token_seconds"
TPOT: Final = "flashplane_gateway_time_per_output_token_seconds"
REQUESTS: Final = "flashplane_gateway_requests_total"
TRACK_STREAMS: Final = "flashplane_gateway_track_streams_total"
TRACK_TTFT: Final = "flashplane_gateway_track_time_to_first_token_seconds"
TRACK_TPOT: Final = "flashplane_gateway_track_time_per_output_token_seconds"
WORK_SUFFIX: Final = "/completions"
"""Of the routes on which tokens are made."""
REFUSED: Final = ("400", "401", "403", "404", "405", "413", "415", "422", "429")
"""Codes of requests that never had a place."""
PAGE_MAX_BYTES: Final = 1024**2
"""The page of a gateway is a few KiB; what is larger is not one."""


class Scrape(Protocol):
    """Reads the metrics of one gateway. Never raises: None = it did not answer, or not with its metrics."""

    async def __call__(self, url: str) -> GatewayReading | None: ...


class HttpScrape:
    """GET over HTTP with a deadline. Holds one connection pool: close it by `aclose`."""

    def __init__(self, *, timeout_seconds: float = 5.0) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> GatewayReading | None:
        if self._session is None:
            # A pod's certificate is for the name that clients use, not for the pod's address, so it is not checked.
            connector = aiohttp.TCPConnector(force_close=True, ssl=False)
            self._session = aiohttp.ClientSession(timeout=self._timeout, connector=connector, trust_env=False)
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                page = await response.content.read(PAGE_MAX_BYTES + 1)
                while len(page) <= PAGE_MAX_BYTES and (more := await response.content.read(PAGE_MAX_BYTES)):
                    page += more
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return reading(page.decode(errors="replace")) if len(page) <= PAGE_MAX_BYTES else None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def scrape_all(scrape: Scrape, urls: tuple[str, ...]) -> dict[str, GatewayReading]:
    """The readings of those that answered, by URL."""
    answers = await asyncio.gather(*(scrape(url) for url in urls))
    return {url: answer for url, answer in zip(urls, answers, strict=True) if answer is not None}


def reading(page: str) -> GatewayReading | None:
    """The figures of a page in Prometheus' text format; None when it is not one of a gateway."""
    inflight: float | None = None
    finished = 0.0
    buckets: dict[str, dict[float, float]] = {TTFT: defaultdict(float), TPOT: defaultdict(float)}
    tracks = {"stable": _Track(), "canary": _Track()}
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if not math.isfinite(sample.value):
                    return None
                if sample.name == INFLIGHT:
                    inflight = (inflight or 0.0) + sample.value
                elif sample.name == REQUESTS:
                    if sample.labels["route"].endswith(WORK_SUFFIX) and sample.labels["code"] not in REFUSED:
                        finished += sample.value
                elif sample.name == TRACK_STREAMS:
                    tracks[sample.labels["track"]].streams[sample.labels["result"]] += sample.value
                elif sample.name.endswith("_bucket") and family.name in (TRACK_TTFT, TRACK_TPOT):
                    found = tracks[sample.labels["track"]]
                    histogram = found.ttft if family.name == TRACK_TTFT else found.tpot
                    histogram[float(sample.labels["le"])] += sample.value
                elif sample.name.endswith("_bucket") and family.name in buckets:
                    buckets[family.name][float(sample.labels["le"])] += sample.value
    except (ValueError, KeyError):
        return None
    if inflight is None:
        return None
    return GatewayReading(
        inflight,
        finished,
        _histogram(buckets[TTFT]),
        _histogram(buckets[TPOT]),
        tracks["stable"].reading(),
        tracks["canary"].reading(),
    )


@dataclass
class _Track:
    streams: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ttft: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))
    tpot: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))

    def reading(self) -> TrackReading:
        failed = self.streams["failed"] + self.streams["refused"]
        return TrackReading(self.streams["answered"], failed, _histogram(self.ttft), _histogram(self.tpot))


def _histogram(buckets: dict[float, float]) -> Histogram:
    bounds = tuple(sorted(buckets))
    return Histogram(bounds, tuple(buckets[bound] for bound in bounds))
