"""Everything that the evidence log can hold: one class a kind, each field public or committed.

A public field stands readable in the leaf (no personal data, no values). A committed field stands there only as a
salted commitment; its value is in the sealed payload. Times are microseconds UTC. An empty text or tuple is left out
of the leaf.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar


def public(default: Any = "") -> Any:
    """A field that anyone may read."""
    return field(default=default, metadata={"public": True})


def committed(default: Any = "") -> Any:
    """A field of which the leaf holds only a commitment. `str` or `bytes`."""
    return field(default=default, metadata={"public": False})


@dataclass(frozen=True, slots=True)
class Entry:
    """Base of all kinds."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class InstanceStart(Entry):
    """A gateway process began to write this journal."""

    kind: ClassVar[str] = "instance.start"
    software: str = public()
    boot: str = public()
    recovered: int = public(0)  # exchanges whose outcome the previous run did not live to write


@dataclass(frozen=True, slots=True)
class InstanceStop(Entry):
    """It ended in order."""

    kind: ClassVar[str] = "instance.stop"
    reason: str = public()


@dataclass(frozen=True, slots=True)
class InstanceRecover(Entry):
    """What a start found behind the last run: journal lines cut (torn, never released), sessions and exchanges
    left open."""

    kind: ClassVar[str] = "instance.recover"
    torn_bytes: int = public(0)
    sessions: tuple[str, ...] = public(())
    exchanges: tuple[str, ...] = public(())  # "session:n"
    boot: str = public()


@dataclass(frozen=True, slots=True)
class InstanceFail(Entry):
    """Something that evidence depends on failed or is about to (disk, journal)."""

    kind: ClassVar[str] = "instance.fail"
    what: str = public()


@dataclass(frozen=True, slots=True)
class Heartbeat(Entry):
    """The arithmetic of connections since the start: accepted = rejected + opened; opened - closed = open."""

    kind: ClassVar[str] = "heartbeat"
    accepted: int = public(0)
    rejected: int = public(0)
    opened: int = public(0)
    closed: int = public(0)
    open: int = public(0)


@dataclass(frozen=True, slots=True)
class DocumentVersion(Entry):
    """One document of an apply came into force or was removed. document: Kind/name; digest: hex SHA-256 of its
    canonical form."""

    kind: ClassVar[str] = "document"
    document: str = public()
    version: int = public(0)
    digest: str = public()
    removed: bool = public(False)
    text: str = committed()


@dataclass(frozen=True, slots=True)
class RulesApply(Entry):
    """An apply: the whole set's digest and who asked (asserted: the name is not proved)."""

    kind: ClassVar[str] = "rules"
    version: int = public(0)
    digest: str = public()
    documents: tuple[str, ...] = public(())  # "Kind/name=leaf hash"
    asserted_by: str = committed()


@dataclass(frozen=True, slots=True)
class RulesActive(Entry):
    """This instance swapped its snapshot. declared: one "grant|identity or @group|target|verbs|resources|objects"
    a line of every grant. A set that does not fit in one leaf goes on in the next `rules.active` of the journal."""

    kind: ClassVar[str] = "rules.active"
    version: int = public(0)
    digest: str = public()
    apply: str = public()  # leaf hash of the apply
    declared: tuple[str, ...] = public(())
    basics: str = public()  # hex SHA-256 of log/basics/<digest>.json, the published list that is in force
    more: bool = public(False)  # the next rules.active of this journal holds further lines of this snapshot


@dataclass(frozen=True, slots=True)
class KeySet(Entry):
    """An issuer's key set was seen for the first time. kids: key ids; digest: hex SHA-256 of the canonical set."""

    kind: ClassVar[str] = "jwks"
    issuer: str = public()
    kids: tuple[str, ...] = public(())
    digest: str = public()
    keys: str = committed()


@dataclass(frozen=True, slots=True)
class CredentialIssued(Entry):
    """An API key was issued or revoked; never the key."""

    kind: ClassVar[str] = "credential"
    event: str = public()  # issued | revoked
    credential: str = public()  # its id
    identity: str = public()
    expires_us: int = public(0)


@dataclass(frozen=True, slots=True)
class AuthFail(Entry):
    """Refused logins from one source in one minute."""

    kind: ClassVar[str] = "auth.fail"
    count: int = public(1)
    reasons: tuple[str, ...] = public(())  # names of the checks that failed
    target: str = public()
    references: tuple[str, ...] = public(())
    source: str = committed()
    detail: str = committed()


@dataclass(frozen=True, slots=True)
class SessionOpen(Entry):
    """An admitted session; durable before the first byte to the target. *_ref: leaf hashes of the versions in
    force."""

    kind: ClassVar[str] = "session.open"
    ses: str = public()
    identity: str = public()
    identity_ref: str = public()
    groups: tuple[str, ...] = public(())
    target: str = public()
    protocol: str = public()
    role: str = public()
    database: str = public()
    grants: tuple[str, ...] = public(())
    rules: int = public(0)
    method: str = public()
    iss: str = public()
    aud: str = public()
    alg: str = public()
    kid: str = public()
    iat: int = public(0)
    exp: int = public(0)
    keys: str = public()
    checks: tuple[str, ...] = public(())
    initiator: str = public()  # kind
    tls: str = public()
    expires_us: int = public(0)
    sub: str = committed()
    claims: str = committed()
    token: str = committed()  # digest of the token
    jti: str = committed()
    initiator_id: str = committed()
    run: str = committed()
    attempt: str = committed()
    workload: str = committed()
    client: str = committed()
    source: str = committed()


