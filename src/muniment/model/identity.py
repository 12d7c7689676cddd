"""Who came in, and how that was proved."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class InitiatorKind(Enum):
    """What set the workload going."""

    USER = "user"
    SCHEDULE = "schedule"
    EVENT = "event"
    SYSTEM = "system"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Initiator:
    """What set this run going, as mapped from the token's claims. Empty text: the token did not say."""

    kind: InitiatorKind = InitiatorKind.UNKNOWN
    id: str = ""
    run: str = ""
    attempt: str = ""
    workload: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a login: what was presented, what was wanted, and the mend where it failed."""

    name: str
    passed: bool
    got: str
    want: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an identity was proved.

    method: "oidc" or "api-key"; claims: the allow-listed ones only; token_digest: hex SHA-256 of the token or key as
    presented (committed, never in clear); times are microseconds UTC, 0 where the method has none; keys: leaf hash of
    the issuer's key set that was used, empty for API keys.
    """

    method: str
    issuer: str
    subject: str
    audience: str
    kid: str
    alg: str
    issued_at_us: int
    expires_at_us: int
    token_id: str
    token_digest: str
    claims: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]
    keys: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """A non-human identity as it stands in this session."""

    name: str
    kind: str
    owner: str
    groups: frozenset[str]
    initiator: Initiator
    provenance: Provenance
    version: str  # leaf hash of the identity's manifest version
