"""Reads the metrics pages of all engines when somebody asks what proposals are worth. Nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from flash_api.draft_report import HEADER, DraftReport
from flash_runtime.gateway.discovery import Discovery
from flash_runtime.gateway.draft_worth import DraftWorth, read_page

REFRESH_SECONDS: Final = 10.0
"""The operator asks every 15 s."""


class Fetch(Protocol):
    """Reads pages."""

    async def __call__(self, url: str) -> str | None:
        """The text behind a URL; None = it did not answer, or not with a page. Never raises."""

    async def aclose(self) -> None:
        """Close the connections."""


class DraftWatch:
    """Keeps a DraftWorth young while somebody asks for it."""

    def __init__(self, discovery: Discovery, fetch: Fetch, *, clock: Callable[[], float]) -> None:
        self._discovery = discovery
        self._fetch = fetch
        self._clock = clock
        self._worth = DraftWorth()
        self._looked_at = -REFRESH_SECONDS
        self._running: asyncio.Task[None] | None = None

    def headers(self) -> dict[str, str]:
        """What the last look found, for the answer of `/readyz`; begins the next look where that is old."""
        if self._running is None and self._clock() - self._looked_at >= REFRESH_SECONDS:
            self._running = asyncio.create_task(self.look())
        report = self._worth.report()
        return {} if report is None or report == DraftReport() else {HEADER.lower(): report.encode()}

    async def settled(self) -> None:
        """Wait for the look that is under way, if one is."""
        if self._running is not None:
            await asyncio.shield(self._running)

    async def look(self) -> None:
        """Ask every engine once."""
        try:
            addresses = await self._discovery.addresses()
            texts = await asyncio.gather(*(self._fetch(f"http://{address}/metrics") for address in addresses))
            found = {address: text for address, text in zip(addresses, texts, strict=True) if text is not None}
            pages = await asyncio.to_thread(lambda: {address: read_page(text) for address, text in found.items()})
            self._worth.take({address: page for address, page in pages.items() if page is not None}, self._clock())
        finally:
            self._looked_at, self._running = self._clock(), None

    async def aclose(self) -> None:
        """Stop looking."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        await self._fetch.aclose()
