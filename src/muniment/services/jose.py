"""Tokens and key sets as they arrive, and whether a key of the issuer signed this token: RFC 7515, 7517, RFC 8725.

Home of joserfc. No IO in here. What the claims say is `oidc`'s; nothing of them is believed before `check_signature`.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jwk, jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel

from muniment.model.identity import Check
from muniment.model.rules import Issuer

MAX_TOKEN_CHARS = 16 << 10  # CI tokens have about 2,000
MAX_DEPTH = 16  # containers inside containers; real claims have 3
MAX_KEYS = 64  # keys of one issuer
MAX_KID_CHARS = 128
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192  # less is weak, more is a way to burn our time
MAX_SHOWN_CHARS = 160  # of a value in a check

# The signature algorithms that can be allowed at all, alg -> (kty, crv): public keys only, never `none`, never HMAC.
ALGORITHMS: dict[str, tuple[str, str]] = {
    **{f"{family}{bits}": ("RSA", "") for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
TYPES = ("", "jwt", "jose", "at+jwt")  # of the `typ` header; anything else is another kind of token (RFC 8725, 3.11)

_SEGMENT = re.compile(r"[A-Za-z0-9_-]*\Z")
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # always matches at a quote: linear on hostile text
_SECRET_LIKE = re.compile(r"eyJ[A-Za-z0-9_.-]{16,}|mk_[A-Za-z0-9]+_[A-Za-z0-9]{8,}")


@dataclass(frozen=True, slots=True)
class Key:
    """One public key of an issuer. alg: the only one it may be used with, empty for any that fits."""

    kid: str
    type: tuple[str, str]
    alg: str
    jwk: jwk.Key


@dataclass(frozen=True, slots=True)
class Keys:
    """An issuer's key set as read. digest: hex SHA-256 of `text`, its canonical form; left_out: why keys are not in."""

    keys: tuple[Key, ...]
    digest: str
    text: str
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A token as presented: parsed, nothing proved."""

    text: str
    alg: str
    kid: str
    iss: str
    claims: Mapping[str, object]


def shown(value: object) -> str:
    """A value as an operator may see it: printable, bounded, and never something that looks like a secret."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = _SECRET_LIKE.sub("[looks like a secret: withheld]", text[: 4 * MAX_SHOWN_CHARS])
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."


