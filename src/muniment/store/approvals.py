"""Questions and decisions as rows: what `services.approvals` keeps across a restart."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Row, insert, select, update

from muniment.store.database import Database, approvals, decisions

OPEN = ("waiting", "approved")


@dataclass(frozen=True, slots=True)
class AskedRow:
    """One question. state: waiting | approved | used | denied | expired | withdrawn; *_us: microseconds UTC, 0 where
    it has not happened. statement, parameters (JSON) and question are empty once it is closed: the sealed payload of
    `leaf` keeps them.
    """

    id: str
    state: str
    bound: str
    ses: str
    n: int
    identity: str
    owner: str
    initiator: str
    target: str
    database: str
    role: str
    rule: str
    approvers: str
    count: int
    question: str
    statement: str
    parameters: str
    asked_us: int
    expires_us: int
    closed_us: int
    leaf: str
    decided_leaf: str
    used_ses: str
    used_n: int


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One thing that happened to a question. decision: approve | deny | expire | withdraw | use."""

    approval: str
    decision: str
    person: str
    key: str
    document: str
    signature: str
    reason: str
    ses: str
    n: int
    t_us: int
    leaf: str


_ASKED = [approvals.c[field.name] for field in fields(AskedRow)]
_DECISION = [decisions.c[field.name] for field in fields(DecisionRow)]


def _values(row: AskedRow | DecisionRow) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}


def _asked(row: Row[Any]) -> AskedRow:
    return AskedRow(**row._mapping)


def insert_asked(database: Database, row: AskedRow) -> None:
    """Keep a new question."""
    with database.begin() as connection:
        connection.execute(insert(approvals), _values(row))


def find(database: Database, approval: str) -> AskedRow | None:
    """The question of this id."""
    with database.read() as connection:
        row = connection.execute(select(*_ASKED).where(approvals.c.id == approval)).first()
        return _asked(row) if row else None


def find_bound(database: Database, bound: str) -> list[AskedRow]:
    """The open questions with this digest, approved ones first, then by age."""
    query = select(*_ASKED).where(approvals.c.bound == bound, approvals.c.state.in_(OPEN))
    with database.read() as connection:
        return [_asked(row) for row in connection.execute(query.order_by(approvals.c.state, approvals.c.asked_us))]


def list_asked(database: Database, *, open_only: bool, ses: str = "", limit: int = 200) -> list[AskedRow]:
    """Questions, newest first."""
    query = select(*_ASKED).order_by(approvals.c.asked_us.desc()).limit(limit)
    if open_only:
        query = query.where(approvals.c.state.in_(OPEN))
    if ses:
        query = query.where((approvals.c.ses == ses) | (approvals.c.used_ses == ses))
    with database.read() as connection:
        return [_asked(row) for row in connection.execute(query)]


def list_decisions(database: Database, approval: str) -> list[DecisionRow]:
    """What happened to a question, in order."""
    query = select(*_DECISION).where(decisions.c.approval == approval).order_by(decisions.c.id)
    with database.read() as connection:
        return [DecisionRow(**row._mapping) for row in connection.execute(query)]


def record(database: Database, row: DecisionRow, *, before: str = "", after: str = "", settles: bool = False) -> bool:
    """Keep what happened, and move the question from state `before` to `after` in the same transaction.

    after empty: the state stays. settles: `row.leaf` is the decision that released it. Returns False, having changed
    nothing, when the question is not in `before` any more.
    """
    with database.begin() as connection:
        if after:
            new: dict[str, Any] = {"state": after}
            if settles:
                new["decided_leaf"] = row.leaf
            if after not in OPEN:
                new |= {"closed_us": row.t_us, "statement": "", "parameters": "", "question": ""}
            mine = (approvals.c.id == row.approval) & (approvals.c.state == before)
            if connection.execute(update(approvals).where(mine).values(**new)).rowcount != 1:
                return False
        connection.execute(insert(decisions), _values(row))
        return True


def use(database: Database, approval: str, ses: str, n: int, now_us: int) -> AskedRow | None:
    """Spend an approval, at most once ever. Returns it as it was, or None when it is not there to be spent."""
    with database.begin() as connection:
        mine = (
            (approvals.c.id == approval)
            & (approvals.c.state == "approved")
            & (approvals.c.expires_us > now_us)
            & (approvals.c.used_ses == "")
        )
        row = connection.execute(select(*_ASKED).where(mine)).first()
        if row is None:
            return None
        emptied = {"statement": "", "parameters": "", "question": ""}
        spent = update(approvals).where(mine).values(state="used", used_ses=ses, used_n=n, closed_us=now_us, **emptied)
        return _asked(row) if connection.execute(spent).rowcount == 1 else None


def insert_decision(database: Database, row: DecisionRow) -> None:
    """Keep what happened, where it moves nothing."""
    record(database, row)


def next_expiry(database: Database) -> int:
    """When the next open question expires, microseconds UTC; 0 when none is open."""
    query = select(approvals.c.expires_us).where(approvals.c.state.in_(OPEN)).order_by(approvals.c.expires_us).limit(1)
    with database.read() as connection:
        return connection.execute(query).scalar() or 0


def overdue(database: Database, now_us: int) -> list[AskedRow]:
    """The open questions whose time is over."""
    query = select(*_ASKED).where(approvals.c.state.in_(OPEN), approvals.c.expires_us <= now_us)
    with database.read() as connection:
        return [_asked(row) for row in connection.execute(query)]
