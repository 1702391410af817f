"""What a model hub says of a repository: the commit behind a revision, and its files. The one user of huggingface_hub.

`HF_ENDPOINT` names another hub, as for every program that uses the library; a token is the caller's, else the one the
library finds (`HF_TOKEN`, `hf auth login`). Files themselves are fetched by `transfer`, as from any web server: taken
up again, compared with the hub's digests, never longer than the disk has room for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from flash_api.names import ENV_TOKEN_FILE
from flash_runtime.model.errors import CheckpointError, DownloadError

_TIMEOUT_SECONDS: Final = 30
_ATTEMPTS: Final = 4


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at one commit."""

    name: str
    nbytes: int
    url: str
    sha256: str | None
    """Of a large file; small ones have only `git_sha1`."""
    git_sha1: str | None


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]
    token: str | None
    """What opened it; None = it is public."""


class Hub(Protocol):
    """Where repositories are looked up."""

    def __call__(self, repository: str, *, revision: str | None, token: str | None) -> Listing:
        """The repository at the revision; raises DownloadError or CheckpointError."""


@dataclass(frozen=True)
class HubApi:
    """The hub that this environment names."""

    sleep: Callable[[float], None]

    def __call__(self, repository: str, *, revision: str | None, token: str | None) -> Listing:
        from httpx2 import HTTPError
        from huggingface_hub import HfApi, get_token, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        token = token or get_token()
        endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        api = HfApi(endpoint=endpoint, token=token or False)
        failures = 0
        while True:
            try:
                info = api.model_info(repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
                break
            except OfflineModeIsEnabled as error:
                raise DownloadError(f"source hf://{repository}: HF_HUB_OFFLINE is set; unset it to download") from error
            except HfHubHTTPError as error:
                code = error.response.status_code
                failures += 1
                if code < HTTPStatus.INTERNAL_SERVER_ERROR or failures >= _ATTEMPTS:
                    where = f"source hf://{repository}" + (f" (revision {revision})" if revision else "")
                    raise _refusal(where, code, error.response.headers.get("X-Error-Code", ""), token) from error
            except (HTTPError, OSError) as error:
                failures += 1
                if failures >= _ATTEMPTS:
                    raise DownloadError(
                        f"source hf://{repository}: {endpoint} cannot be reached ({error or type(error).__name__}); "
                        "check the network, the proxy settings and HF_ENDPOINT"
                    ) from error
            self.sleep(2.0 ** (failures - 1))
        if info.sha is None:
            raise DownloadError(f"source hf://{repository}: {endpoint} names no commit; check HF_ENDPOINT")
        files = tuple(
            HubFile(
                name=file.rfilename,
                nbytes=file.size,
                url=hf_hub_url(repository, file.rfilename, revision=info.sha, endpoint=endpoint),
                sha256=file.lfs.sha256 if file.lfs is not None else None,
                git_sha1=file.blob_id,
            )
            for file in info.siblings or ()
            if file.size is not None
        )
        return Listing(info.sha, files, token)


def _refusal(where: str, code: int, word: str, token: str | None) -> DownloadError | CheckpointError:
    """`word` is the hub's own name of the failure, where it gives one."""
    if word == "RevisionNotFound":
        return CheckpointError(f"{where}: the repository has no such revision; check model.revision")
    if word == "GatedRepo" or code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        what = "refuses the token" if token else "wants a token, or has no such model"
        return DownloadError(
            f"{where}: the hub {what} ({code}); check model.source, accept the model's licence at the hub, and put a "
            "valid token into the Secret that model.credentialsSecretRef names (outside of a deployment: into HF_TOKEN "
            f"or a file that {ENV_TOKEN_FILE} names)"
        )
    if code == HTTPStatus.NOT_FOUND:
        return CheckpointError(f"{where}: the hub has no such model ({code}); check model.source")
    return DownloadError(f"{where}: the hub answers {code}; try again later, and check HF_ENDPOINT")
