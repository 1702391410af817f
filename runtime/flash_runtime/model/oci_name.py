"""What `oci://` URIs name, and which login of a Docker configuration belongs to it. Pure: text in, values out."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from flash_api.endpoints import is_this_machine
from flash_runtime.model.errors import RequestError

_HOST: Final = re.compile(r"(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+|[a-z0-9-]+(?=:)|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_PATH: Final = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_DOCKER: Final = ("docker.io", "index.docker.io")
_DOCKER_HOST: Final = "registry-1.docker.io"
_DOCKER_LOGIN: Final = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class OciName:
    """A URI, taken apart."""

    registry: str
    """As it is written, with its port."""
    repository: str
    tag: str | None
    digest: str | None

    @property
    def reference(self) -> str:
        """What the manifest is asked for by."""
        return self.digest or self.tag or "latest"

    @property
    def host(self) -> str:
        return _DOCKER_HOST if self.registry in _DOCKER else self.registry

    @property
    def base_url(self) -> str:
        """Where the registry answers: by TLS, unless it is on this machine."""
        bare = self.host if self.host.endswith("]") else self.host.rpartition(":")[0] or self.host
        return f"{'http' if is_this_machine(bare) else 'https'}://{self.host}/v2/{self.repository}"

    @property
    def shown(self) -> str:
        end = f"@{self.digest}" if self.digest else f":{self.reference}"
        return f"oci://{self.registry}/{self.repository}{end}"


def parse_oci_name(uri: str) -> OciName:
    """Raises RequestError for anything but `oci://REGISTRY/REPOSITORY[:TAG][@DIGEST]`."""
    rest, at, digest = uri.partition("://")[2].partition("@")
    registry, _, path = rest.partition("/")
    repository, colon, tag = path.partition(":")
    if registry in _DOCKER and repository and "/" not in repository:
        repository = f"library/{repository}"
    if (
        not _HOST.fullmatch(registry)
        or not _PATH.fullmatch(repository)
        or (colon and not _TAG.fullmatch(tag))
        or (at and not DIGEST.fullmatch(digest))
    ):
        raise RequestError(
            f"source {uri}: must be oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST, such as "
            "oci://registry.example.com/models/olmoe:1"
        )
    return OciName(registry, repository, tag or None, digest or None)


@dataclass(frozen=True)
class Login:
    """What a registry is asked with."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of Basic authentication."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


def login_for(name: OciName, text: str, *, file: str) -> Login | None:
    """The entry of a `.dockerconfigjson` that speaks of this registry. Raises RequestError for another kind of file."""
    wanted = f'{file}: must be a Docker configuration, {{"auths": {{"{name.registry}": {{"auth": …}}}}}}'
    try:
        document: Any = json.loads(text)
        auths = document["auths"]
        entries = {_registry_of(key): entry for key, entry in auths.items() if isinstance(entry, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(wanted) from None  # its message may quote the text
    entry = next((entries[known] for known in (name.registry, name.host) if known in entries), None)
    if entry is None and name.host == _DOCKER_HOST:
        entry = entries.get(_registry_of(_DOCKER_LOGIN))
    if entry is None:
        return None
    return _login(entry, wanted)


def _login(entry: Any, wanted: str) -> Login | None:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if auth := entry.get("auth"):
        try:
            username, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError, TypeError):
            raise RequestError(f"{wanted}; its auth is not the base64 form of USER:PASSWORD") from None
    identity = entry.get("identitytoken")
    if not identity and not password:
        return None
    return Login(username, password, str(identity) if identity else None)


def _registry_of(key: str) -> str:
    """`registry.example.com` of `https://registry.example.com/v1/`, as old tools wrote it."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]
