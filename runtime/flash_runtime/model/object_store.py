"""A bucket at S3, Google Cloud Storage or a server that speaks like them. The one user of obstore.

Lists, looks one object up and reads ranges of it; knows no models, no cache and no files. A try that another one may
mend ends in `Broken`; everything else in a sentence for the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.errors import CheckpointError, DownloadError, ModelError, RequestError
from flash_runtime.model.object_access import Access
from flash_runtime.model.object_name import ObjectName
from flash_runtime.model.transfer import Broken, Changed, TokenRefused

INSTALL: Final = "pip install 'flashplane[stores]'"
_CONNECT: Final = timedelta(seconds=10)
_SILENCE: Final = timedelta(seconds=60)
_REQUEST: Final = timedelta(minutes=10)
_RETRY: Final[Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}
"""For what ends in a second; longer troubles are the caller's, who tells the user."""
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_REGION: Final = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_NO_LOCATION: Final = "redirect without LOCATION"
_EXPIRED: Final = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed")
_STRANGERS: Final = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "XAdminUserNotFound")


@dataclass(frozen=True)
class StoredObject:
    """One object, in one version of it."""

    key: str
    nbytes: int
    etag: str
    version: str | None = None


class Store(Protocol):
    """One bucket."""

    def list(self, folder: str, *, limit: int) -> list[StoredObject]:
        """Up to `limit` objects below the folder, at any depth. Raises Broken and ModelError."""

    def look(self, key: str, *, version: str | None) -> StoredObject:
        """The object as it is now, or in a version of it. Raises Broken and ModelError."""

    def read(self, found: StoredObject, first: int, end: int) -> bytes:
        """The bytes from `first` to before `end`. Raises Changed, Broken and ModelError."""

    def signed(self, key: str) -> str | None:
        """An address that answers a HEAD for some minutes; None where nothing can be signed with."""


def open_store(name: ObjectName, access: Access) -> Store:
    """Nothing is asked yet. Raises RequestError where the library is not installed or the settings make no sense."""
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore, S3Store
    except ImportError as error:
        raise RequestError(
            f"source {name.shown}: {name.scheme}:// needs the package obstore, which is not installed; run {INSTALL}"
        ) from error
    endpoint = name.endpoint or access.endpoint
    options: Any = {
        "allow_http": bool(endpoint) and str(endpoint).startswith("http://"),
        "connect_timeout": _CONNECT,
        "read_timeout": _SILENCE,
        "timeout": _REQUEST,
        "user_agent": "flashplane",
    }
    config: Any = {"skip_signature": True} if access.is_anonymous else {}
    try:
        if name.scheme == "gs":
            config |= dict(access.google) | ({"base_url": endpoint} if endpoint else {})
            return _Bucket(
                obstore, GCSStore(name.bucket, config=config, client_options=options, retry_config=_RETRY), name
            )
        if endpoint:
            config["aws_endpoint_url_s3"] = endpoint.rstrip("/")
        if region := name.region or access.region:
            config["region"] = region
        keys = access.keys
        provider: Any = (
            None
            if keys is None
            else lambda: {
                "access_key_id": keys.access_key_id,
                "secret_access_key": keys.secret_access_key,
                "token": keys.session_token,
                "expires_at": None,
            }
        )
        store = S3Store(
            name.bucket, config=config, client_options=options, retry_config=_RETRY, credential_provider=provider
        )
    except (BaseError, ValueError) as error:
        raise RequestError(f"source {name.shown}: {_first_line(error)}") from None
    return _Bucket(obstore, store, name)


class _Bucket:
    def __init__(self, obstore: Any, store: Any, name: ObjectName) -> None:
        self._obstore = obstore
        self._store = store
        self._name = name

    def list(self, folder: str, *, limit: int) -> list[StoredObject]:
        found: list[StoredObject] = []
        with self._failures():
            for page in self._obstore.list(self._store, prefix=folder or None):
                found += [_object(meta) for meta in page]
                if len(found) >= limit:
                    return found[:limit]
        return found

    def look(self, key: str, *, version: str | None) -> StoredObject:
        with self._failures(key):
            # A GET of one byte, not a HEAD: the answer to a HEAD cannot say what is wrong.
            options = {"range": (0, 1), **({"version": version} if version else {})}
            meta = self._obstore.get(self._store, key, options=options).meta
        found = _object(meta)
        return StoredObject(key, found.nbytes, found.etag, version or found.version)

    def read(self, found: StoredObject, first: int, end: int) -> bytes:
        options: dict[str, Any] = {"range": (first, end)}
        if found.etag:
            options["if_match"] = found.etag
        if found.version:
            options["version"] = found.version
        with self._failures(found.key):
            return bytes(self._obstore.get(self._store, found.key, options=options).bytes())

    def signed(self, key: str) -> str | None:
        if self._name.scheme != "s3":
            return None
        with self._failures(key):
            return str(self._obstore.sign(self._store, "HEAD", key, timedelta(minutes=5)))

    @contextmanager
    def _failures(self, key: str | None = None) -> Iterator[None]:
        from obstore.exceptions import BaseError, InvalidPathError, PreconditionError

        try:
            yield
        except PreconditionError as error:
            raise Changed("the object was replaced by another one") from error
        except InvalidPathError as error:
            raise CheckpointError(
                f"source {self._name.shown}: a key below it is no path ({_first_line(error)}); remove the object"
            ) from None
        except (BaseError, FileNotFoundError) as error:
            raise _reason(self._name, key, error) from None


def _object(meta: Any) -> StoredObject:
    return StoredObject(str(meta["path"]), int(meta["size"]), str(meta["e_tag"] or ""), meta["version"])


def _reason(name: ObjectName, key: str | None, error: Exception) -> ModelError | Broken:
    """What an error of the store means: another try, or a sentence for the user."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    number, word = int(status[1]) if status else 0, code[1] if code else ""
    where = f"source {name.scheme}://{name.bucket}/{key if key is not None else name.key}".rstrip("/")
    said = " ".join(part for part in (status[1] if status else "", word) if part)
    if word in _REGION or number in (301, 307) or _NO_LOCATION in text:
        return DownloadError(f"{where}: the bucket is in another region; name it, as in {name.shown}?region=eu-west-1")
    if number in (0, 408, 429) or number >= 500:
        return Broken(f"the store answers {said}" if said else f"no answer ({_first_line(error)})")
    if word in _EXPIRED or word in _STRANGERS or number in (400, 401, 403):
        return TokenRefused(
            f"{where}: the store refuses {'the credentials' if word else 'access'} ({said}); put valid ones, which may "
            f"list the folder and read its objects, into the Secret that model.credentialsSecretRef names (outside of "
            f"a deployment: into a file that {ENV_TOKEN_FILE} names)"
        )
    if word == "NoSuchBucket":
        return CheckpointError(f"{where}: there is no bucket {name.bucket} ({said}); check model.source")
    if number == 404:
        return CheckpointError(
            f"{where}: the bucket has no such object ({said}); check model.source and model.revision"
        )
    return DownloadError(f"{where}: the store answers {said}; check model.source")


def _first_line(error: Exception) -> str:
    """Of what the library says, without its dump of structures."""
    text = str(error).partition("\n")[0]
    return text.rpartition(" - ")[2][:200]
