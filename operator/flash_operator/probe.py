"""The last step before `Ready=True`: a request through the endpoint, as a client would send it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import aiohttp

from flash_api import draft_report
from flash_operator.latency import HEADER, told
from flash_operator.observation import ProbeResult

BODY_MAX = 300
TIMEOUT_SECONDS: Final = 10.0
CONNECTIONS_MAX: Final = 500
"""Endpoints asked at the same time; those beyond wait, and that counts against their deadline. A few hundred that hang
must not make others seem dead; more than the usual 1,024 open files would."""
PATIENCE_SECONDS: Final = 2.0
"""An answer that took longer to fail is not asked for twice."""


class Probe(Protocol):
    """Asks a URL once. Never raises: an endpoint that does not answer is a finding, not a failure."""

    async def __call__(self, url: str) -> ProbeResult: ...


class HttpProbe:
    """GET over HTTP with a deadline. Holds one connection pool: close it by `aclose`."""

    def __init__(self, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> ProbeResult:
        if self._session is None:
            # No connection is kept: the next probe must reach the gateway pods of then, as a new client would.
            # No certificate is checked: it is for the name that clients use, and nothing secret is sent or believed.
            connector = aiohttp.TCPConnector(force_close=True, ssl=False, limit=CONNECTIONS_MAX)
            self._session = aiohttp.ClientSession(timeout=self._timeout, connector=connector, trust_env=False)
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status == 200:
                    lately = told(response.headers.get(HEADER, ""))
                    worth = draft_report.told(response.headers.get(draft_report.HEADER, ""))
                    return ProbeResult(ok=True, message="", milliseconds=lately, draft=worth)
                body = (await response.content.read(BODY_MAX)).decode(errors="replace").strip()
                return ProbeResult(ok=False, message=f"GET {url} answered {response.status}: {body}")
        except TimeoutError:
            return ProbeResult(ok=False, message=f"GET {url} did not answer within {self._timeout.total} s")
        except (aiohttp.ClientError, OSError) as error:
            return ProbeResult(ok=False, message=f"GET {url} failed: {error}")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class PatientProbe:
    """Two ways to ask the same: by a look, and by the pass that follows when the look found something. A failure that
    came at once is asked about again, since it may have been an accident; one that took its time is believed."""

    def __init__(self, probe: Probe, clock: Callable[[], float]) -> None:
        self._probe = probe
        self._clock = clock
        self._waited_for: dict[str, tuple[float, ProbeResult]] = {}

    async def look(self, url: str) -> ProbeResult:
        """Ask, and remember what was waited for in vain."""
        began = self._clock()
        answer = await self._probe(url)
        if not answer.ok and self._clock() - began > PATIENCE_SECONDS:
            self._waited_for[url] = (self._clock(), answer)
        return answer

    async def __call__(self, url: str) -> ProbeResult:
        """Ask, unless a look has just done so and was kept waiting."""
        at, answer = self._waited_for.pop(url, (0.0, None))
        if answer is not None and self._clock() - at <= PATIENCE_SECONDS:
            return answer
        return await self._probe(url)
