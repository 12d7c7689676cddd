"""The demo's issuer: honest as a protocol, worthless as an authority, and never seen outside this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from muniment.demo.issuer import MAX_BODY_BYTES, DemoIssuer
from muniment.services.jose import check_signature, read_keys, read_token


@pytest.fixture
def issuer() -> Iterator[DemoIssuer]:
    with DemoIssuer() as running:
        yield running


def verified(issuer: DemoIssuer, token: str) -> bool:
    read, _ = read_token(token)
    assert read is not None
    keys = read_keys(httpx.get(f"{issuer.url}/jwks", trust_env=False).text)
    return all(check.passed for check in check_signature(read, keys))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "10.0.0.1"])
def test_it_binds_loopback_only(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        DemoIssuer(host)


def test_discovery_speaks_for_its_own_address_and_says_that_it_is_a_demo(issuer: DemoIssuer) -> None:
    found = httpx.get(f"{issuer.url}/.well-known/openid-configuration", trust_env=False).json()
    assert found["issuer"] == issuer.url
    assert found["jwks_uri"] == f"{issuer.url}/jwks"
    assert "anybody" in found["muniment_demo"]


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_its_tokens_verify_with_its_key_set(alg: str, issuer: DemoIssuer) -> None:
    token = issuer.mint({"sub": "job"}, alg=alg, lifetime_s=60)
    read, _ = read_token(token)
    assert read is not None and read.alg == alg
    assert verified(issuer, token)
    assert read.claims["iss"] == issuer.url
    assert 58 <= read.claims["exp"] - time.time() <= 60  # type: ignore[operator]


def test_claims_given_win_over_those_filled_in(issuer: DemoIssuer) -> None:
    read, _ = read_token(issuer.mint({"iss": "x", "exp": 1, "jti": "j"}))
    assert read is not None
    assert (read.claims["iss"], read.claims["exp"], read.claims["jti"]) == ("x", 1, "j")


def test_another_algorithm_is_not_minted(issuer: DemoIssuer) -> None:
    for alg in ("none", "HS256", "RS512"):
        with pytest.raises(ValueError, match="signs"):
            issuer.mint({}, alg=alg)


def test_a_rotation_keeps_the_last_generation_and_forget_drops_it(issuer: DemoIssuer) -> None:
    first = issuer.mint({"sub": "a"})
    issuer.rotate()
    second = issuer.mint({"sub": "a"})
    assert verified(issuer, first) and verified(issuer, second)
    issuer.forget()
    assert not verified(issuer, first) and verified(issuer, second)


def test_only_public_parts_are_published(issuer: DemoIssuer) -> None:
    for key in issuer.jwks()["keys"]:  # type: ignore[attr-defined]
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & key.keys()


def test_the_mint_is_open_on_its_own_address(issuer: DemoIssuer) -> None:
    answer = httpx.post(f"{issuer.url}/token", json={"sub": "job", "aud": "gw.example.org"}, trust_env=False)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    assert verified(issuer, answer.json()["id_token"])


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/token", b"{}", {"Host": "rebound.example.org"}, 403),
        ("/token", b"[]", {}, 400),
        ("/token", b"{", {}, 400),
        ("/token", b"[" * 8000, {}, 400),
        ("/token", b"\xff", {}, 400),
        ("/token", b" " * (MAX_BODY_BYTES + 1), {}, 400),
        ("/other", b"{}", {}, 400),
    ],
)
def test_other_requests_are_refused(
    path: str, body: bytes, headers: dict[str, str], status: int, issuer: DemoIssuer
) -> None:
    answer = httpx.post(f"{issuer.url}{path}", content=body, headers=headers, trust_env=False)
    assert answer.status_code == status
    assert "error" in json.loads(answer.text)


def test_unknown_pages_are_not_found_and_the_port_is_free_after_it(issuer: DemoIssuer) -> None:
    assert httpx.get(f"{issuer.url}/etc/passwd", trust_env=False).status_code == 404
    issuer.close()
    with DemoIssuer(port=issuer.port) as again:
        assert again.port == issuer.port
