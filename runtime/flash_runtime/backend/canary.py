"""Is the engine alive? One token through the real route, within a deadline: the liveness probe's command.

An engine with much to do may not come to the token in time; its sign of life, or its word that it is full, is as good.

tritonserver's own health endpoints stay green after the model process has died. Standard library only, and little
of it: this starts anew for every probe.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Final

# Not `names.TRITON_MODEL` and `wire.*`: importing pydantic would cost more than the whole probe. A test compares them.
PATH: Final = "/v2/models/engine/generate_stream"
# One token fills no cache block, so a probe leaves no trace there.
BODY: Final = {"input_ids": [0], "request": '{"max_tokens":1,"ignore_eos":true}'}
DEADLINE_SECONDS: Final = 12.0
"""Two steps of a slow machine deep in long prompts; less than the liveness probe's own time limit of 15 s."""
SIGN: Final = b'"output_ids"'
"""In every response that the engine's thread sends, and in no error."""
DRAFT_PATH: Final = "/v2/models/draft/generate_stream"
DRAFT_BODY: Final = {"news": [0]}
DRAFT_SIGN: Final = b'"guesses"'
"""A draft has no tokens to give without an engine; that it answers the message of nobody is its sign of life."""


class NotAlive(Exception):
    """The engine gave no sign of life in time."""


def probe(host: str, port: int, deadline_seconds: float, *, is_draft: bool = False) -> None:
    """Return when the engine's thread, or the draft's, has answered. Raises NotAlive with the reason."""
    end = time.monotonic() + deadline_seconds
    path, content, sign = (DRAFT_PATH, DRAFT_BODY, DRAFT_SIGN) if is_draft else (PATH, BODY, SIGN)
    body = json.dumps(content).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=deadline_seconds) as connection:
            connection.sendall(head.encode() + body)
            while True:
                connection.settimeout(max(0.001, end - time.monotonic()))
                received = connection.recv(65536)
                answer += received
                if not received or sign in answer:
                    break
    except TimeoutError as error:
        raise NotAlive(f"no {'answer' if is_draft else 'token'} within {deadline_seconds:g} s") from error
    except OSError as error:
        raise NotAlive(f"{host}:{port}: {error.strerror or error}") from error
    status, _, rest = answer.partition(b"\r\n")
    if b" 200 " not in status or sign not in rest:
        last_line = answer.decode(errors="replace").strip().rpartition("\n")[2]
        raise NotAlive(f"{status.decode(errors='replace') or 'an empty answer'}: {last_line[:200]}")


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when alive; otherwise 1 and the reason in one line."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m flash_runtime.backend.canary", description="Check that an engine produces a token in time."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of the engine (default: %(default)s)")
    parser.add_argument("--http-port", type=int, default=8000, help="its HTTP port (default: %(default)s)")
    parser.add_argument("--draft", action="store_true", help="it is a draft, not an engine")
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE_SECONDS, help="seconds for the whole probe (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        probe(options.host, options.http_port, options.deadline, is_draft=options.draft)
    except NotAlive as reason:
        print(f"the {'draft' if options.draft else 'engine'} is not alive: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
