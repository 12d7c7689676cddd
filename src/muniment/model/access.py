"""Proof of permission, and the session that cannot exist without it."""

from __future__ import annotations

from dataclasses import dataclass

from muniment.model.identity import Check, Identity
from muniment.model.rules import Target


@dataclass(frozen=True, slots=True)
class Admission:
    """Proof that this identity may open a session at this target. Made only by `services.access`.

    role: the login at the target; grants: names of the grants in force; expires_at_us: when the session must end.
    """

    identity: Identity
    target: Target
    role: str
    database: str
    grants: tuple[str, ...]
    rules_version: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A login that was refused. The outside learns `reference` and nothing else."""

    reference: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """One admitted connection. target_pid: the backend's process at the target, 0 where the protocol has none."""

    id: str
    admission: Admission
    client_address: str
    client_name: str
    tls: str
    target_pid: int
    opened_at_us: int
