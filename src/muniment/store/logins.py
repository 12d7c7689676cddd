"""The SQL of logins: API keys (hashed) and the refused logins that `muniment logins show` explains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select, update

from muniment.model.identity import Check
from muniment.store.database import Database, api_keys, logins

MAX_ROWS = 100_000  # refused logins that are kept; the evidence log keeps their count for ever
MAX_AGE_US = 30 * 24 * 3600 * 1_000_000
TRIM_EVERY = 1_000  # inserts between two trims, so that the bound may be passed by so many


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """One API key as stored. hash: SHA-256 of the whole key; times in microseconds UTC; revoked_us 0: not revoked."""

    id: str
    identity: str
    hash: bytes
    created_us: int
    expires_us: int
    revoked_us: int


@dataclass(frozen=True, slots=True)
class LoginRow:
    """One refused login."""

    reference: str
    t_us: int
    target: str
    user: str
    source: str
    checks: tuple[Check, ...]


class Logins:
    """Every method is one transaction and blocks: call it in a thread. Raises Unavailable when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._untrimmed = TRIM_EVERY  # the first insert trims

    def add_key(self, row: ApiKeyRow) -> None:
        """Keep a new key's hash."""
        with self._database.begin() as connection:
            connection.execute(
                insert(api_keys).values(
                    id=row.id,
                    identity=row.identity,
                    hash=row.hash,
                    created_us=row.created_us,
                    expires_us=row.expires_us,
                    revoked_us=row.revoked_us,
                )
            )

    def key(self, key_id: str) -> ApiKeyRow | None:
        """The key with this id."""
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).first()
        return ApiKeyRow(*row) if row else None

    def keys(self, identity: str = "") -> list[ApiKeyRow]:
        """All keys, or one identity's; newest first."""
        query = select(api_keys).order_by(api_keys.c.created_us.desc(), api_keys.c.id)
        if identity:
            query = query.where(api_keys.c.identity == identity)
        with self._database.read() as connection:
            return [ApiKeyRow(*row) for row in connection.execute(query)]

    def revoke_key(self, key_id: str, now_us: int) -> bool:
        """Revoke; False where there is no such key or it was revoked before."""
        with self._database.begin() as connection:
            done = connection.execute(
                update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_us == 0).values(revoked_us=now_us)
            )
        return done.rowcount == 1

    def add_refused(self, rows: Sequence[LoginRow], now_us: int) -> None:
        """Keep refused logins, and forget the oldest beyond MAX_ROWS and MAX_AGE_US."""
        if not rows:
            return
        values = [
            {
                "reference": row.reference,
                "t_us": row.t_us,
                "target": row.target,
                "user": row.user,
                "source": row.source,
                "checks": json.dumps(
                    [
                        {"name": c.name, "passed": c.passed, "got": c.got, "want": c.want, "mend": c.mend}
                        for c in row.checks
                    ]
                ),
            }
            for row in rows
        ]
        with self._database.begin() as connection:
            connection.execute(insert(logins), values)
            self._untrimmed += len(rows)
            if self._untrimmed >= TRIM_EVERY:
                edge = select(logins.c.t_us).order_by(logins.c.t_us.desc()).offset(MAX_ROWS).limit(1)
                newest_lost = connection.execute(edge).scalar() or 0
                connection.execute(delete(logins).where(logins.c.t_us <= max(newest_lost, now_us - MAX_AGE_US)))
                self._untrimmed = 0

    def refused(self, reference: str) -> LoginRow | None:
        """The refused login with this reference; upper and lower case and a missing dash are the same."""
        plain = reference.strip().upper().replace("-", "")
        with self._database.read() as connection:
            row = connection.execute(select(logins).where(logins.c.reference == f"{plain[:4]}-{plain[4:]}")).first()
        return _login(*row) if row else None

    def recent(self, limit: int = 100) -> list[LoginRow]:
        """The newest refused logins."""
        with self._database.read() as connection:
            query = select(logins).order_by(logins.c.t_us.desc(), logins.c.reference).limit(limit)
            return [_login(*row) for row in connection.execute(query)]

    def count(self) -> int:
        """How many refused logins are kept."""
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(logins)).scalar_one()


def _login(reference: str, t_us: int, target: str, user: str, source: str, checks: str) -> LoginRow:
    return LoginRow(reference, t_us, target, user, source, tuple(Check(**check) for check in json.loads(checks)))