def strict_json(text: str) -> Any:
    """Read JSON that has one reading only. Raises ValueError on duplicate names, depth over MAX_DEPTH, NaN, Infinity,
    lone surrogates.

    Source: RFC 8725, section 2.4 and RFC 8259, section 4: what two parsers read differently is an attack.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH:
        depth = deepest = 0
        for mark in re.findall(r"[\[\]{}]", _STRINGS.sub("", text)):
            depth += 1 if mark in "[{" else -1
            deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
    value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return read


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _decode(segment: str) -> bytes:
    """Exact base64url: no padding, no other characters, no stray bits."""
    if not _SEGMENT.match(segment):
        raise ValueError("a part is not base64url")
    data = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if urlsafe_b64encode(data).rstrip(b"=").decode() != segment:
        raise ValueError("a part is not canonical base64url")
    return data


def read_token(text: str) -> tuple[Token | None, Check]:
    """Parse a compact JWS. Nothing in the result is proved; only alg, kid and iss may steer what is asked next."""
    want = f"header.claims.signature, at most {MAX_TOKEN_CHARS} characters"
    mend = "present the ID token or JWT access token itself, unchanged and alone"

    def bad(what: str) -> tuple[None, Check]:
        return None, Check("form", False, f"{what} ({len(text)} characters)", want, mend)

    if len(text) > MAX_TOKEN_CHARS:
        return bad("too long")
    parts = text.split(".")
    if len(parts) != 3 or not all(parts):
        return bad("not three parts")
    try:
        header, claims = (strict_json(_decode(part).decode("utf-8")) for part in parts[:2])
        _decode(parts[2])
    except (ValueError, RecursionError, binascii.Error) as why:
        # a JSON error's own text may quote what was presented: only our own words are shown
        return bad(str(why) if type(why) is ValueError else "a part is not base64url of JSON in UTF-8")
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return bad("a part is not a JSON object")
    for name in ("crit", "b64", "zip", "enc"):
        if name in header:
            return bad(f"header {name!r} is not supported")
    alg, kid, typ, iss = header.get("alg"), header.get("kid", ""), header.get("typ", ""), claims.get("iss", "")
    if not isinstance(alg, str) or not isinstance(kid, str) or not isinstance(typ, str):
        return bad("alg, kid or typ is not a text")
    if typ.lower().removeprefix("application/") not in TYPES:
        return bad(f"typ {shown(typ)!r} is another kind of token")
    if len(kid) > MAX_KID_CHARS:
        return bad("kid is too long")
    token = Token(text, alg, kid, iss if isinstance(iss, str) else "", claims)
    return token, Check("form", True, f"a JWT of {len(text)} characters", want)


def read_keys(text: str) -> Keys:
    """Read a JWK Set. Keys that cannot verify a signature here are left out; raises ValueError if none can.

    Left out: other types and uses, weak or giant RSA, anything symmetric or private (a published private key proves
    nothing). Source: RFC 7517, section 5.
    """
    document = strict_json(text)
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("no list `keys` in it")
    if len(members) > MAX_KEYS:
        raise ValueError(f"{len(members)} keys, at most {MAX_KEYS}")
    found: dict[str, Key] = {}
    left_out = []
    for place, member in enumerate(members):
        why = _unfit(member)
        if not why:
            parts = {name: member[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in member}
            try:
                key = jwk.import_key(parts)
                why = _unfit_size(key)
            except (JoseError, ValueError, TypeError) as broken:
                why = f"not a valid key ({type(broken).__name__})"
            else:
                public = json.dumps(
                    {**parts, **{name: member[name] for name in ("kid", "alg") if member.get(name)}},
                    sort_keys=True,
                    separators=(",", ":"),
                )
                if not why:
                    kind = (member["kty"], member.get("crv", ""))
                    found[public] = Key(member.get("kid", ""), kind, member.get("alg", ""), key)
        if why:
            left_out.append(f"key {place}: {why}")
    if not found:
        raise ValueError("no usable key in it" + "".join(f"; {why}" for why in left_out[:3]))
    canonical = "[" + ",".join(sorted(found)) + "]"
    keys = tuple(found[public] for public in sorted(found))
    return Keys(keys, hashlib.sha256(canonical.encode()).hexdigest(), canonical, tuple(left_out))


def _unfit(member: object) -> str:
    if not isinstance(member, dict):
        return "not an object"
    texts = [member.get(name, "") for name in ("kty", "kid", "alg", "crv", "use")]
    if not all(isinstance(value, str) for value in texts):
        return "a member is not a text"
    kty, kid, _, crv, use = texts
    if (kty, crv) not in set(ALGORITHMS.values()):
        return f"type {shown(kty)} {shown(crv)} is not used"
    if use not in ("", "sig"):
        return "not for signatures"
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return "not for verifying"
    if {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & member.keys():
        return "its private part is published"
    if len(kid) > MAX_KID_CHARS or not (kid.isascii() and kid.isprintable()):
        return "its kid is too long or not plain ASCII"
    return ""


def _unfit_size(key: jwk.Key) -> str:
    if isinstance(key, jwk.RSAKey):
        bits = key.public_key.key_size
        if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
            return f"{bits} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}"
    return ""


class _Pinned(jws.JWSRegistry):
    """joserfc with exactly one algorithm and bounds that fit real tokens; unknown headers are ignored (RFC 7515, 4)."""

    max_header_length = MAX_TOKEN_CHARS
    max_payload_length = MAX_TOKEN_CHARS
    max_signature_length = 2048

    def __init__(self, alg: str) -> None:
        super().__init__(algorithms=[alg], strict_check_header=False)

    def get_alg(self, name: str) -> JWSAlgModel:
        # the base class warns about the name "EdDSA"; which names are allowed is decided here and nowhere else
        if self.allowed is None or name not in self.allowed or name not in ALGORITHMS:
            raise JoseError("not the pinned algorithm")
        return self.algorithms[name]


def check_algorithm(token: Token, issuer: Issuer) -> Check:
    """The token's algorithm is one that this issuer is pinned to."""
    allowed = [alg for alg in issuer.algorithms if alg in ALGORITHMS]
    mend = "have the issuer sign with one of these, or list its algorithm in the Issuer (never none or HS*)"
    return Check("algorithm", token.alg in allowed, shown(token.alg), " or ".join(allowed), mend)


def check_signature(token: Token, keys: Keys) -> list[Check]:
    """Find the one key that the token names and verify. [key] when there is no such key, else [key, signature]."""
    want = "one key of the issuer: " + ", ".join(shown(key.kid or "(no kid)") for key in keys.keys[:5])
    fitting = [
        key for key in keys.keys if ALGORITHMS.get(token.alg) == key.type and (not key.alg or key.alg == token.alg)
    ]
    named = [key for key in fitting if key.kid == token.kid] if token.kid else fitting
    if not token.kid and len(keys.keys) > 1:
        mend = "the issuer has more than one key: its tokens must carry `kid`"
        return [Check("key", False, "no kid", want, mend)]
    if len(named) != 1:
        known = any(key.kid == token.kid for key in keys.keys) if token.kid else bool(keys.keys)
        got = f"kid {shown(token.kid)}" if token.kid else "no kid"
        if len(named) > 1:
            got += ", which names several keys"
        elif known:
            got += f", which is not a key for {shown(token.alg)}"
        mend = "a token of another issuer or an older key? get a new token; a new key is known 10 s after its first use"
        return [Check("key", False, got, want, mend)]
    try:
        jws.deserialize_compact(token.text, named[0].jwk, registry=_Pinned(token.alg))
        good = True
    except (JoseError, ValueError):
        good = False
    mend = "the token was changed on its way or signed by somebody else: get a new one from the issuer"
    return [
        Check("key", True, f"kid {shown(named[0].kid)}", want),
        Check("signature", good, "valid" if good else "not made by this key", "made by the issuer's key", mend),
    ]