@dataclass(frozen=True, slots=True)
class SessionTarget(Entry):
    """The target let us in: its process id, and what it says it is."""

    kind: ClassVar[str] = "session.target"
    ses: str = public()
    pid: int = public(0)
    server: str = public()
    tls: str = public()


@dataclass(frozen=True, slots=True)
class CatalogueRead(Entry):
    """The gateway read the names of a database for itself, over a connection of its own with this role."""

    kind: ClassVar[str] = "catalogue"
    target: str = public()
    database: str = public()
    role: str = public()
    pid: int = public(0)
    relations: int = public(0)
    digest: str = public()  # hex SHA-256 of what the target answered


@dataclass(frozen=True, slots=True)
class SessionClose(Entry):
    """A session's end. exchanges: last n; frames: chunks of its recording; recording: hex SHA-256 of the stored file;
    shown: hex root over the plaintext chunks; originals*: the same for the sealed stream, empty where there is none.
    """

    kind: ClassVar[str] = "session.close"
    ses: str = public()
    reason: str = public()
    exchanges: int = public(0)
    frames: int = public(0)
    recording: str = public()
    shown: str = public()
    originals: str = public()
    original: str = public()


@dataclass(frozen=True, slots=True)
class Request(Entry):
    """One exchange as it was judged; durable before release. touches: "verb kind name"; decision: allow | deny |
    hold."""

    kind: ClassVar[str] = "request"
    ses: str = public()
    n: int = public(0)
    phase: str = public()  # prepare | execute
    decision: str = public()
    rule: str = public()
    rules: int = public(0)
    touches: tuple[str, ...] = public(())
    traits: tuple[str, ...] = public(())
    complete: bool = public(True)
    reader: str = public()
    approval: str = public()  # leaf hash of the approval that released it
    redacted: bool = public(False)  # the statement is kept with its literals replaced
    statement: str = committed()
    parameters: bytes = committed(b"")
    why: str = committed()


@dataclass(frozen=True, slots=True)
class Response(Entry):
    """How exchanges ended, up to 64 a line. results: "session:n:status:rows:bytes:code:tag:class=count,…"."""

    kind: ClassVar[str] = "response"
    results: tuple[str, ...] = public(())


@dataclass(frozen=True, slots=True)
class ApprovalRequest(Entry):
    """A question was put to people. bound: hex digest of identity, target, statement and parameters."""

    kind: ClassVar[str] = "approval.request"
    approval: str = public()
    ses: str = public()
    n: int = public(0)
    identity: str = public()
    target: str = public()
    rule: str = public()
    approvers: str = public()
    count: int = public(1)
    expires_us: int = public(0)
    bound: str = public()
    question: str = committed()
    statement: str = committed()


@dataclass(frozen=True, slots=True)
class ApprovalDecide(Entry):
    """A decision on a question. decision: approve | deny (signed by `person`), expire | withdraw | use (no person).

    document: the exact text that was signed; signature: its armoured SSH signature; key: the public key's line.
    """

    kind: ClassVar[str] = "approval.decide"
    approval: str = public()
    request: str = public()  # leaf hash of the question
    decision: str = public()
    person: str = public()
    person_ref: str = public()  # leaf hash of the Person's version
    key: str = public()
    document: str = public()
    signature: str = public()
    ses: str = public()
    n: int = public(0)
    reason: str = committed()


@dataclass(frozen=True, slots=True)
class EvidenceView(Entry):
    """Somebody read evidence. who is asserted unless it was proved."""

    kind: ClassVar[str] = "evidence.view"
    what: str = public()  # show | replay | export | verify | login
    object: str = public()
    who: str = committed()


@cache
def _split(kind: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = fields(kind)
    return (
        tuple(f.name for f in names if f.metadata["public"]),
        tuple(f.name for f in names if not f.metadata["public"]),
    )


def header(entry: Entry) -> dict[str, Any]:
    """The readable part: kind and every public field that is not empty."""
    shown: dict[str, Any] = {"kind": entry.kind}
    for name in _split(entry.__class__)[0]:  # type: ignore[arg-type]
        value = getattr(entry, name)
        if value != "" and value != ():
            shown[name] = list(value) if isinstance(value, tuple) else value
    return shown


def secrets(entry: Entry) -> dict[str, bytes]:
    """The committed part: every committed field that is not empty, as bytes (text as UTF-8)."""
    hidden: dict[str, bytes] = {}
    for name in _split(entry.__class__)[1]:  # type: ignore[arg-type]
        value = getattr(entry, name)
        if value:
            hidden[name] = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return hidden
