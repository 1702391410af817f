"""Tokens of an OpenID Connect provider, whose keys come from a real HTTPS server with an authority of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import string
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.authority import Authority
from fakes.provider import AUDIENCE, Provider, SigningKey, serving
from fakes.scripted_engine import Clock, Stack, a_chat, a_stack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt import PyJWK

from flash_api.config.gateway import GatewayOidc
from flash_runtime.gateway.auth import ApiKeys, ProviderSilent, TokenRefused
from flash_runtime.gateway.provider_keys import (
    BELIEVED_SECONDS,
    DOCUMENT_MAX_BYTES,
    PAUSE_SECONDS,
    REFRESH_SECONDS,
    HttpsFetch,
    ProviderKeys,
)
from flash_runtime.gateway.tokens import Tokens

ISSUER = "https://login.example.com/realms/acme"
KEY = SigningKey("one")
OTHER = SigningKey("two")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def provider(authority: Authority, tmp_path: Path) -> AsyncIterator[Provider]:
    async with serving(authority, tmp_path, KEY) as started:
        yield started


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fetch(authority: Authority) -> AsyncIterator[HttpsFetch]:
    made = HttpsFetch(authority.trusting())
    yield made
    await made.aclose()


def tokens_of(provider: Provider, fetch: HttpsFetch, clock: Clock, **config: Any) -> Tokens:
    config = {"issuer_url": provider.issuer, "audiences": (AUDIENCE, "batch"), **config}
    return Tokens(GatewayOidc(**config), ProviderKeys(provider.issuer, fetch, clock=clock))


@pytest.fixture
def tokens(provider: Provider, fetch: HttpsFetch, clock: Clock) -> Tokens:
    return tokens_of(provider, fetch, clock)


class OneKey:
    """A source of keys that knows one, without a network."""

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        return PyJWK(KEY.public(), algorithm="ES256") if (key_id, algorithm) == ("one", "ES256") else None


OFFLINE = Tokens(GatewayOidc(issuer_url=ISSUER, audiences=(AUDIENCE,)), OneKey())


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES384", "EdDSA"])
async def test_a_token_of_the_provider_names_its_caller(provider: Provider, tokens: Tokens, algorithm: str) -> None:
    key = SigningKey("three", algorithm)
    provider.keys = [KEY.public(), key.public()]
    ada, again = key.token(provider.issuer), key.token(provider.issuer, aud=["x", "batch"])
    assert await tokens.tenant(ada) == await tokens.tenant(again)
    assert await tokens.tenant(ada) != await tokens.tenant(key.token(provider.issuer, sub="grace"))
    assert provider.num_asked == 2


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"exp": 1_000_000_000}, "has expired"),
        ({"nbf": 4_000_000_000}, "is not valid yet"),
        ({"aud": "another"}, "is for another audience"),
        ({"iss": "https://evil.example.com"}, "is of another provider"),
        ({"iss": ISSUER + "/"}, "is of another provider"),
        ({"exp": None}, "lacks the claim exp"),
        ({"aud": None}, "lacks the claim aud"),
        ({"iss": None}, "lacks the claim iss"),
        ({"sub": None}, "names nobody in the claim sub"),
        ({"sub": ""}, "names nobody in the claim sub"),
        ({"exp": "soon"}, "is not valid"),
        ({"exp": [4_000_000_000]}, "is not valid"),
        ({"exp": float("inf")}, "is not valid"),
        ({"nbf": {}}, "is not valid"),
        ({"sub": ["ada"]}, "is not valid"),
    ],
)
async def test_what_a_token_must_say_is_checked(claims: dict[str, Any], says: str) -> None:
    assert await OFFLINE.tenant(KEY.token(ISSUER))
    with pytest.raises(TokenRefused, match=f"^{says}"):
        await OFFLINE.tenant(KEY.token(ISSUER, **claims))


@pytest.mark.parametrize(("verified", "accepted"), [(True, True), (None, True), (False, False), ("true", False)])
async def test_an_email_that_nobody_verified_is_nobody(verified: Any, accepted: bool) -> None:
    config = GatewayOidc(issuer_url=ISSUER, audiences=(AUDIENCE,), username_claim="email")
    tokens, token = Tokens(config, OneKey()), KEY.token(ISSUER, email="ada@example.com", email_verified=verified)
    if accepted:
        assert await tokens.tenant(token)
    else:
        with pytest.raises(TokenRefused, match="has not verified"):
            await tokens.tenant(token)


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes = b"") -> str:
    """A token that no library would make."""

    def encoded(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    text = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
    return f"{text}.{encoded(signature)}"


CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": 4_000_000_000}


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS512", "ES256K", "", None, 7, ["ES256"]])
async def test_algorithms_that_anybody_could_sign_with_open_nothing(algorithm: Any) -> None:
    secret = json.dumps(KEY.public()).encode()
    for token in (by_hand({"alg": algorithm, "kid": "one"}, CLAIMS), by_hand({"alg": algorithm}, CLAIMS, secret)):
        with pytest.raises(TokenRefused):
            await OFFLINE.tenant(token)


@pytest.mark.parametrize(
    "header", [{"crit": ["b64"], "b64": False}, {"jwk": OTHER.public()}, {"jku": "https://evil.example.com/keys"}]
)
async def test_a_token_cannot_bring_its_own_rules_or_keys(header: dict[str, Any]) -> None:
    with pytest.raises(TokenRefused):
        await OFFLINE.tenant(OTHER.token(ISSUER, kid="one", headers=header))


async def test_absurd_tokens_are_refused_cheaply() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 10_000).decode().rstrip("=")
    for token in ("", ".", "..", "a.b.c", "x" * 20_000, f"{deep}.e30.", KEY.token(ISSUER, sub="a" * 2000)):
        with pytest.raises(TokenRefused):
            await OFFLINE.tenant(token)


GOOD = KEY.token(ISSUER, exp=4_000_000_000)


def decoded(token: str) -> tuple[str, str, bytes]:
    header, payload, signature = token.split(".")
    return header, payload, base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.sampled_from(string.ascii_letters + string.digits + "-_.="))
async def test_a_token_that_was_tampered_with_opens_nothing(place: int, character: str) -> None:
    tampered = GOOD[:place] + character + GOOD[place + 1 :]
    try:
        await OFFLINE.tenant(tampered)
    except TokenRefused:
        return
    # The last character of base64 has bits that mean nothing.
    assert decoded(tampered) == decoded(GOOD)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.builds(".".join, st.lists(st.text(string.ascii_letters, max_size=40), max_size=4)))
async def test_no_text_is_anything_but_refused(text: str) -> None:
    with pytest.raises(TokenRefused):
        await OFFLINE.tenant(text)


async def test_a_new_key_is_learnt_and_a_withdrawn_one_forgotten(
    provider: Provider, tokens: Tokens, clock: Clock
) -> None:
    await tokens.tenant(KEY.token(provider.issuer))
    provider.keys = [OTHER.public()]
    clock.now += PAUSE_SECONDS
    await tokens.tenant(OTHER.token(provider.issuer))
    with pytest.raises(TokenRefused, match="key that the provider does not have"):
        await tokens.tenant(KEY.token(provider.issuer))


async def test_a_withdrawn_key_is_forgotten_without_a_new_one(
    provider: Provider, fetch: HttpsFetch, clock: Clock
) -> None:
    keys = ProviderKeys(provider.issuer, fetch, clock=clock)
    assert await keys.find("one", "ES256") is not None
    provider.keys = []
    clock.now += REFRESH_SECONDS
    await keys.find("one", "ES256")  # asks in the background
    clock.now += PAUSE_SECONDS
    assert await keys.find("another", "ES256") is None
    assert await keys.find("one", "ES256") is None


async def test_tokens_with_made_up_keys_do_not_harass_the_provider(provider: Provider, tokens: Tokens) -> None:
    for number in range(20):
        with pytest.raises(TokenRefused, match="key that the provider does not have"):
            await tokens.tenant(KEY.token(provider.issuer, kid=f"made-up-{number}"))
    assert provider.num_asked == 2


async def test_a_token_without_a_key_id_needs_a_provider_with_one_key(
    provider: Provider, fetch: HttpsFetch, clock: Clock
) -> None:
    keys = ProviderKeys(provider.issuer, fetch, clock=clock)
    assert await keys.find(None, "ES256") is not None
    assert await keys.find(None, "RS256") is None
    provider.keys = [KEY.public(), OTHER.public()]
    clock.now += PAUSE_SECONDS
    await keys.find("two", "ES256")
    assert await keys.find(None, "ES256") is None


@pytest.mark.parametrize(
    "entry",
    [
        KEY.public(use="enc"),
        KEY.public(alg="RS256"),
        KEY.public(kty="oct", k="c2VjcmV0"),
        KEY.public(crv="P-384"),
        KEY.public(d="AAAA"),
        "one",
        {},
    ],
)
async def test_what_is_no_public_key_for_signatures_is_not_used(provider: Provider, tokens: Tokens, entry: Any) -> None:
    provider.keys = [entry]
    with pytest.raises(TokenRefused):
        await tokens.tenant(KEY.token(provider.issuer))


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 500},
        {"status": 302},
        {"body": b"not json"},
        {"body": b"[]"},
        {"body": b"[" * 100_000},
        {"body": b'"' + b"a" * DOCUMENT_MAX_BYTES + b'"'},
        {"configuration": {"issuer": "https://login.example.com/another"}},
        {"configuration": {"jwks_uri": "http://localhost/keys"}},
        {"configuration": {"jwks_uri": None}},
        {"configuration": {"jwks_uri": "https://localhost:1/keys"}},
        {"keys": {"not": "a list"}},
    ],
)
async def test_a_provider_that_does_not_answer_right_never_opens_the_door(
    provider: Provider, tokens: Tokens, clock: Clock, changes: dict[str, Any]
) -> None:
    right = {name: getattr(provider, name) for name in changes}
    vars(provider).update(changes)
    with pytest.raises(ProviderSilent):
        await tokens.tenant(KEY.token(provider.issuer))
    vars(provider).update(right)
    with pytest.raises(ProviderSilent, match="a moment ago"):
        await tokens.tenant(KEY.token(provider.issuer))
    clock.now += PAUSE_SECONDS
    assert await tokens.tenant(KEY.token(provider.issuer))


async def test_a_certificate_of_an_unknown_authority_is_no_provider(provider: Provider, clock: Clock) -> None:
    fetch = HttpsFetch(Authority().trusting())
    with pytest.raises(ProviderSilent):
        await tokens_of(provider, fetch, clock).tenant(KEY.token(provider.issuer))
    await fetch.aclose()
    assert provider.num_asked == 0


async def test_known_keys_outlive_a_silent_provider_for_a_day(provider: Provider, tokens: Tokens, clock: Clock) -> None:
    token = KEY.token(provider.issuer)
    await tokens.tenant(token)
    provider.status = 503
    clock.now += BELIEVED_SECONDS - 1
    await tokens.tenant(token)
    clock.now += PAUSE_SECONDS
    with pytest.raises(ProviderSilent):
        await tokens.tenant(token)


CHAT = "/v1/chat/completions"


async def ask(stack: Stack, secret: str) -> tuple[int, dict[str, Any], str]:
    async with stack.client() as client:
        answer = await client.post(CHAT, json=a_chat(), headers={"authorization": f"Bearer {secret}"})
    return answer.status_code, answer.json(), answer.headers.get("www-authenticate", "")


async def test_keys_and_tokens_open_the_same_door_to_different_caches(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("ada\n")
    stack = a_stack(keys=lambda clock: ApiKeys(tmp_path / "keys", clock=clock), tokens=OFFLINE)
    for secret in ("ada", KEY.token(ISSUER), KEY.token(ISSUER, sub="grace"), KEY.token(ISSUER)):
        assert (await ask(stack, secret))[0] == 200
    key, ada, grace, again = (request.cache_salt for _, request in stack.engine.requests)
    assert ada == again
    assert len({key, ada, grace}) == 3


async def test_a_refused_token_reads_like_openais_and_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    token = KEY.token(ISSUER, exp=1_000_000_000)
    with caplog.at_level(logging.DEBUG):
        status, body, challenge = await ask(a_stack(tokens=OFFLINE), token)
    error = body["error"]
    assert (status, error["code"], error["type"]) == (401, "invalid_token", "invalid_request_error")
    assert "has expired; ask the provider for a new one" in error["message"]
    assert challenge.startswith('Bearer error="invalid_token"')
    told = json.dumps(body) + challenge + "".join(f"{record.getMessage()}{vars(record)}" for record in caplog.records)
    assert not any(part in told for part in token.split("."))


async def test_without_a_provider_to_ask_the_answer_is_503_and_keys_still_work(tmp_path: Path) -> None:
    class Silent:
        async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
            raise ProviderSilent("it sleeps")

    (tmp_path / "keys").write_text("sk-one\n")
    tokens = Tokens(GatewayOidc(issuer_url=ISSUER, audiences=(AUDIENCE,)), Silent())
    stack = a_stack(keys=lambda clock: ApiKeys(tmp_path / "keys", clock=clock), tokens=tokens)
    status, body, _ = await ask(stack, KEY.token(ISSUER))
    assert (status, body["error"]["code"]) == (503, "token_provider_unavailable")
    assert (await ask(stack, "sk-one"))[0] == 200
    assert (await ask(stack, "sk-two"))[0] == 401
    async with stack.client() as client:
        assert (await client.post(CHAT, json=a_chat())).status_code == 401
        assert (await client.get("/readyz")).status_code == 200
