"""What every connection of the wire shares: the services behind it, and the bookkeeping of who is connected."""

from __future__ import annotations

import hmac
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from muniment.model.exchange import Catalog
from muniment.model.rules import Rules
from muniment.services.access import Access
from muniment.services.gate import Gate
from muniment.services.sessions import Sessions
from muniment.store.keys import Keys

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


@dataclass(slots=True)
class Arithmetic:
    """Connections since the start: accepted = rejected + opened + still logging in; opened - closed = open."""

    accepted: int = 0
    rejected: int = 0
    opened: int = 0
    closed: int = 0


class Cancellable(Protocol):
    """Who can be asked to cancel what runs."""

    def cancel(self) -> None:
        """Cancel what runs now, if anything does."""


class CatalogSource(Protocol):
    """Where a database's names come from."""

    async def get(self, target: str, database: str, role: str) -> Catalog:
        """The catalogue, at most 30 s old."""

    async def fresh(self, target: str, database: str, role: str, than: Catalog | None) -> Catalog:
        """One that was loaded later than `than`."""


@dataclass(slots=True)
class Door:
    """The services and limits of the wire. tls: what we show; plain_ok: listeners on loopback may take a password in
    the clear; login_s: deadline for a login; refuse: why no session may begin now, empty when it may."""

    access: Access
    gate: Gate
    sessions: Sessions
    keys: Keys
    rules: Callable[[], Rules]
    catalogs: CatalogSource
    evidence: Path
    now_us: Callable[[], int]
    spawn: Spawn
    tls: Callable[[], ssl.SSLContext | None]
    plain_ok: bool
    login_s: float
    refuse: Callable[[], str]
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    cancels: dict[int, tuple[int, Cancellable]] = field(default_factory=dict)
    logging_in: Counter[str] = field(default_factory=Counter)  # connections by address that are not logged in yet
    connected: Counter[str] = field(default_factory=Counter)  # sessions by target, from their admission on

    def cancel(self, pid: int, secret: int) -> None:
        """A cancel request came. Says nothing to anybody about whether its key was right."""
        found = self.cancels.get(pid)
        wanted = found[0] if found is not None else 0
        same = hmac.compare_digest(wanted.to_bytes(4, "big", signed=True), secret.to_bytes(4, "big", signed=True))
        if found is not None and same:
            found[1].cancel()
