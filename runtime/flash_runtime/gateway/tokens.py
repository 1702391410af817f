"""Who a bearer token of an OpenID Connect provider stands for. Knows no HTTP; no error says anything of a token.

Errors: `TokenRefused`, whose text is for the client; `ProviderSilent`, when nobody can tell.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import jwt
from jwt import PyJWK
from jwt import exceptions as refusals

from flash_api.config.gateway import GatewayOidc
from flash_runtime.gateway.auth import TokenRefused, tenant_of_caller
from flash_runtime.gateway.provider_keys import ALGORITHMS

TOKEN_MAX_CHARACTERS: Final = 16_384
LEEWAY_SECONDS: Final = 30
"""How far the provider's clock may be from ours."""
NAME_MAX_CHARACTERS: Final = 1024

_WHY: Final[tuple[tuple[type[refusals.PyJWTError], str], ...]] = (
    (refusals.ExpiredSignatureError, "has expired; ask the provider for a new one"),
    (refusals.ImmatureSignatureError, "is not valid yet; compare the clocks"),
    (refusals.InvalidAudienceError, "is for another audience"),
    (refusals.InvalidIssuerError, "is of another provider"),
    (refusals.InvalidSignatureError, "is not signed by the provider"),
)


class Keys(Protocol):
    """Where public keys come from."""

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key for such a token; None = the provider has none. Raises ProviderSilent."""


class Tokens:
    """The tokens of one provider."""

    def __init__(self, config: GatewayOidc, keys: Keys) -> None:
        self._config = config
        self._keys = keys

    async def tenant(self, token: str) -> str:
        """The caller, as a name that does not reveal it. Raises TokenRefused or ProviderSilent."""
        algorithm, key_id = _header(token)
        key = await self._keys.find(key_id, algorithm)
        if key is None:
            raise TokenRefused("is signed by a key that the provider does not have")
        claims = self._claims(token, key, algorithm)
        return tenant_of_caller(self._config.issuer_url, self._name(claims))

    def _claims(self, token: str, key: PyJWK, algorithm: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._config.audiences,
                issuer=self._config.issuer_url,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except refusals.MissingRequiredClaimError as error:
            raise TokenRefused(f"lacks the claim {error.claim}") from None
        # A claim of a type that nobody expects is no PyJWTError.
        except (refusals.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            why = (said for kind, said in _WHY if isinstance(error, kind))
            raise TokenRefused(next(why, "is not valid")) from None

    def _name(self, claims: dict[str, Any]) -> str:
        claim = self._config.username_claim
        name = claims.get(claim)
        if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX_CHARACTERS:
            raise TokenRefused(f"names nobody in the claim {claim}")
        # Whoever may choose an address would otherwise be whoever it belongs to.
        if claim == "email" and claims.get("email_verified", True) is not True:
            raise TokenRefused("has an email that the provider has not verified")
        return name


def _header(token: str) -> tuple[str, str | None]:
    """Algorithm and key id. Nothing of it is believed yet."""
    if len(token) > TOKEN_MAX_CHARACTERS:
        raise TokenRefused(f"is longer than {TOKEN_MAX_CHARACTERS} characters")
    try:
        header = jwt.get_unverified_header(token)
    except (refusals.PyJWTError, ValueError, RecursionError):
        raise TokenRefused("is not a JSON Web Token") from None
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused("is signed by an algorithm that is not accepted here")
    if "crit" in header:
        raise TokenRefused("asks for extensions that are not understood here")
    return algorithm, key_id
