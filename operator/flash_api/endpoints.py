"""What a source's URI says of the way to it: the endpoint of a bucket, one object or many, this machine or another."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

BUCKETS: Final = ("s3", "gs")
"""Schemes that name a bucket, which may be at another endpoint than the cloud's: `s3://b/k?endpoint=URL`."""
OBJECT_PATTERN: Final = r"^(s3|gs)://[^?]+[.](gguf|flash)([?].*)?$"
"""One object that is a model in itself; any other name is a folder's."""


def is_object(source: str) -> bool:
    """Whether the URI names one object of a bucket."""
    return re.match(OBJECT_PATTERN, source) is not None


def endpoint(source: str) -> str:
    """`https://minio:9000` of `s3://bucket/model?endpoint=https://minio:9000`; empty where the URI names none."""
    name, _, query = source.partition("?")
    if name.partition("://")[0] not in BUCKETS:
        return ""
    return dict(parse_qsl(query)).get("endpoint", "")


def is_plain(url: str) -> bool:
    """Whether what goes this way can be read and changed by others. What stays on this machine cannot."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_this_machine(parts.hostname or "")


def is_this_machine(host: str) -> bool:
    """Whether the host is the loopback interface, by its name or number."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
