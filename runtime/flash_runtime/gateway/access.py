"""Who is behind an Authorization header: API keys and tokens beside each other, and what whoever is refused is told."""

from __future__ import annotations

from typing import Final, Protocol

from flash_runtime.gateway.auth import ApiKeys, ProviderSilent, TokenRefused, tenant_of
from flash_runtime.gateway.errors import ApiError

RETRY_AFTER_SECONDS: Final = 10
"""A provider that was silent is not asked again before."""


class Tokens(Protocol):
    """Tokens that are accepted."""

    async def tenant(self, token: str) -> str:
        """The caller, as a name that does not reveal it. Raises TokenRefused or ProviderSilent."""


class Access:
    """Lets in who shows an accepted API key or, where a provider is trusted, a token of it."""

    def __init__(self, keys: ApiKeys | None, tokens: Tokens | None = None) -> None:
        self._keys = keys
        self._tokens = tokens

    async def tenant(self, authorization: str) -> str:
        """Who calls, as a name that does not reveal key or caller; empty where nobody is asked. Raises ApiError."""
        if self._keys is None and self._tokens is None:
            return ""
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer":
            raise self._refusal("No API key was sent" if not scheme else "The API key is not accepted here")
        if self._keys is not None and self._keys.accept(secret):
            return tenant_of(secret)
        if self._tokens is None:
            raise self._refusal("The API key is not accepted here")
        try:
            return await self._tokens.tenant(secret)
        except TokenRefused as refused:
            raise self._refusal(f"The token {refused}") from None
        except ProviderSilent:
            raise _undecided() from None

    def _refusal(self, problem: str) -> ApiError:
        if self._tokens is None:
            return ApiError(
                401,
                f"{problem}; send one of this deployment's keys as `Authorization: Bearer KEY`.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        either = "a token of this deployment's provider" + (" or one of its keys" if self._keys is not None else "")
        return ApiError(
            401,
            f"{problem}; send {either} as `Authorization: Bearer TOKEN`.",
            code="invalid_token",
            headers={"www-authenticate": f'Bearer error="invalid_token", error_description="{problem}"'},
        )


def _undecided() -> ApiError:
    """Nobody is let in because nobody can be asked."""
    return ApiError(
        503,
        "The token provider cannot be reached, so tokens cannot be checked. Try again shortly.",
        type_="server_error",
        code="token_provider_unavailable",
        headers={"retry-after": str(RETRY_AFTER_SECONDS)},
    )
