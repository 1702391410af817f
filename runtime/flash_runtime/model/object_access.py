"""What opens a bucket: keys from the Secret's file, from the environment, from the user's own files, or nothing.

The file of an s3:// source is the one that `aws configure` writes, or lines of `AWS_ACCESS_KEY_ID=…`; of a gs://
source the JSON key of a service account. A pod's own identity (a web identity token, the EKS agent, GKE's metadata
server) is used where there is no file. Pure: text and names in, settings out; values never reach a message.
"""

from __future__ import annotations

import configparser
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.errors import RequestError

ReadText = Callable[[Path], str]
"""Raises OSError or ValueError."""

_MAX_BYTES: Final = 64 << 10
_ALIASES: Final = {
    "region": ("region", "aws_region", "aws_default_region"),
    "endpoint": ("endpoint_url", "aws_endpoint_url_s3", "aws_endpoint_url"),
}
_IDENTITY: Final = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
"""What Kubernetes puts into the environment of a pod that has an identity at AWS."""
_GOOGLE_KINDS: Final = ("service_account", "authorized_user")


@dataclass(frozen=True)
class Keys:
    """What S3 requests are signed with."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Access:
    """How a bucket is opened."""

    keys: Keys | None = None
    google: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Settings of the Google client that hold or name the credentials."""
    ambient: bool = False
    """The library finds the pod's own identity."""
    region: str | None = None
    endpoint: str | None = None

    @property
    def is_anonymous(self) -> bool:
        return self.keys is None and not self.google and not self.ambient


def read_credentials(path: Path) -> str:
    """The text of a small file."""
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError("is too large")
    return content.decode("utf-8")


def s3_access(environment: Mapping[str, str], *, read: ReadText = read_credentials) -> Access:
    """From the Secret's file, else from AWS_* variables, else from `~/.aws/credentials`, else anonymous."""
    profile = environment.get("AWS_PROFILE")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if name := environment.get(ENV_TOKEN_FILE):
        return _s3_file(_text(name, ENV_TOKEN_FILE, read), name, None, region, endpoint)
    if key := environment.get("AWS_ACCESS_KEY_ID"):
        secret = environment.get("AWS_SECRET_ACCESS_KEY")
        if not secret:
            raise RequestError("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both, or none")
        return Access(Keys(key, secret, environment.get("AWS_SESSION_TOKEN")), region=region, endpoint=endpoint)
    if any(environment.get(variable) for variable in _IDENTITY):
        return Access(ambient=True, region=region, endpoint=endpoint)
    own = environment.get("AWS_SHARED_CREDENTIALS_FILE") or f"{environment.get('HOME', '')}/.aws/credentials"
    if Path(own).is_file():
        return _s3_file(_text(own, "AWS_SHARED_CREDENTIALS_FILE", read), own, profile, region, endpoint)
    return Access(region=region, endpoint=endpoint)


def _s3_file(text: str, name: str, profile: str | None, region: str | None, endpoint: str | None) -> Access:
    wanted = f"{name}: must be an AWS credentials file with aws_access_key_id and aws_secret_access_key"
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(text if text.lstrip().startswith(("[", "#", ";")) else f"[default]\n{text}")
    except configparser.Error:
        raise RequestError(wanted) from None  # its message quotes the line
    sections = parser.sections()
    chosen = profile or ("default" if "default" in sections or len(sections) != 1 else sections[0])
    if chosen not in sections:
        raise RequestError(f"{wanted} in a section [{chosen}]")
    found: Mapping[str, str] = parser[chosen]
    key, secret = found.get("aws_access_key_id"), found.get("aws_secret_access_key")
    if not key or not secret:
        raise RequestError(f"{wanted} in its section [{chosen}]")
    settings = {
        setting: next((found[alias] for alias in aliases if found.get(alias)), None)
        for setting, aliases in _ALIASES.items()
    }
    return Access(
        Keys(key, secret, found.get("aws_session_token")),
        region=settings["region"] or region,
        endpoint=settings["endpoint"] or endpoint,
    )


def gs_access(environment: Mapping[str, str], *, read: ReadText = read_credentials) -> Access:
    """From the Secret's file, else from GOOGLE_APPLICATION_CREDENTIALS, else from gcloud's own file, else anonymous."""
    home = environment.get("HOME", "")
    own = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if name := environment.get(ENV_TOKEN_FILE):
        return Access(google=_google(_text(name, ENV_TOKEN_FILE, read), name))
    if own:
        return Access(google=_google(_text(own, "GOOGLE_APPLICATION_CREDENTIALS", read), own))
    own = f"{environment.get('CLOUDSDK_CONFIG') or f'{home}/.config/gcloud'}/application_default_credentials.json"
    if Path(own).is_file():
        return Access(google=_google(_text(own, "gcloud's credentials", read), own))
    return Access()


def _google(text: str, name: str) -> Mapping[str, str]:
    wanted = f"{name}: must be the JSON key of a Google service account"
    try:
        document: Any = json.loads(text)
    except ValueError:
        raise RequestError(wanted) from None  # its message may quote the text
    kind = document.get("type") if isinstance(document, dict) else None
    if kind not in _GOOGLE_KINDS:
        raise RequestError(f"{wanted}; its type is {kind!r}, and {' and '.join(_GOOGLE_KINDS)} are known")
    return {"service_account_key": text} if kind == "service_account" else {"application_credentials": name}


def _text(name: str, whose: str, read: ReadText) -> str:
    try:
        return read(Path(name))
    except OSError as error:
        raise RequestError(f"{whose} ({name}): cannot be read: {error.strerror}") from None
    except ValueError:
        raise RequestError(f"{whose} ({name}): must be a small text file") from None
