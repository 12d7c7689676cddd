"""The rules in force, as frozen nouns: what `judge.manifests` makes of the documents that people write."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Durability(Enum):
    """When an exchange's record counts as kept: on the disk, or with the operating system."""

    DISK = "disk"
    PROCESS = "process"
    MIXED = "mixed"  # disk for anything that is not a plain read, process for plain reads (the default)


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is read from when it is needed; never the secret. kind: "env" or "file"."""

    kind: str
    where: str


@dataclass(frozen=True, slots=True)
class Selector:
    """Which targets a rule is for: by name, or by labels that must all be equal; both empty: every target."""

    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Issuer:
    """A token issuer that is trusted. url: exact `iss`; match: claims every token must have; audiences: empty means
    the deployment's name; initiator: field of `Initiator` -> claim name (kind may be a literal "=schedule").
    discovery: where the metadata is, if not under `url`; ca: PEM text's file, empty for the system's roots.
    """

    name: str
    url: str
    algorithms: tuple[str, ...] = ("RS256", "ES256", "PS256", "EdDSA")
    match: tuple[tuple[str, str], ...] = ()
    initiator: tuple[tuple[str, str], ...] = ()
    keep: tuple[str, ...] = ()
    ca_file: str = ""
    leeway_s: int = 30
    stale_s: int = 3600
    audience: str = ""


@dataclass(frozen=True, slots=True)
class OidcLogin:
    """A binding of an identity to an issuer's tokens with these exact claims."""

    issuer: str
    match: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ApiKeyLogin:
    """The identity may be proved with an API key that `muniment identities key` issued. max_age_s: a key's life."""

    max_age_s: int


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """An identity as registered. groups_claim: "" where the token gives none; groups_only: what it may give."""

    name: str
    kind: str
    owner: str
    purpose: str
    logins: tuple[OidcLogin | ApiKeyLogin, ...]
    deputy: str = ""
    ticket: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    expires_at_us: int = 0  # 0: never
    groups: frozenset[str] = frozenset()
    groups_claim: str = ""
    groups_only: frozenset[str] = frozenset()
    max_age_s: int = 4 * 3600
    idle_s: int = 15 * 60
    parallel: int = 10
    notice: bool = True


@dataclass(frozen=True, slots=True)
class Role:
    """A login at the target. secret: None where the target asks for none (trust)."""

    name: str
    secret: SecretRef | None


@dataclass(frozen=True, slots=True)
class Target:
    """A thing that is reached. tls: disable | require | verify-ca | verify-full; ca_file: PEM; port 0: none of its
    own."""

    name: str
    protocol: str
    host: str
    port: int
    tls: str
    roles: tuple[Role, ...]
    labels: tuple[tuple[str, str], ...] = ()
    ca_file: str = ""
    listen_port: int = 0
    durability: Durability = Durability.MIXED
    connections: int = 100


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One line of a grant. resources: globs over a touch's name; objects: kinds of object, empty means any."""

    verbs: frozenset[str]
    resources: tuple[str, ...]
    objects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Grant:
    """What an identity or a group may do at a target."""

    name: str
    identity: str  # one of identity and group is empty
    group: str
    target: Selector
    role: str
    databases: tuple[str, ...]
    allow: tuple[AllowRule, ...]
    basics: str = "client"  # "client" | "none"
    ticket: str = ""
    expires_at_us: int = 0
    hold_in_transaction: bool = False


@dataclass(frozen=True, slots=True)
class GuardRule:
    """One line of a guard's deny or hold; every part that is set must fit. message: shown to the client."""

    verbs: frozenset[str]
    objects: frozenset[str] = frozenset()
    resources: tuple[str, ...] = ()
    traits: frozenset[str] = frozenset()
    message: str = ""
    approvers: str = ""  # group; a hold has one
    count: int = 1
    within_s: int = 1800


@dataclass(frozen=True, slots=True)
class Guard:
    """Stands over every grant."""

    name: str
    target: Selector
    deny: tuple[GuardRule, ...] = ()
    hold: tuple[GuardRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Mask:
    """What is protected. columns: class -> globs over schema.table.column ("*.ssn" is any table's ssn);
    detect: classes found by value; show: class -> redact | last4 | first6-last4 | pseudonym | null; original: seal |
    forget.
    """

    name: str
    target: Selector
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    detect: tuple[str, ...] = ()
    show: tuple[tuple[str, str], ...] = ()
    original: str = "seal"


@dataclass(frozen=True, slots=True)
class Person:
    """An approver, auditor or operator. keys: public keys in OpenSSH's one-line form."""

    name: str
    email: str
    groups: frozenset[str]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """One immutable snapshot of everything in force. version: 0 before the first apply; digest: hex SHA-256 of the
    canonical documents; refs: "Kind/name" -> leaf hash of that document's version.
    """

    version: int = 0
    digest: str = ""
    issuers: dict[str, Issuer] = field(default_factory=dict)
    identities: dict[str, IdentityRule] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    guards: dict[str, Guard] = field(default_factory=dict)
    masks: dict[str, Mask] = field(default_factory=dict)
    persons: dict[str, Person] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


def selects(selector: Selector, target: Target) -> bool:
    """Whether a rule with this selector is for this target."""
    if selector.name:
        return selector.name == target.name
    return set(selector.labels) <= set(target.labels)
