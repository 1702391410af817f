"""How the operator logs: one JSON object or one line of text per record. Knows nothing of what is logged."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

EXTRA: Final = "facts"
"""A record's attribute with a mapping of what a program may want to search for: `log.info(…, extra={"facts": {…}})`."""
CHATTY: Final = ("kopf", "kubernetes", "aiohttp", "asyncio")


class LogFormat(StrEnum):
    """How log records are written."""

    JSON = "json"
    TEXT = "text"


class JsonFormatter(logging.Formatter):
    """One object on one line: time, level, logger, message, the record's facts and, of a failure, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        facts = getattr(record, EXTRA, None)
        if isinstance(facts, dict):
            line |= {key: value for key, value in facts.items() if key not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(form: LogFormat, *, verbose: bool, stream: TextIO) -> None:
    """Set up the process's logging."""
    handler = logging.StreamHandler(stream)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else text)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
