"""Refused logins: a reference for the outside, a row for the operator, and evidence counted per source and minute."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from muniment.model.access import Refusal
from muniment.model.entries import AuthFail
from muniment.model.errors import Unavailable
from muniment.model.identity import Check
from muniment.services.jose import shown
from muniment.services.keysets import Append
from muniment.store.logins import LoginRow, Logins

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # what people do not misread on the telephone; 40 bits in eight
MINUTE_US = 60_000_000
MAX_SOURCES = 1_000  # (minute, source, target) kept in memory; beyond it they are counted as "other"
MAX_REFERENCES = 20  # of one aggregate
MAX_DETAILS = 20
MAX_WAITING = 1_000  # rows not yet in the database; beyond it a refusal has its reference and its count, and no row
WRITE_S = 2.0  # how long a refusal waits for its row: the database is never a reason to keep a stranger connected

MAX_FAILED = 20  # refused logins of one source and name that are checked in a minute; then they are refused unchecked
FAILED_S = 60.0
DELAY_S = 1.0  # how long an unchecked one waits for its answer
MAX_KEPT = 10_000  # sources and names that are counted; beyond it the oldest are forgotten

_log = logging.getLogger("muniment.access")


@dataclass(slots=True)
class _Aggregate:
    count: int = 0
    reasons: set[str] = field(default_factory=set)
    references: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Failed:
    since: float
    count: int = 0
    reference: str = ""


class Attempts:
    """Who has been refused too often lately. A source is an address; names that are no identity count as one, so that
    guesses at names are bounded together and a job with a stale token does not shut out its neighbours."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[tuple[str, str], _Failed] = {}

    def spent(self, source: str, name: str) -> bool:
        """Whether the next login of this source under this name is refused unchecked."""
        found = self._failed.get((source, name))
        return found is not None and self._clock() - found.since < FAILED_S and found.count >= MAX_FAILED

    def failed(self, source: str, name: str) -> None:
        """One was refused after its checks."""
        now = self._clock()
        key = (source, name)
        found = self._failed.get(key)
        if found is None or now - found.since >= FAILED_S:
            self._failed.pop(key, None)
            while len(self._failed) >= MAX_KEPT:
                del self._failed[next(iter(self._failed))]
            found = self._failed[key] = _Failed(now)
        found.count += 1

    def reference(self, source: str, name: str) -> str:
        """The reference that unchecked ones share in this minute; empty for the first."""
        found = self._failed.get((source, name))
        return found.reference if found is not None else ""

    def refer(self, source: str, name: str, reference: str) -> None:
        """It is this."""
        if (found := self._failed.get((source, name))) is not None:
            found.reference = reference


class Refusals:
    """Where refused logins go. Used on the event loop only; the database is written in a thread, many rows at once."""

    def __init__(self, logins: Logins, append: Append) -> None:
        self._logins = logins
        self._append = append
        self._aggregates: dict[tuple[int, str, str], _Aggregate] = {}
        self._waiting: list[LoginRow] = []
        self._writing: asyncio.Lock = asyncio.Lock()

    async def add(self, user: str, target: str, source: str, checks: tuple[Check, ...], now_us: int) -> Refusal:
        """Record a refused login and give it its reference. target: a name from the rules, or empty."""
        letters = "".join(secrets.choice(ALPHABET) for _ in range(8))
        reference = f"{letters[:4]}-{letters[4:]}"
        address = host_of(source)
        self._count(reference, shown(user), target, address, checks, now_us)
        failed = ",".join(check.name for check in checks if not check.passed)
        _log.info("login.refused reference=%s target=%s failed=%s", reference, target, failed)
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(LoginRow(reference, now_us, target, shown(user), shown(source), checks))
            try:
                async with asyncio.timeout(WRITE_S):
                    await self._write(now_us)
            except (TimeoutError, Unavailable) as why:
                _log.warning("login.row.lost reference=%s why=%s", reference, type(why).__name__)
        return Refusal(reference, checks)

    def add_again(
        self, reference: str, user: str, target: str, source: str, checks: tuple[Check, ...], now_us: int
    ) -> Refusal:
        """Count one more like the one that has this reference; it gets no row of its own."""
        self._count(reference, shown(user), target, host_of(source), checks, now_us)
        return Refusal(reference, checks)

    async def _write(self, now_us: int) -> None:
        # whoever gets the lock writes for all who wait: a flood of refusals is a few transactions, not thousands
        async with self._writing:
            rows, self._waiting = self._waiting, []
            if rows:
                await asyncio.to_thread(self._logins.add_refused, rows, now_us)

    def _count(
        self, reference: str, user: str, target: str, source: str, checks: tuple[Check, ...], now_us: int
    ) -> None:
        key = (now_us // MINUTE_US, source, target)
        if key not in self._aggregates and len(self._aggregates) >= MAX_SOURCES:
            key = (now_us // MINUTE_US, "other", "")
        found = self._aggregates.setdefault(key, _Aggregate())
        failed = [check.name for check in checks if not check.passed]
        found.count += 1
        found.reasons.update(failed)
        if len(found.references) < MAX_REFERENCES and reference not in found.references:
            found.references.append(reference)
        detail = f"{user}: {', '.join(failed)}"
        if len(found.details) < MAX_DETAILS and detail not in found.details:
            found.details.append(detail)

    def flush(self, now_us: int, *, everything: bool = False) -> int:
        """Write the aggregates of minutes that are over, or all of them at shutdown; returns how many.

        Raises Unavailable when the journal fails; nothing is forgotten then.
        """
        minute = now_us // MINUTE_US
        due = [key for key in self._aggregates if everything or key[0] != minute]
        if not due:
            return 0
        entries = []
        for key in due:
            found = self._aggregates[key]
            entries.append(
                AuthFail(
                    count=found.count,
                    reasons=tuple(sorted(found.reasons)),
                    target=key[2],
                    references=tuple(found.references),
                    source=key[1],
                    detail="\n".join(found.details),
                )
            )
        self._append(entries)
        for key in due:
            del self._aggregates[key]
        return len(due)


def host_of(source: str) -> str:
    """The address without its port: one client has many ports, and is one source."""
    if source.startswith("["):
        return source[1:].partition("]")[0]
    return source.rpartition(":")[0] if source.count(":") == 1 else source
