"""One metrics page over plain HTTP. Imported late: most gateways ask nobody for one."""

from __future__ import annotations

from typing import Final

import httpx2

DEADLINE_SECONDS: Final = 5.0
PAGE_MAX_BYTES: Final = 8 * 1024**2
"""Of a mixture of many experts each has its series; what is larger is no page of an engine."""


class HttpFetch:
    """GET with a deadline. Close it by `aclose`."""

    def __init__(self) -> None:
        self._client = httpx2.AsyncClient(timeout=DEADLINE_SECONDS, trust_env=False)

    async def __call__(self, url: str) -> str | None:
        """The text behind a URL; None = it did not answer, or not with a page."""
        try:
            async with self._client.stream("GET", url) as response:
                if response.status_code != httpx2.codes.OK:
                    return None
                page = b""
                async for part in response.aiter_bytes():
                    page += part
                    if len(page) > PAGE_MAX_BYTES:
                        return None
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return None
        return page.decode(errors="replace")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
