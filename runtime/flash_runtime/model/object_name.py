"""What `s3://` and `gs://` URIs name: a bucket, one object or a folder of them, and the endpoint that has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from flash_api.endpoints import is_plain
from flash_runtime.model.errors import RequestError

FILE_ENDINGS: Final = (".gguf", ".flash")
"""An object so named is a model in itself; any other name is a folder's."""
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_PART: Final = re.compile(r"[^\x00-\x20\\#]+")
_OPTIONS: Final = {"s3": ("endpoint", "region"), "gs": ("endpoint",)}


@dataclass(frozen=True)
class ObjectName:
    """A URI, taken apart."""

    scheme: str
    bucket: str
    key: str
    """Of the object, or of the folder without a slash at its end; empty = the whole bucket."""
    endpoint: str | None = None
    region: str | None = None

    @property
    def is_file(self) -> bool:
        return self.key.endswith(FILE_ENDINGS)

    @property
    def shown(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")


def parse_object_name(uri: str) -> ObjectName:
    """Raises RequestError for anything but `SCHEME://BUCKET/KEY?endpoint=URL&region=NAME`."""
    scheme, _, rest = uri.partition("://")
    path, _, query = rest.partition("?")
    bucket, _, key = path.partition("/")
    parts = key.rstrip("/").split("/") if key.rstrip("/") else []
    if not _BUCKET.fullmatch(bucket) or not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
        raise RequestError(
            f"source {uri}: must be {scheme}://BUCKET/FOLDER or {scheme}://BUCKET/PATH/FILE.gguf, without empty parts "
            "and without .."
        )
    options: dict[str, str] = {}
    for option, value in parse_qsl(query, keep_blank_values=True):
        if option not in _OPTIONS[scheme] or not value or option in options:
            raise RequestError(f"source {uri}: knows {' and '.join(_OPTIONS[scheme])} after the ?, once each")
        options[option] = value
    return ObjectName(scheme, bucket, "/".join(parts), options.get("endpoint"), options.get("region"))


def check_endpoint(endpoint: str, *, name: ObjectName, sha256: str | None, sends_token: bool) -> None:
    """Raises RequestError for an endpoint that is none, or that protects nothing on the way.

    What is on this machine needs no protection.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
        raise RequestError(f"source {name.shown}: endpoint {endpoint} must be a URL such as https://minio.example:9000")
    if not is_plain(endpoint):
        return
    if sha256 is None or not name.is_file:
        raise RequestError(
            f"source {name.shown}: endpoint {endpoint} protects nothing on the way; use https://, or name one file and "
            "write its model.sha256"
        )
    if sends_token:
        raise RequestError(f"source {name.shown}: a token is never sent over http://; use an https:// endpoint")
