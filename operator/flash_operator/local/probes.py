"""Asking a container how it is: one question, one answer. Knows no schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from flash_operator.local.podspec import Probe
from flash_operator.local.processes import FIRST_PASSED_FD, Process, accepts_on


async def ask(probe: Probe, *, pid: int, env: Mapping[str, str], log: Path) -> str | None:
    """None when all is well with the process `pid`, else what is wrong, in a few words."""
    if probe.shared and not accepts_on(pid, FIRST_PASSED_FD):
        # Another pod would answer for it on the socket that they share.
        return "it does not listen yet"
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            if probe.http is not None:
                return await _ask_http(probe.http)
            return await _ask_command(probe.command or (), env, log)
    except TimeoutError:
        return f"no answer within {probe.timeout_seconds:g} s"
    except ConnectionRefusedError:
        return "it does not listen yet"
    except OSError as error:
        return error.strerror or str(error)


async def _ask_http(url: str) -> str | None:
    """As the kubelet judges: 200 to 399 is well."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        status = (await reader.readline()).split()
        if len(status) < 2 or not status[1].isdigit():
            return f"{parts.path} did not answer in HTTP"
        code = int(status[1])
        return None if 200 <= code < 400 else f"{parts.path} answered {code}"
    finally:
        writer.close()


async def _ask_command(command: tuple[str, ...], env: Mapping[str, str], log: Path) -> str | None:
    process = Process.start(command, env=env, log=log.with_suffix(".probe.log"))
    try:
        code = await process.wait()
    finally:
        process.kill()
    return None if code == 0 else f"{' '.join(command[:3])} exited {code}"
