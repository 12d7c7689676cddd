"""Tokens, key sets and issuers that lie, break, stall or attack; none of them opens anything."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from muniment.model.access import Admission, Refusal
from muniment.model.entries import KeySet
from muniment.model.errors import Unavailable
from muniment.services import discovery, keysets
from muniment.services.jose import (
    ALGORITHMS,
    MAX_DEPTH,
    MAX_KEYS,
    MAX_TOKEN_CHARS,
    check_signature,
    read_keys,
    read_token,
    shown,
    strict_json,
)
from tests.live import certificates
from tests.services.issuers import Forge, Site, answers, number, site, text
from tests.services.worlds import DEPLOYMENT, World, check, failed, now_us, world

MINE, THEIRS = Forge(), Forge()
ALL = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")


def claims(issuer: str, **more: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {"iss": issuer, "aud": DEPLOYMENT, "sub": "s", "repository_id": "456789", "iat": now, "exp": now + 300}
    return {name: value for name, value in {**said, **more}.items() if value is not ...}


@pytest.fixture
def page() -> Iterator[Site]:
    with site() as running:
        running.serves(MINE.jwk("RS256"))
        yield running


@pytest.fixture
def here(tmp_path: Path, page: Site) -> Iterator[World]:
    made = world(tmp_path, page.url, algorithms=ALL)
    yield made
    made.database.close()


def login(here: World, token: str) -> Admission | Refusal:
    return asyncio.run(here.login(token))


# -- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ALL)
def test_every_pinned_algorithm_is_verified(alg: str, here: World, page: Site) -> None:
    page.serves(MINE.jwk(alg))
    good = MINE.token(claims(page.url), alg=alg)
    assert failed(login(here, good)) == []
    assert failed(login(here, THEIRS.token(claims(page.url), alg=alg))) == ["signature"]


@pytest.mark.parametrize("alg", [*ALL, "HS256", "none"])
def test_an_algorithm_that_is_not_pinned_is_refused_however_well_it_signs(alg: str, here: World, page: Site) -> None:
    here.trusts(algorithms=("ES512",))
    if alg in ALGORITHMS:
        page.serves(MINE.jwk(alg))
    assert failed(login(here, MINE.token(claims(page.url), alg=alg, secret=b"s")))[0] in ("algorithm", "form")
    assert page.hits == []


def test_an_issuer_that_lists_none_or_hmac_is_not_obeyed(here: World, page: Site) -> None:
    here.trusts(algorithms=("none", "HS256", "HS384"))
    page.serves({"kty": "oct", "k": text(b"s" * 32), "kid": "k"})
    for alg in ("none", "HS256"):
        assert failed(login(here, MINE.token(claims(page.url), alg=alg, secret=b"s" * 32)))[0] in ("algorithm", "form")


HOSTILE: dict[str, Any] = {
    "none": lambda c: MINE.token(c, alg="none"),
    "none, with a real signature": lambda c: MINE.token(c, alg="none", signed_as="RS256"),
    "None in capitals": lambda c: MINE.token(c, alg="NONE", signed_as="RS256"),
    "no signature": lambda c: MINE.token(c).rpartition(".")[0] + ".",
    "HMAC with the public key as PEM": lambda c: MINE.token(c, alg="HS256", secret=MINE.pem()),
    "HMAC with the public key as JWK": lambda c: MINE.token(
        c, alg="HS256", secret=json.dumps(MINE.jwk("RS256")).encode()
    ),
    "HMAC with the modulus": lambda c: MINE.token(c, alg="HS256", secret=MINE.jwk("RS256")["n"].encode()),
    "HMAC with nothing": lambda c: MINE.token(c, alg="HS256", secret=b""),
    "another key, same kid": lambda c: THEIRS.token(c),
    "another key in a jwk header": lambda c: THEIRS.token(
        c, header={"alg": "RS256", "kid": "k", "jwk": THEIRS.jwk("RS256")}
    ),
    "another key in a jku header": lambda c: THEIRS.token(
        c, header={"alg": "RS256", "kid": "k", "jku": c["iss"] + "/theirs"}
    ),
    "another key in an x5u header": lambda c: THEIRS.token(
        c, header={"alg": "RS256", "kid": "k", "x5u": c["iss"] + "/theirs"}
    ),
    "another key in an x5c header": lambda c: THEIRS.token(c, header={"alg": "RS256", "kid": "k", "x5c": ["MII"]}),
    "kid that is a path": lambda c: THEIRS.token(
        c, header={"alg": "HS256", "kid": "../../dev/null"}, signed_as="HS256"
    ),
    "kid that is not there": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "other"}),
    "kid that is a number": lambda c: MINE.token(c, header={"alg": "RS256", "kid": 1}),
    "kid that is giant": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k" * 2000}),
    "an EC algorithm at an RSA key": lambda c: MINE.token(c, alg="ES256"),
    "PS256 under the name RS256": lambda c: MINE.token(c, alg="RS256", signed_as="PS256"),
    "RS512 under the name RS256": lambda c: MINE.token(c, alg="RS256", signed_as="RS512"),
    "crit": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k", "crit": ["exp"], "exp": 1}),
    "empty crit": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k", "crit": []}),
    "b64 false": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k", "b64": False, "crit": ["b64"]}),
    "b64 true": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k", "b64": True}),
    "zip": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k", "zip": "DEF"}),
    "a logout token": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k", "typ": "logout+jwt"}),
    "a DPoP proof": lambda c: MINE.token(c, header={"alg": "RS256", "kid": "k", "typ": "dpop+jwt"}),
    "no alg": lambda c: MINE.token(c, header={"kid": "k"}),
    "alg is a list": lambda c: MINE.token(c, header={"alg": ["RS256"], "kid": "k"}),
    "header is a list": lambda c: MINE.token(c, header=b"[]"),
    "header is not JSON": lambda c: MINE.token(c, header=b"{alg:RS256}"),
    "alg twice": lambda c: MINE.token(c, header=b'{"alg":"none","kid":"k","alg":"RS256"}'),
    "alg twice, escaped": lambda c: MINE.token(c, header=b'{"\\u0061lg":"RS256","kid":"k","alg":"none"}'),
    "aud twice": lambda c: MINE.token(json.dumps(c)[:-1].encode() + b',"aud":"x"}'),
    "a claim twice, deep": lambda c: MINE.token(json.dumps(c)[:-1].encode() + b',"a":{"b":1,"b":2}}'),
    "claims are a list": lambda c: MINE.token(b"[1]"),
    "claims are a text": lambda c: MINE.token(b'"x"'),
    "claims are nothing": lambda c: MINE.token(b"{}"),
    "claims are not UTF-8": lambda c: MINE.token(json.dumps(c).encode() + b"\xff"),
    "claims in UTF-16": lambda c: MINE.token(json.dumps(c).encode("utf-16")),
    "claims behind a byte order mark": lambda c: MINE.token(b"\xef\xbb\xbf" + json.dumps(c).encode()),
    "a lone surrogate": lambda c: MINE.token(json.dumps(c)[:-1].encode() + b',"a":"\\ud800"}'),
    "NaN": lambda c: MINE.token(json.dumps(c)[:-1].encode() + b',"a":NaN}'),
    "exp is infinite": lambda c: MINE.token({**c, "exp": float("inf")}),
    "exp overflows": lambda c: MINE.token(json.dumps({**c, "exp": 0}).replace('"exp": 0', '"exp": 1e999').encode()),
    "exp has 5000 digits": lambda c: MINE.token(
        json.dumps({**c, "exp": 0}).replace('"exp": 0', '"exp": ' + "9" * 5000).encode()
    ),
    "exp is missing": lambda c: MINE.token({**c, "exp": ...} | {"exp": None}),
    "exp is past": lambda c: MINE.token({**c, "exp": int(time.time()) - 31}),
    "nbf is to come": lambda c: MINE.token({**c, "nbf": int(time.time()) + 90}),
    "iat is to come": lambda c: MINE.token({**c, "iat": int(time.time()) + 90}),
    "aud is another": lambda c: MINE.token({**c, "aud": "gw.example.org."}),
    "aud is in another case": lambda c: MINE.token({**c, "aud": "GW.example.org"}),
    "aud is an object": lambda c: MINE.token({**c, "aud": {"gw.example.org": 1}}),
    "aud is empty": lambda c: MINE.token({**c, "aud": []}),
    "iss with a slash more": lambda c: MINE.token({**c, "iss": c["iss"] + "/"}),
    "iss in a list": lambda c: MINE.token({**c, "iss": [c["iss"]]}),
    "iss of a look-alike": lambda c: MINE.token({**c, "iss": c["iss"].replace("127.0.0.1", "127.0.0.1.example.org")}),
    "deep": lambda c: MINE.token(json.dumps(c)[:-1].encode() + b',"a":' + b"[" * 500 + b"]" * 500 + b"}"),
    "deep and unfinished": lambda c: MINE.token(b"[" * 6000),
    "quotes that hide brackets": lambda c: MINE.token(b'"' + b'\\"' * 4000),
    "huge": lambda c: MINE.token({**c, "a": "x" * 16_000}),
    "four parts": lambda c: MINE.token(c) + ".e30",
    "five parts, a JWE": lambda c: MINE.token(c) + ".e30.e30",
    "two parts": lambda c: MINE.token(c).rpartition(".")[0],
    "padded": lambda c: MINE.token(c) + "=",
    "a space before": lambda c: " " + MINE.token(c),
    "a newline behind": lambda c: MINE.token(c) + "\n",
    "a NUL behind": lambda c: MINE.token(c) + "\0",
    "Bearer before": lambda c: "Bearer " + MINE.token(c),
    "not ASCII": lambda c: MINE.token(c)[:-1] + "\u00e9",
    "digits of another script": lambda c: MINE.token(c)[:-1] + "\u0661",
    "not base64": lambda c: "....",
    "JSON serialization": lambda c: json.dumps(
        dict(zip(("protected", "payload", "signature"), MINE.token(c).split("."), strict=True))
    ),
    "nothing": lambda c: "",
    "a lone surrogate in the text": lambda c: MINE.token(c) + "\udcff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_opens_nothing_and_leaves_the_gate_standing(name: str, here: World, page: Site) -> None:
    page.pages["/theirs"] = {"keys": [THEIRS.jwk("RS256")]}
    outcome = login(here, HOSTILE[name](claims(page.url)))
    assert isinstance(outcome, Refusal)
    assert outcome.checks and failed(outcome)
    assert "/theirs" not in page.hits
    assert failed(login(here, MINE.token(claims(page.url)))) == []  # and the honest one still comes in


def test_injected_key_headers_are_ignored_where_the_signature_is_the_issuers(here: World, page: Site) -> None:
    for header in ({"jwk": THEIRS.jwk("RS256")}, {"jku": "https://evil.example.org"}, {"x5t": "x"}, {"unknown": [1]}):
        token = MINE.token(claims(page.url), header={"alg": "RS256", "kid": "k", **header})
        assert failed(login(here, token)) == []
    assert set(page.hits) == {"/.well-known/openid-configuration", "/jwks"}


@pytest.mark.parametrize("typ", ["JWT", "jwt", "JOSE", "at+jwt", "application/at+jwt"])
def test_id_tokens_and_access_tokens_are_taken(typ: str, here: World, page: Site) -> None:
    token = MINE.token(claims(page.url), header={"alg": "RS256", "kid": "k", "typ": typ})
    assert failed(login(here, token)) == []


def test_a_signature_has_one_spelling_only(here: World, page: Site) -> None:
    good = MINE.token(claims(page.url))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(good[-1])
    assert last % 16 == 0  # 256 bytes leave four bits of the last character unused
    outcome = login(here, good[:-1] + alphabet[last + 1])
    assert check(outcome, "form").got.startswith("a part is not canonical base64url")
    assert failed(login(here, good)) == []


def test_a_token_that_is_too_long_is_not_even_parsed() -> None:
    for long in ("x" * (MAX_TOKEN_CHARS + 1), MINE.token({"a": "x" * MAX_TOKEN_CHARS})):
        token, form = read_token(long)
        assert token is None and form.got.startswith("too long")


def test_leeway_is_as_wide_as_the_issuer_says(here: World, page: Site) -> None:
    token = MINE.token(claims(page.url, exp=int(time.time()) - 20, nbf=int(time.time()) + 20, iat=...))
    assert failed(login(here, token)) == []
    here.trusts(leeway_s=5)
    assert failed(login(here, token)) == ["expiry", "not-before"]


@given(st.data())
def test_a_flipped_character_is_never_admitted(data: st.DataObject) -> None:
    good = MINE.token(claims("https://ci.example.org"))
    place = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_.=\u00e9\0"))
    bad = good[:place] + other + good[place + 1 :]
    keys = read_keys(json.dumps({"keys": [MINE.jwk("RS256")]}))
    token, form = read_token(bad)
    assert (token is None) == (not form.passed)
    if token is not None and bad != good:
        assert not all(one.passed for one in check_signature(token, keys))


@given(
    st.text() | st.text('eyJ.[]{}"\\:,0 ', max_size=80) | st.binary().map(lambda b: f"{text(b)}.{text(b)}.{text(b)}")
)
def test_any_text_is_read_or_refused_but_never_an_exception(presented: str) -> None:
    token, form = read_token(presented)
    assert (token is None) == (not form.passed)
    assert form.got.isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abc[]{}"', max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_strict_json_reads_what_everybody_reads(value: object) -> None:
    assert strict_json(json.dumps(value)) == value


def test_strict_json_counts_depth_and_not_brackets() -> None:
    assert strict_json(json.dumps(["[" * 100, "{" * 100, '"[\\"[' * 50])) is not None
    assert strict_json("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert strict_json(json.dumps([[]] * 200)) is not None
    with pytest.raises(ValueError, match="nested"):
        strict_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_hostile_text_costs_little_time() -> None:
    texts = ['"' + '\\"' * 6000 + "[" * 20, "[" * 12_000, '{"a":' * 3000, '"[' * 6000, "\\" * 12_000 + "[" * 20]
    began = time.process_time()
    for hostile in texts:
        with pytest.raises(ValueError):
            strict_json(hostile)
    assert time.process_time() - began < 0.5


@given(st.text() | st.lists(st.text()) | st.integers())
def test_what_is_shown_is_printable_and_short(value: object) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) < 1100


def small_key(bits: int) -> dict[str, str]:
    public = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key().public_numbers()
    return {"kty": "RSA", "kid": "small", "n": number(public.n), "e": number(public.e)}


# -- the key set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},  # 17 bits
        {"kty": "RSA", "n": "!!", "e": "AQAB"},
        {"kty": "RSA", "e": "AQAB"},
        {"kty": "RSA", "n": 5, "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": text(b"\1" * 32), "y": text(b"\1" * 32)},  # not on the curve
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": text(b"\1" * 32)},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        {"kty": ["RSA"]},
        {},
        "text",
        None,
        small_key(1024),
        MINE.jwk("RS256", use="enc"),
        MINE.jwk("RS256", key_ops=["encrypt"]),
        MINE.jwk("RS256", d="AQAB"),
        MINE.jwk("RS256", kid="k" * 200),
        MINE.jwk("RS256", kid="caf\u00e9"),
        MINE.jwk("RS256", kid=7),
    ],
)
@pytest.mark.filterwarnings("ignore:Key size")
def test_a_key_that_cannot_verify_here_is_left_out_and_spoils_nothing(member: object) -> None:
    with pytest.raises(ValueError, match="no usable key"):
        read_keys(json.dumps({"keys": [member]}))
    keys = read_keys(json.dumps({"keys": [member, MINE.jwk("ES256", "good")]}))
    assert [key.kid for key in keys.keys] == ["good"]
    assert len(keys.left_out) == 1


@pytest.mark.parametrize(
    "document", ["", "[]", "{}", '{"keys":{}}', '{"keys":[]}', "null", '{"keys":[],"keys":[]}', "<html>", "[" * 5000]
)
def test_what_is_no_key_set_is_refused(document: str) -> None:
    with pytest.raises(ValueError):
        read_keys(document)


def test_too_many_keys_are_refused_before_they_are_read() -> None:
    with pytest.raises(ValueError, match="at most"):
        read_keys(json.dumps({"keys": [{}] * (MAX_KEYS + 1)}))


def test_the_digest_of_a_set_does_not_depend_on_its_order_or_decoration() -> None:
    one, two = MINE.jwk("RS256", "a"), MINE.jwk("ES256", "b")
    first = read_keys(json.dumps({"keys": [one, two]}))
    second = read_keys(json.dumps({"keys": [{**two, "x5t": "x"}, one, one], "more": 1}))
    assert first.digest == second.digest
    assert first.digest != read_keys(json.dumps({"keys": [one]})).digest


def test_a_kid_is_needed_where_there_are_more_keys_than_one(here: World, page: Site) -> None:
    token = MINE.token(claims(page.url), header={"alg": "RS256"})
    assert failed(login(here, token)) == []
    page.serves(MINE.jwk("RS256"), MINE.jwk("ES256", "e"))
    here.seconds += keysets.RENEW_S + 400
    asyncio.run(settle(here, page))
    assert failed(login(here, token)) == ["key"]


async def settle(here: World, page: Site) -> None:
    """Let a background refresh begin and end."""
    here.access.tick(now_us())
    while here.tasks:
        await asyncio.gather(*here.tasks)


def test_one_kid_for_two_types_is_told_apart_and_for_two_keys_of_a_type_refused(here: World, page: Site) -> None:
    page.serves(MINE.jwk("RS256"), MINE.jwk("ES256"))
    assert failed(login(here, MINE.token(claims(page.url), alg="ES256"))) == []
    page.serves(MINE.jwk("RS256"), THEIRS.jwk("RS256"))
    here.seconds += 1000
    asyncio.run(settle(here, page))
    assert failed(login(here, MINE.token(claims(page.url)))) == ["key"]


def test_a_key_for_one_algorithm_verifies_no_other(here: World, page: Site) -> None:
    page.serves(MINE.jwk("RS256", alg="RS512"))
    assert failed(login(here, MINE.token(claims(page.url)))) == ["key"]
    assert failed(login(here, MINE.token(claims(page.url), alg="RS512"))) == []


# -- keeping it fresh -------------------------------------------------------------------------------------------------


def test_many_logins_at_once_make_one_fetch_and_one_entry(here: World, page: Site) -> None:
    page.pages["/jwks"] = answers(body=json.dumps({"keys": [MINE.jwk("RS256")]}).encode(), delay_s=0.1)
    token = MINE.token(claims(page.url))

    async def crowd() -> list[Admission | Refusal]:
        return await asyncio.gather(*(here.login(token) for _ in range(30)))

    assert not any(failed(outcome) for outcome in asyncio.run(crowd()))
    assert page.hits == ["/.well-known/openid-configuration", "/jwks"]
    (entry,) = here.entries
    assert isinstance(entry, KeySet)
    assert (entry.issuer, entry.kids) == (page.url, ("k",))
    assert entry.digest == read_keys(json.dumps({"keys": [MINE.jwk("RS256")]})).digest


def test_a_login_that_is_given_up_does_not_end_the_fetch_for_the_others(here: World, page: Site) -> None:
    page.pages["/jwks"] = answers(body=json.dumps({"keys": [MINE.jwk("RS256")]}).encode(), delay_s=0.2)
    token = MINE.token(claims(page.url))

    async def one_leaves() -> Admission | Refusal:
        leaving = asyncio.ensure_future(here.login(token))
        staying = asyncio.ensure_future(here.login(token))
        await asyncio.sleep(0.05)
        leaving.cancel()
        return await staying

    assert failed(asyncio.run(one_leaves())) == []
    assert page.fetches() == 1


def test_rotation_is_followed_and_each_set_is_recorded_once(here: World, page: Site) -> None:
    assert failed(login(here, MINE.token(claims(page.url)))) == []
    page.serves(MINE.jwk("RS256"), THEIRS.jwk("RS256", "new"))
    rotated = THEIRS.token(claims(page.url), header={"alg": "RS256", "kid": "new"})
    assert failed(login(here, rotated)) == ["key"]  # asked less than ten seconds ago
    here.seconds += keysets.RENEW_S
    assert failed(login(here, rotated)) == []
    page.serves(THEIRS.jwk("RS256", "new"))  # the old key is withdrawn
    here.seconds += keysets.FRESH_S + 1
    asyncio.run(settle(here, page))
    assert failed(login(here, MINE.token(claims(page.url)))) == ["key"]
    page.serves(MINE.jwk("RS256"))  # and a set that was seen before comes back
    here.seconds += keysets.FRESH_S + 1
    asyncio.run(settle(here, page))
    assert failed(login(here, MINE.token(claims(page.url)))) == []
    assert len([entry for entry in here.entries if isinstance(entry, KeySet)]) == 3


def test_a_set_of_one_key_without_kid_rotates_too(here: World, page: Site) -> None:
    page.serves(MINE.jwk("RS256", None))
    assert failed(login(here, MINE.token(claims(page.url), header={"alg": "RS256"}))) == []
    page.serves(THEIRS.jwk("RS256", None))
    here.seconds += keysets.RENEW_S
    assert failed(login(here, THEIRS.token(claims(page.url), header={"alg": "RS256"}))) == []


def test_made_up_kids_make_at_most_one_fetch_in_ten_seconds(here: World, page: Site) -> None:
    assert failed(login(here, MINE.token(claims(page.url)))) == []
    floods: list[int] = []

    async def flood(rounds: int) -> None:
        tokens = [MINE.token(claims(page.url), header={"alg": "RS256", "kid": f"x{n}"}) for n in range(rounds)]
        floods.append(0)  # each from another host, which may fail 20 times a minute
        source = f"192.0.2.{len(floods)}:40000"
        for outcome in await asyncio.gather(*(here.login(token, source=source) for token in tokens)):
            assert failed(outcome) == ["key"]

    async def half_a_minute() -> None:
        for _ in range(3):
            here.seconds += keysets.RENEW_S
            await flood(20)
            await flood(20)

    asyncio.run(half_a_minute())
    assert page.fetches() == 4
    assert len(here.entries) == 1


def test_an_old_set_is_refreshed_in_the_background_and_no_login_waits(here: World, page: Site) -> None:
    token = MINE.token(claims(page.url))
    assert failed(login(here, token)) == []
    page.pages["/jwks"] = answers(body=json.dumps({"keys": [THEIRS.jwk("RS256")]}).encode(), delay_s=0.3)
    here.seconds += keysets.FRESH_S + 1

    async def both() -> None:
        assert failed(await here.login(token)) == []  # with the old key, while the new set is on its way
        assert here.tasks
        await asyncio.gather(*here.tasks)
        assert failed(await here.login(token)) == ["signature"]

    asyncio.run(both())


def test_an_issuer_that_is_down_stops_nobody_until_its_keys_are_stale(here: World, page: Site) -> None:
    token = MINE.token(claims(page.url))
    assert failed(login(here, token)) == []
    page.pages["/jwks"] = answers(503)
    here.seconds += 3600
    outcome = login(here, token)
    assert failed(outcome) == []
    asyncio.run(settle(here, page))
    here.seconds += 1
    outcome = login(here, token)
    assert failed(outcome) == ["keys"]
    keys = check(outcome, "keys")
    assert "503" in keys.got and "3600 s" in keys.want and keys.mend
    page.serves(MINE.jwk("RS256"))
    assert failed(login(here, token)) == ["keys"]  # asked just now
    here.seconds += keysets.RETRY_S
    assert failed(login(here, token)) == []


def test_keys_withdrawn_at_the_issuer_are_not_kept_alive_by_cutting_the_gateway_off(here: World, page: Site) -> None:
    here.trusts(stale_s=60)
    token = MINE.token(claims(page.url))
    assert failed(login(here, token)) == []
    page.pages.clear()
    here.seconds += 60
    assert failed(login(here, token)) == []
    here.seconds += 1
    assert failed(login(here, token)) == ["keys"]


def test_a_journal_that_fails_makes_keys_unusable(here: World, page: Site) -> None:
    here.journal_fails = True
    assert failed(login(here, MINE.token(claims(page.url)))) == ["keys"]


def test_keys_are_fetched_before_anybody_asks_and_forgotten_with_their_issuer(here: World, page: Site) -> None:
    asyncio.run(settle(here, page))
    assert page.fetches() == 1
    assert failed(login(here, MINE.token(claims(page.url)))) == []
    assert page.fetches() == 1
    here.rules, trusted = replace(here.rules, issuers={}), here.rules
    asyncio.run(settle(here, page))
    here.rules = trusted
    assert failed(login(here, MINE.token(claims(page.url)))) == []
    assert page.fetches() == 2


# -- the way to the issuer --------------------------------------------------------------------------------------------


def fetch(url: str, timeout_s: float = 2.0, ca_file: str = "") -> str:
    return asyncio.run(discovery.fetch_key_set(url, ca_file, timeout_s))


def found(page: Site, **more: Any) -> dict[str, Any]:
    return {"issuer": page.url, "jwks_uri": f"{page.url}/jwks", **more}


@pytest.mark.parametrize(
    "lie",
    [
        {"issuer": "https://accounts.example.org"},
        {"issuer": ["x"]},
        {"issuer": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://192.0.2.1/jwks"},
        {"jwks_uri": "https://user:secret@127.0.0.1/jwks"},
        {"jwks_uri": "//127.0.0.1/jwks"},
        {"jwks_uri": "/jwks"},
        {"jwks_uri": "https://[::1/jwks"},
        {"jwks_uri": "https://127.0.0.1:99999/jwks"},
        {"jwks_uri": "gopher://127.0.0.1"},
        {"jwks_uri": 7},
        {"jwks_uri": None},
    ],
)
def test_discovery_that_lies_is_not_followed(lie: dict[str, Any], page: Site) -> None:
    page.pages["/.well-known/openid-configuration"] = found(page, **lie)
    with pytest.raises(Unavailable) as refusal:
        fetch(page.url)
    assert page.hits == ["/.well-known/openid-configuration"]
    assert "secret" not in str(refusal.value) and refusal.value.mend


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1", "ftp://127.0.0.1", "https://", "https://a@b", "https://a?b", "x", ""]
)
def test_an_issuer_that_is_not_https_or_loopback_is_never_asked(url: str) -> None:
    with pytest.raises(Unavailable, match="of a plain form"):
        fetch(url)


def test_redirects_stay_with_the_host_that_was_asked(page: Site) -> None:
    page.pages["/.well-known/openid-configuration"] = answers(302, Location="/moved")
    page.pages["/moved"] = found(page)
    assert "keys" in json.loads(fetch(page.url))
    with site() as other:
        other.serves(THEIRS.jwk("RS256"))
        leads = [f"{other.url}/jwks", f"http://localhost:{page.port}/moved", "https://example.org/", "//example.org/x"]
        for to in leads:
            page.pages["/jwks"] = answers(302, Location=to)
            with pytest.raises(Unavailable, match="own host"):
                fetch(page.url)
        assert other.hits == []
    page.pages["/jwks"] = answers(302, Location="/jwks")
    with pytest.raises(Unavailable, match="on and on"):
        fetch(page.url)


def test_a_slow_issuer_is_given_up_in_time_however_it_stalls(page: Site) -> None:
    def drip(request: Any) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b" ")
            request.wfile.flush()
            time.sleep(0.02)

    for stall in (answers(delay_s=1.0), drip):
        page.pages["/jwks"] = stall
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer"):
            fetch(page.url, timeout_s=0.2)
        assert time.monotonic() - began < 0.9


@pytest.mark.parametrize(
    "answer",
    [
        answers(body=b" " * (discovery.MAX_BYTES + 1)),
        answers(body=b"\x1f\x8b", Content_Encoding="gzip"),
        answers(404),
        answers(204),
        answers(304),
        answers(body=b"\xff\xfe"),
        answers(302),
    ],
)
def test_answers_that_are_too_big_packed_or_of_another_kind_are_refused(answer: Any, page: Site) -> None:
    page.pages["/jwks"] = answer
    with pytest.raises(Unavailable):
        fetch(page.url)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"<html>", b'{"issuer":1,"issuer":2}', b"[" * 9000])
def test_discovery_that_is_no_document_is_refused(body: bytes, page: Site) -> None:
    page.pages["/.well-known/openid-configuration"] = answers(body=body)
    with pytest.raises(Unavailable):
        fetch(page.url)


def test_an_issuer_that_is_not_there_is_a_clear_check(here: World) -> None:
    here.trusts(url="http://127.0.0.1:1")
    outcome = login(here, MINE.token(claims("http://127.0.0.1:1")))
    assert failed(outcome) == ["keys"]
    assert "cannot be reached" in check(outcome, "keys").got


def test_the_issuers_path_keeps_its_place_before_well_known(page: Site) -> None:
    page.pages["/realms/x/.well-known/openid-configuration"] = {
        "issuer": f"{page.url}/realms/x/",
        "jwks_uri": f"{page.url}/jwks",
    }
    assert "keys" in json.loads(fetch(f"{page.url}/realms/x/"))
    with pytest.raises(Unavailable, match="speaks for"):
        fetch(f"{page.url}/realms/x")


def test_tls_is_verified_against_the_issuers_ca_and_name(tmp_path: Path) -> None:
    ours, other = certificates.authority(tmp_path, "ours"), certificates.authority(tmp_path, "other")
    for host, ca_file, good in (
        ("127.0.0.1", ours.pem, True),
        ("127.0.0.1", other.pem, False),
        ("127.0.0.1", "", False),
        ("issuer.example.org", ours.pem, False),
    ):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificates.certificate(ours, tmp_path, "site", (host,)))
        with site(tls) as page:
            page.serves(MINE.jwk("RS256"))
            if good:
                assert "keys" in json.loads(fetch(page.url, ca_file=str(ca_file)))
                page.pages["/.well-known/openid-configuration"] = found(page, jwks_uri=f"http://127.0.0.1:{page.port}/")
                with pytest.raises(Unavailable, match="https"):  # not to http, not even here
                    fetch(page.url, ca_file=str(ca_file))
            else:
                with pytest.raises(Unavailable, match="certificate"):
                    fetch(page.url, ca_file=str(ca_file))
                assert page.hits == []


@pytest.mark.parametrize("ca_file", ["missing.pem", "/dev/null"])
def test_a_ca_file_that_is_no_use_is_a_clear_refusal(ca_file: str) -> None:
    with pytest.raises(Unavailable):
        fetch("https://127.0.0.1:1", ca_file=ca_file)


def test_an_issuer_without_a_usable_key_is_a_clear_check(here: World, page: Site) -> None:
    page.serves({"kty": "oct", "k": "c2VjcmV0"})
    outcome = login(here, MINE.token(claims(page.url)))
    assert failed(outcome) == ["keys"]
    assert "no usable key" in check(outcome, "keys").got
