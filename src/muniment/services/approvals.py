"""Questions put to people: asked, decided by signed documents, expired, withdrawn, and spent once.

Every step is written to the journal and is durable before anybody is told. What must survive a restart is in the
database. One lock keeps the steps in order; a question is rare and slow, so it costs nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from muniment.model.entries import ApprovalDecide, ApprovalRequest, Entry
from muniment.model.errors import Unavailable
from muniment.model.exchange import Parameter
from muniment.model.rules import Person, Rules
from muniment.model.verdict import Hold
from muniment.services import decisions
from muniment.services.decisions import NotAccepted, Signed
from muniment.store import approvals as rows
from muniment.store.approvals import AskedRow, DecisionRow
from muniment.store.database import Database

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # nothing that people read as something else; 32, so 5 bits each
MAX_OPEN_PER_IDENTITY = 50  # a job that asks without end must not fill the approvers' screens
RETRY_US = 1_000_000
MAX_WAIT_S = 30.0  # how long the expiry task sleeps at most, so that a changed clock is noticed


class Record(Protocol):
    """What this needs of the journal."""

    def append(self, entries: Sequence[Entry]) -> list[str]:
        """Write entries; returns their leaf hashes."""

    async def durable(self) -> None:
        """Return when everything appended so far survives a power cut."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a held exchange asks of people. bound: see `decisions.bound`; owner: of the identity; initiator: what the
    token says set the run going, so that this person cannot approve it; recorded: what the record keeps in place of a
    statement that touches something protected, empty where it keeps the statement itself."""

    ses: str
    n: int
    identity: str
    owner: str
    target: str
    database: str
    role: str
    rule: str
    approvers: str
    count: int
    within_s: int
    statement: str
    parameters: tuple[Parameter, ...]
    question: str
    initiator: str = ""
    recorded: str = ""

    @property
    def bound(self) -> str:
        """The digest that an approval of this question is bound to."""
        return decisions.bound(
            self.identity, self.target, self.database, self.role, self.statement, self.parameters, self.question
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """How a question ended for one who waits. how: approve | deny | expire | withdraw; leaf: of that entry."""

    approved: bool
    how: str
    person: str
    reason: str
    leaf: str


@dataclass(eq=False, slots=True)
class Held:
    """One exchange's place at a question. state: "waiting" | "approved"; leaf: of the question; expires_us: until when
    it may be decided and used; decided: done at once when it was approved while nobody waited.
    """

    id: str
    state: str
    leaf: str
    expires_us: int
    ses: str
    n: int
    decided: asyncio.Future[Decision]


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that was accepted. state: the question's own, after it; missing: how many more people it needs."""

    approval: str
    decision: str
    person: str
    state: str
    missing: int
    leaf: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A question and all that happened to it."""

    asked: AskedRow
    history: tuple[DecisionRow, ...] = field(default=())


class Approvals:
    """The open questions of one deployment. `run` must be running for questions to expire on time."""

    def __init__(
        self,
        database: Database,
        journal: Record,
        rules: Callable[[], Rules],
        *,
        deployment: str,
        now_us: Callable[[], int],
    ) -> None:
        self.deployment = deployment
        self._database = database
        self._journal = journal
        self._rules = rules
        self._now_us = now_us
        self._order = asyncio.Lock()
        self._waiting: dict[str, list[Held]] = {}
        self._changed = asyncio.Event()

    async def ask(self, question: Question) -> Held:
        """Put a question to people, or find the one that already asks or allows the same.

        Raises Unavailable when the question cannot be kept or its identity has too many open.
        """
        async with self._order:
            bound = question.bound
            now = self._now_us()
            for asked in await asyncio.to_thread(rows.find_bound, self._database, bound):
                same = (asked.rule, asked.approvers, asked.count) == (question.rule, question.approvers, question.count)
                if same and asked.expires_us > now and (asked.state == "waiting" or await self._stands(asked)):
                    return await self._join(asked, question)
            return await self._open(question, bound, now)

    async def _open(self, question: Question, bound: str, now: int) -> Held:
        everything = await asyncio.to_thread(rows.list_asked, self._database, open_only=True, limit=10_000)
        if sum(asked.identity == question.identity for asked in everything) >= MAX_OPEN_PER_IDENTITY:
            raise Unavailable(
                f"{question.identity} has {MAX_OPEN_PER_IDENTITY} open questions", "decide them or let them expire"
            )
        name = _new_id()
        expires = now + question.within_s * 1_000_000
        (leaf,) = self._journal.append(
            [
                ApprovalRequest(
                    approval=name, ses=question.ses, n=question.n, identity=question.identity, target=question.target,
                    rule=question.rule, approvers=question.approvers, count=question.count, expires_us=expires,
                    bound=bound, question=question.question, statement=question.recorded or question.statement,
                )
            ]
        )  # fmt: skip
        asked = AskedRow(
            id=name, state="waiting", bound=bound, ses=question.ses, n=question.n, identity=question.identity,
            owner=question.owner, initiator=question.initiator, target=question.target, database=question.database,
            role=question.role, rule=question.rule, approvers=question.approvers, count=question.count,
            question=question.question, statement=question.statement,
            parameters=decisions.parameters_json(question.parameters), asked_us=now, expires_us=expires, closed_us=0,
            leaf=leaf, decided_leaf="", used_ses="", used_n=0,
        )  # fmt: skip
        await self._journal.durable()
        await asyncio.to_thread(rows.insert_asked, self._database, asked)
        self._changed.set()
        return await self._join(asked, question)

    async def _join(self, asked: AskedRow, question: Question) -> Held:
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        held = Held(asked.id, asked.state, asked.leaf, asked.expires_us, question.ses, question.n, future)
        if asked.state == "approved":
            last = (await asyncio.to_thread(rows.list_decisions, self._database, asked.id))[-1]
            future.set_result(Decision(True, "approve", last.person, last.reason, asked.decided_leaf))
        else:
            self._waiting.setdefault(asked.id, []).append(held)
        return held

    async def _stands(self, asked: AskedRow) -> bool:
        """Whether those who approved could still do so under the rules in force now."""
        return decisions.enough(await self._approved_by(asked), asked)

    async def _approved_by(self, asked: AskedRow) -> list[Person]:
        persons = self._rules().persons
        found: list[Person] = []
        for row in await asyncio.to_thread(rows.list_decisions, self._database, asked.id):
            person = persons.get(row.person)
            if row.decision != "approve" or person is None or asked.approvers not in person.groups:
                continue
            if row.key in {" ".join(line.split()[:2]) for line in person.keys}:
                found.append(person)
        return found

    async def decide(self, document: str, signature: str, reason: str) -> Decided | NotAccepted:
        """Take a person's signed decision. The only way in which a question is ever approved or denied."""
        fields = decisions.read_document(document)
        if isinstance(fields, NotAccepted):
            return fields
        async with self._order:
            asked = await asyncio.to_thread(rows.find, self._database, str(fields["approval"]))
            if asked is None:
                return NotAccepted("there is no such approval", "see `muniment approvals list`")
            now = self._now_us()
            if asked.state != "waiting" or asked.expires_us <= now:
                state = asked.state if asked.state != "waiting" else "expired"
                return NotAccepted(f"{asked.id} is {state}: there is nothing left to decide", "have the job ask again")
            approved = await self._approved_by(asked)
            signed = decisions.check(
                document, signature, reason, deployment=self.deployment, asked=asked, persons=self._rules().persons,
                decided=approved, now_us=now,
            )  # fmt: skip
            if isinstance(signed, NotAccepted):
                return signed
            return await self._settle(asked, signed, document, signature, approved)

    async def _settle(
        self, asked: AskedRow, signed: Signed, document: str, signature: str, approved: list[Person]
    ) -> Decided | NotAccepted:
        person = signed.person
        people = [*approved, person]
        state = "denied"
        if signed.decision == "approve":
            state = "approved" if decisions.enough(people, asked) else "waiting"
        entry = ApprovalDecide(
            approval=asked.id, request=asked.leaf, decision=signed.decision, person=person.name,
            person_ref=self._rules().refs.get(f"Person/{person.name}", ""), key=signed.key, document=document,
            signature=signature.strip(), reason=signed.reason,
        )  # fmt: skip
        row = await self._write(entry)
        if state == "waiting":
            await asyncio.to_thread(rows.insert_decision, self._database, row)
        elif not await asyncio.to_thread(
            rows.record, self._database, row, before="waiting", after=state, settles=state == "approved"
        ):
            return NotAccepted(f"{asked.id} is closed", "have the job ask again")
        else:
            self._tell(asked.id, Decision(state == "approved", signed.decision, person.name, signed.reason, row.leaf))
        missing = max(1, asked.count - len(people)) if state == "waiting" else 0
        return Decided(asked.id, signed.decision, person.name, state, missing, row.leaf)

    async def use(self, approval: str, ses: str, n: int, hold: Hold | None = None) -> str:
        """Spend an approval on this exchange. Returns the leaf hash of the decision that released it, or "" when it
        is not there to be spent: used, expired, or given by people who may not approve any more.

        hold: what the rules say now, judged again; an approval asked under another rule, group or count is not spent.

        It is spent before it is recorded: a crash in between costs an approval, never allows a second use.
        """
        async with self._order:
            asked = await asyncio.to_thread(rows.find, self._database, approval)
            if asked is None or asked.state != "approved" or not await self._stands(asked):
                return ""
            if hold and (asked.rule, asked.approvers, asked.count) != (hold.rule, hold.approvers, hold.count):
                return ""
            spent = await asyncio.to_thread(rows.use, self._database, approval, ses, n, self._now_us())
            if spent is None:
                return ""
            entry = ApprovalDecide(approval=approval, request=spent.leaf, decision="use", ses=ses, n=n)
            await asyncio.to_thread(rows.insert_decision, self._database, await self._write(entry))
            return spent.decided_leaf

    async def withdraw(self, approval: str, ses: str, n: int, *, close: bool, reason: str = "") -> None:
        """This exchange does not wait any longer.

        close: the client cancelled, so the question is closed unless another exchange waits for it too; else it was a
        hang-up, and the question stays open until it expires, so that a retried job finds what was decided.
        """
        async with self._order:
            mine = [held for held in self._waiting.get(approval, []) if (held.ses, held.n) == (ses, n)]
            for held in mine:
                self._forget(held)
            asked = await asyncio.to_thread(rows.find, self._database, approval)
            if asked is None or asked.state not in rows.OPEN:
                return
            closes = close and approval not in self._waiting
            said = reason or ("cancelled by the client" if close else "the client hung up; the question stays open")
            entry = ApprovalDecide(
                approval=approval, request=asked.leaf, decision="withdraw", ses=ses, n=n, reason=said
            )  # fmt: skip
            row = await self._write(entry)
            after = "withdrawn" if closes else ""
            await asyncio.to_thread(rows.record, self._database, row, before=asked.state, after=after)
            for held in mine:
                if not held.decided.done():
                    held.decided.set_result(Decision(False, "withdraw", "", said, row.leaf))

    async def expire(self) -> int:
        """Close every question whose time is over. Returns when the next one expires, 0 when none is open."""
        async with self._order:
            for asked in await asyncio.to_thread(rows.overdue, self._database, self._now_us()):
                row = await self._write(ApprovalDecide(approval=asked.id, request=asked.leaf, decision="expire"))
                await asyncio.to_thread(rows.record, self._database, row, before=asked.state, after="expired")
                self._tell(asked.id, Decision(False, "expire", "", "nobody decided in time", row.leaf))
            return await asyncio.to_thread(rows.next_expiry, self._database)

    async def run(self) -> None:
        """Expire questions on time, for ever. Started by the program; a start also closes what expired meanwhile."""
        while True:
            self._changed.clear()
            try:
                following = await self.expire()
            except Unavailable:
                following = self._now_us() + RETRY_US  # nothing passes meanwhile: the journal or the database is down
            wait = min(MAX_WAIT_S, max(0.0, (following - self._now_us()) / 1e6)) if following else MAX_WAIT_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)

    async def questions(self, *, open_only: bool = True, limit: int = 200) -> list[Shown]:
        """Questions with what happened to them, newest first."""
        found = await asyncio.to_thread(rows.list_asked, self._database, open_only=open_only, limit=limit)
        return [await self._shown(asked) for asked in found]

    async def of_session(self, ses: str) -> list[Shown]:
        """The questions that a session asked or whose approval it used."""
        found = await asyncio.to_thread(rows.list_asked, self._database, open_only=False, ses=ses, limit=10_000)
        return [await self._shown(asked) for asked in found]

    async def show(self, approval: str) -> Shown | None:
        """One question."""
        asked = await asyncio.to_thread(rows.find, self._database, approval)
        return await self._shown(asked) if asked else None

    async def _shown(self, asked: AskedRow) -> Shown:
        return Shown(asked, tuple(await asyncio.to_thread(rows.list_decisions, self._database, asked.id)))

    async def _write(self, entry: ApprovalDecide) -> DecisionRow:
        """Make an entry durable; returns it as a row."""
        (leaf,) = self._journal.append([entry])
        await self._journal.durable()
        return DecisionRow(
            approval=entry.approval, decision=entry.decision, person=entry.person, key=entry.key,
            document=entry.document, signature=entry.signature, reason=entry.reason, ses=entry.ses, n=entry.n,
            t_us=self._now_us(), leaf=leaf,
        )  # fmt: skip

    def _tell(self, approval: str, decision: Decision) -> None:
        for held in self._waiting.pop(approval, []):
            if not held.decided.done():
                held.decided.set_result(decision)

    def _forget(self, held: Held) -> None:
        others = [one for one in self._waiting[held.id] if one is not held]
        if others:
            self._waiting[held.id] = others
        else:
            del self._waiting[held.id]


def _new_id() -> str:
    letters = "".join(secrets.choice(ALPHABET) for _ in range(8))
    return f"A-{letters[:4]}-{letters[4:]}"
