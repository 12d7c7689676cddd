"""What people are shown of the record: plain data, made from leaves, sealed payloads and the database.

Times are microseconds UTC; 0 and empty text: not there. `index` is a leaf's place in the log, -1 while it is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muniment.model.exchange import Parameter
from muniment.services import decisions
from muniment.services.replaying import value_text
from muniment.store.approvals import AskedRow, DecisionRow
from muniment.store.index import Leaf, SessionRow
from muniment.store.payloads import Payload


@dataclass(frozen=True, slots=True)
class DecisionView:
    """One thing that happened to a question. decision: approve | deny | expire | withdraw | use."""

    decision: str
    person: str
    reason: str
    t_us: int
    ses: str
    n: int
    key: str
    leaf: str
    index: int


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """A question: who asks for what, under which rule, and what became of it. parameters: as `parameters_json` gives
    them while it is open."""

    id: str
    state: str
    identity: str
    owner: str
    initiator: str
    target: str
    database: str
    role: str
    ses: str
    n: int
    rule: str
    approvers: str
    count: int
    question: str
    statement: str
    parameters: str
    bound: str
    deployment: str
    asked_us: int
    expires_us: int
    closed_us: int
    used_ses: str
    used_n: int
    leaf: str
    index: int
    history: tuple[DecisionView, ...]


@dataclass(frozen=True, slots=True)
class ExchangeView:
    """One exchange: what was asked, how it was judged, and how it ended. decision: allow | deny | hold; status: ok |
    error | refused | withdrawn | cancelled | unknown, empty while it runs; masked: class -> values; sealed: why the
    statement cannot be shown; released_by: the approval that was spent on it; approvals: the questions that belong to
    it. A held exchange that is released is two: the one that was held and the one that ran."""

    n: int
    t_us: int
    phase: str
    decision: str
    rule: str
    rules: int
    touches: tuple[str, ...]
    traits: tuple[str, ...]
    complete: bool
    redacted: bool
    statement: str
    parameters: tuple[str | None, ...]
    why: str
    sealed: str
    leaf: str
    index: int
    status: str = ""
    rows: int = 0
    bytes: int = 0
    code: str = ""
    tag: str = ""
    masked: Mapping[str, int] | None = None
    released_by: str = ""
    approvals: tuple[ApprovalView, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session. opened, hidden: the readable and the sealed part of `session.open`; closed: of `session.close`;
    more: exchanges follow behind those that are here."""

    row: SessionRow
    opened: Mapping[str, Any]
    hidden: Mapping[str, str]
    target: Mapping[str, Any]
    closed: Mapping[str, Any]
    used: tuple[tuple[str, str, int], ...]
    exchanges: tuple[ExchangeView, ...]
    more: bool
    live: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """One result of a response line."""

    n: int
    status: str
    rows: int
    bytes: int
    code: str
    tag: str
    masked: Mapping[str, int]


def outcomes(results: Sequence[str], ses: str) -> list[Outcome]:
    """The results of one session in a response line: "session:n:status:rows:bytes:code:tag:class=count,...".

    A result that is not of that form is passed over: an index of ours must not stop at what it cannot read.
    """
    found: list[Outcome] = []
    for text in results:
        parts = text.split(":")
        if parts[0] != ses or len(parts) < 3:
            continue
        parts += [""] * (8 - len(parts))
        masked = dict(pair.split("=", 1) for pair in ":".join(parts[7:]).split(",") if "=" in pair)
        try:
            numbers = {name: int(count) for name, count in masked.items()}
            found.append(
                Outcome(int(parts[1]), parts[2], int(parts[3] or 0), int(parts[4] or 0), parts[5], parts[6], numbers)
            )
        except ValueError:
            continue
    return found


def exchange(leaf: Leaf, payload: Payload | None, sealed: str) -> ExchangeView:
    """One request as it was judged, without its end."""
    fields = leaf.fields
    hidden = payload.fields if payload else {}
    return ExchangeView(
        n=int(fields.get("n", 0)), t_us=int(fields["t"]), phase=str(fields.get("phase", "")),
        decision=str(fields.get("decision", "")), rule=str(fields.get("rule", "")), rules=int(fields.get("rules", 0)),
        touches=tuple(fields.get("touches", ())), traits=tuple(fields.get("traits", ())),
        complete=fields.get("complete", True) is True, redacted=fields.get("redacted", False) is True,
        statement=_text(hidden, "statement"), parameters=shown_parameters(hidden.get("parameters", b"")),
        why=_text(hidden, "why"), sealed=sealed, leaf=leaf.hash, index=leaf.index,
    )  # fmt: skip


def _text(hidden: Mapping[str, bytes], name: str) -> str:
    return hidden.get(name, b"").decode("utf-8", "replace")


def shown_parameters(data: bytes) -> tuple[str | None, ...]:
    """Recorded parameters as text; None for NULL. Bytes of another form are shown as they are."""
    if not data:
        return ()
    try:
        return shown_values(decisions.parameters_from(data.decode()))
    except (ValueError, json.JSONDecodeError):
        return (value_text(data, 0, False),)


def shown_values(parameters: Sequence[Parameter]) -> tuple[str | None, ...]:
    """Bound values as text; None for NULL."""
    return tuple(
        None if one.value is None else value_text(one.value, one.type, one.binary) for one in parameters
    )  # fmt: skip


def approval(
    asked: AskedRow,
    history: Sequence[DecisionRow],
    indexes: Mapping[str, int],
    deployment: str,
    hidden: Mapping[str, bytes] | None = None,
) -> ApprovalView:
    """A question as it stands. hidden: the sealed part of its leaf, needed once it is closed."""
    kept = hidden or {}
    return ApprovalView(
        id=asked.id, state=asked.state, identity=asked.identity, owner=asked.owner, initiator=asked.initiator,
        target=asked.target, database=asked.database, role=asked.role, ses=asked.ses, n=asked.n, rule=asked.rule,
        approvers=asked.approvers, count=asked.count, question=asked.question or _text(kept, "question"),
        statement=asked.statement or _text(kept, "statement"), parameters=asked.parameters, bound=asked.bound,
        deployment=deployment, asked_us=asked.asked_us, expires_us=asked.expires_us, closed_us=asked.closed_us,
        used_ses=asked.used_ses, used_n=asked.used_n, leaf=asked.leaf, index=indexes.get(asked.leaf, -1),
        history=tuple(
            DecisionView(
                row.decision, row.person, row.reason, row.t_us, row.ses, row.n, row.key, row.leaf,
                indexes.get(row.leaf, -1),
            )
            for row in history
        ),
    )  # fmt: skip
