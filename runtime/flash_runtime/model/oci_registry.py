"""A registry of the OCI distribution specification, asked for manifests: who may read what, and the exact bytes.

The library for it, `oras`, fetches a layer in one go and keeps what arrived nowhere; blobs of many gigabytes are
fetched by `transfer`, which takes them up again. What is left of the protocol is one request and its token.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from flash_api.endpoints import is_plain
from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.errors import CheckpointError, DownloadError
from flash_runtime.model.oci_manifest import INDEXES, MANIFESTS, manifest_for_this_machine
from flash_runtime.model.oci_name import Login, OciName
from flash_runtime.model.transfer import Remote, TokenRefused, Web

_ATTEMPTS: Final = 4
_MAX_MANIFEST_BYTES: Final = 4 << 20
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Manifest:
    """A manifest, compared with its digest."""

    digest: str
    document: Mapping[str, Any]


class Registry:
    """One repository of a registry. Asks for a token when it is told to."""

    def __init__(self, name: OciName, login: Login | None, web: Web) -> None:
        self._name = name
        self._login = login
        self._web = web
        self._kind, self._token = "Bearer", ""

    def manifest(self) -> Manifest:
        """What the tag means now, or what the digest names. Raises DownloadError or CheckpointError."""
        found = self._manifest(self._name.reference)
        if found.document.get("mediaType") in INDEXES or "manifests" in found.document:
            found = self._manifest(manifest_for_this_machine(self._name.shown, found.document))
        return found

    def blob(self, digest: str, nbytes: int) -> Remote:
        """Where the blob is, with the present token."""
        url = f"{self._name.base_url}/blobs/{digest}"
        return Remote(url, self._token or None, token_kind=self._kind, nbytes=nbytes, pinned=True)

    def renew(self, refused: TokenRefused) -> None:
        """Get another token: they live for minutes, and a blob may take hours. Raises what was refused, if in vain."""
        before = self._token
        self._manifest(self._name.reference, forget=True)
        if self._token == before:
            raise refused

    def _manifest(self, reference: str, *, forget: bool = False) -> Manifest:
        where = self._name.shown
        if forget:
            self._token = ""
        url = f"{self._name.base_url}/manifests/{reference}"
        accept = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        content = self._get(url, accept)
        if content is None:  # it wants a token, and there is one now
            content = self._get(url, accept)
        if content is None:
            raise TokenRefused(_refused(where, self._login, 401))
        algorithm = reference.partition(":")[0] if ":" in reference else "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        if ":" in reference and digest != reference:
            raise CheckpointError(f"source {where}: the manifest's digest is {digest}, {reference} is expected")
        try:
            document = json.loads(content)
        except ValueError as error:
            raise CheckpointError(f"source {where}: its manifest is no JSON; check model.source") from error
        if not isinstance(document, dict):
            raise CheckpointError(f"source {where}: its manifest is no object; check model.source")
        return Manifest(digest, document)

    def _get(self, url: str, headers: Mapping[str, str]) -> bytes | None:
        """The answer; None when a token was fetched, with which it can be asked again."""
        request = urllib.request.Request(url, headers={**headers, "User-Agent": "flashplane"})
        if self._token:
            request.add_unredirected_header("Authorization", f"{self._kind} {self._token}")
        try:
            return self._read(request)
        except urllib.error.HTTPError as error:
            with error:
                where = self._name.shown
                if error.code == HTTPStatus.UNAUTHORIZED and not self._token:
                    self._authorize(error.headers.get("WWW-Authenticate", ""))
                    return None
                if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                    raise TokenRefused(_refused(where, self._login, error.code)) from error
                if error.code == HTTPStatus.NOT_FOUND:
                    raise CheckpointError(
                        f"source {where}: the registry has no such artifact (404); check model.source"
                    ) from error
                raise DownloadError(
                    f"source {where}: the registry answers {error.code} {error.reason}; check model.source"
                ) from error

    def _authorize(self, challenge: str) -> None:
        """Do what WWW-Authenticate asks for."""
        where, login = self._name.shown, self._login
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and login is not None and login.password:
            self._kind, self._token = "Basic", login.basic
            return
        asked = dict(_PARAMETER.findall(rest))
        realm = urlsplit(asked.get("realm", ""))
        if kind.lower() != "bearer" or not realm.hostname:
            raise TokenRefused(_refused(where, login, 401))
        if realm.scheme not in ("http", "https") or is_plain(realm.geturl()):
            raise DownloadError(
                f"source {where}: its tokens come from {realm.scheme}://, which protects nothing on the way; use TLS"
            )
        scope = {"service": asked.get("service", ""), "scope": f"repository:{self._name.repository}:pull"}
        if login is not None and login.identity_token:
            form = {**scope, "grant_type": "refresh_token", "refresh_token": login.identity_token}
            body = urlencode({**form, "client_id": "flashplane"}).encode()
            request = urllib.request.Request(realm.geturl(), body, {"User-Agent": "flashplane"})
        else:
            query = "&".join(part for part in (realm.query, urlencode(scope)) if part)
            request = urllib.request.Request(realm._replace(query=query).geturl(), headers={"User-Agent": "flashplane"})
            if login is not None:
                request.add_unredirected_header("Authorization", f"Basic {login.basic}")
        try:
            answer = json.loads(self._read(request))
            self._kind, self._token = "Bearer", str(answer.get("token") or answer["access_token"])
        except urllib.error.HTTPError as error:
            with error:
                raise TokenRefused(_refused(where, login, error.code)) from error
        except (ValueError, KeyError, AttributeError) as error:
            raise DownloadError(f"source {where}: {realm.netloc} gave no token; check model.source") from error

    def _read(self, request: urllib.request.Request) -> bytes:
        """A small answer, asked for again where that may help. Raises HTTPError and DownloadError."""
        failures = 0
        while True:
            try:
                with self._web.opener.open(request, timeout=self._web.timeout_seconds) as response:
                    content: bytes = response.read(_MAX_MANIFEST_BYTES + 1)
                if len(content) > _MAX_MANIFEST_BYTES:
                    raise CheckpointError(f"source {self._name.shown}: its manifest is larger than 4 MiB")
                return content
            except urllib.error.HTTPError as error:
                failures += 1
                if error.code not in _TRY_AGAIN or failures >= _ATTEMPTS:
                    raise
                error.close()
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                if failures >= _ATTEMPTS:
                    reason = getattr(error, "reason", None) or error or type(error).__name__
                    raise DownloadError(
                        f"source {self._name.shown}: {urlsplit(request.full_url).netloc} cannot be reached ({reason}); "
                        "check the network, the proxy settings and the registry's certificate"
                    ) from error
            self._web.sleep(2.0 ** (failures - 1))


def _refused(where: str, login: Login | None, code: int) -> str:
    what = "wants a login, or has no such artifact" if login is None else "refuses the login"
    return (
        f"source {where}: the registry {what} ({code}); put a .dockerconfigjson with a valid one into the Secret that "
        f"model.credentialsSecretRef names (outside of a deployment: into a file that {ENV_TOKEN_FILE} names)"
    )
