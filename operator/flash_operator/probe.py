"""The last step before `Ready=True`: a request through the endpoint, as a client would send it."""

from __future__ import annotations

from typing import Protocol

import aiohttp

from flash_api import draft_report
from flash_operator.latency import HEADER, told
from flash_operator.observation import ProbeResult

BODY_MAX = 300


class Probe(Protocol):
    """Asks a URL once. Never raises: an endpoint that does not answer is a finding, not a failure."""

    async def __call__(self, url: str) -> ProbeResult: ...


class HttpProbe:
    """GET over HTTP with a deadline. Holds one connection pool: close it by `aclose`."""

    def __init__(self, *, timeout_seconds: float = 10.0) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> ProbeResult:
        if self._session is None:
            # No connection is kept: the next probe must reach the gateway pods of then, as a new client would.
            # No certificate is checked: it is for the name that clients use, and nothing secret is sent or believed.
            connector = aiohttp.TCPConnector(force_close=True, ssl=False)
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
