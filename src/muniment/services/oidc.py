"""What a token says, and whether that is what was asked for: the claims of RFC 7519, conditions, groups, initiator.

No IO and no clock in here: `now_us` is a parameter. Every question that is asked of a token becomes a `Check`, so that
`muniment logins show REF` can list all of them. `jose` reads the token and proves it; a login has both from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite

from muniment.model.identity import Check, Initiator, InitiatorKind
from muniment.model.rules import Issuer
from muniment.services.jose import Token, check_algorithm, check_signature, read_token, shown

__all__ = [
    "Token",
    "check_algorithm",
    "check_claims",
    "check_conditions",
    "check_signature",
    "claim_text",
    "groups_in",
    "initiator_in",
    "kept",
    "read_token",
    "seconds",
    "shown",
    "when",
]

MAX_KEPT_CHARS = 1024  # of a claim that is kept
MAX_SECONDS = 10**11  # year 5138; a NumericDate in milliseconds is above it
MAX_GROUPS = 200


def seconds(value: object) -> int:
    """A NumericDate as microseconds; 0 for anything that is not one (RFC 7519, section 2)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return 0
    return int(value * 1_000_000) if 0 < value < MAX_SECONDS else 0


def check_claims(token: Token, issuer: Issuer, audience: str, now_us: int) -> list[Check]:
    """The registered claims: iss, aud, sub, exp, nbf, iat. Each is asked, whatever became of the others."""
    claims = token.claims
    leeway = issuer.leeway_s * 1_000_000
    heard = claims.get("aud", "")
    audiences = heard if isinstance(heard, list) else [heard]
    subject = claims.get("sub")
    exp, nbf, iat = (seconds(claims.get(name)) for name in ("exp", "nbf", "iat"))
    now = f"it is {when(now_us)}, leeway {issuer.leeway_s} s"
    early = "the issuer's clock or this machine's is wrong: set both by NTP"
    return [
        Check("issuer", token.iss == issuer.url, shown(token.iss), issuer.url, "take the token from this issuer"),
        Check(
            "audience",
            audience in audiences and all(isinstance(one, str) for one in audiences),
            shown(heard) or "none",
            audience,
            f"ask the issuer for a token with audience {audience}",
        ),
        Check(
            "subject",
            isinstance(subject, str) and subject != "",
            shown(subject or "none"),
            "a text in `sub`",
            "have the issuer say who the token is for",
        ),
        Check(
            "expiry",
            exp > 0 and now_us < exp + leeway,
            when(exp) if exp else f"exp {shown(claims.get('exp', 'none'))}",
            f"a time to come; {now}",
            "get a new token just before connecting; it must be valid when the session opens, not longer",
        ),
        Check(
            "not-before",
            "nbf" not in claims or (nbf > 0 and nbf <= now_us + leeway),
            when(nbf) if nbf else shown(claims.get("nbf", "none")),
            f"none or a time that has come; {now}",
            early,
        ),
        Check(
            "issued-at",
            "iat" not in claims or (iat > 0 and iat <= now_us + leeway),
            when(iat) if iat else shown(claims.get("iat", "none")),
            f"none or a time that has come; {now}",
            early,
        ),
    ]


def when(us: int) -> str:
    """Microseconds UTC as people read them."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def claim_text(value: object) -> str | None:
    """What a condition compares with: a text as it is; a whole number and true or false as their JSON text.

    None, which equals nothing: null, fractions, arrays and objects. A list that holds the wanted text does not match:
    "is one of" and "is" are different promises.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else None


def check_conditions(claims: Mapping[str, object], match: tuple[tuple[str, str], ...], where: str) -> list[Check]:
    """Every claim condition of an Issuer or a login binding, compared exactly. where: the document, for the mend."""
    return [
        Check(
            f"claim {name}",
            name in claims and claim_text(claims[name]) == want,
            shown(claims[name]) if name in claims else "none",
            want,
            f"run the workload from where {where} expects it, or change `match` there",
        )
        for name, want in match
    ]


def groups_in(claims: Mapping[str, object], name: str, only: frozenset[str]) -> tuple[frozenset[str], Check]:
    """The groups that a token gives, as far as the identity lets it. A group outside `only` grants nothing."""
    value = claims.get(name, [])
    said = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    given = frozenset(group for group in said if isinstance(group, str) and group in only)
    want = f"claim {name}: " + (", ".join(sorted(only)) or "none")
    return given, Check("groups", True, shown(said[:MAX_GROUPS]) if said else "none", want)


def initiator_in(claims: Mapping[str, object], mapping: tuple[tuple[str, str], ...]) -> Initiator:
    """What set the run going, by the issuer's map: field -> claim name, or a literal behind "="."""
    said: dict[str, str] = {}
    for field, source in mapping:
        text = source[1:] if source.startswith("=") else claim_text(claims.get(source))
        said[field] = (text or "")[:MAX_KEPT_CHARS]
    kinds = {kind.value: kind for kind in InitiatorKind}
    return Initiator(
        kinds.get(said.get("kind", ""), InitiatorKind.UNKNOWN),
        said.get("id", ""),
        said.get("run", ""),
        said.get("attempt", ""),
        said.get("workload", ""),
    )


def kept(claims: Mapping[str, object], names: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """The allow-listed claims as (name, text), sorted; other values than texts as JSON."""
    texts = []
    for name in sorted(names & claims.keys()):
        value = claim_text(claims[name])
        texts.append((name, (value if value is not None else json.dumps(claims[name]))[:MAX_KEPT_CHARS]))
    return tuple(texts)
