"""The one room that keeps the order: judge, wait for people, evidence is durable, release. Nowhere else.

A `Turnstile` is one session's place at the gate. What it is asked is judged in the order of asking; what needs no wait
is ruled on at once, in the same call, and costs no task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from muniment.model.access import Session
from muniment.model.effects import Ask
from muniment.model.entries import Entry, Request
from muniment.model.errors import ProtocolError, Unavailable
from muniment.model.exchange import Action, Outcome, Phase, Statement
from muniment.model.rules import Durability
from muniment.model.verdict import Allow, Deny, Hold, Verdict
from muniment.services import leaves
from muniment.services.approvals import Held, Question
from muniment.services.gate import Gate
from muniment.services.judging import Judged, Judging

TURN = 256  # rulings that one session gets before the others have their turn
REMIND_S = 30.0  # how often a held client is told that it still waits


class Client(Protocol):
    """What the gate says to the session's other half."""

    def wants(self, ticket: int) -> bool:
        """Whether this ticket still waits for its ruling."""

    def ruled(self, rulings: Sequence[tuple[int, Verdict, Action | None]]) -> None:
        """These tickets are ruled on."""

    def told(self, message: str, hint: str) -> None:
        """Say this to the client while it waits."""

    def sealed(self, statement: Statement) -> None:
        """Keep this statement as it was in the sealed stream: the record holds it with its values replaced."""

    def broken(self, why: str) -> None:
        """The record can no longer be kept: the session must end."""


class Turnstile:
    """One session's exchanges, one after the other."""

    def __init__(self, gate: Gate, session: Session, client: Client) -> None:
        self._gate = gate
        self._session = session
        self._client = client
        self._protocol = session.admission.target.protocol
        self._judging = Judging(gate, session)
        self._queue: deque[Ask] = deque()
        self._walking = False  # a task has the queue; it goes on when what it waits for has come
        self._n = 0
        self._numbers: dict[int, int] = {}
        self._held: Held | None = None
        self._held_ticket = 0
        self._closed = False

    @property
    def exchanges(self) -> int:
        """How many requests stand in the record."""
        return self._n

    def ask(self, asks: Sequence[Ask]) -> None:
        """Have these judged, in this order. What can be ruled on now is, before this returns."""
        if len(asks) == 1 and not self._walking and not self._queue and self._repeated(asks[0]):
            return
        self._queue.extend(asks)
        if not self._walking:
            self._walk()

    def ended(self, ticket: int, outcome: Outcome) -> None:
        """The exchange of this ticket is over."""
        n = self._numbers.pop(ticket, 0)
        if n:
            self._gate.ended(self._session.id, n, outcome)

    def withdraw(self, ticket: int, *, close: bool) -> None:
        """Nobody waits for this ticket any more. close: the client cancelled it; else it hung up."""
        held = self._held
        if held is not None and ticket == self._held_ticket:
            self._held = None
            approvals = self._gate.approvals
            self._gate.spawn("withdraw", approvals.withdraw(held.id, held.ses, held.n, close=close))

    def close(self) -> None:
        """The session is over; nothing more is ruled."""
        self._closed = True
        self._queue.clear()

    # --- one after the other --------------------------------------------------------------------------------------

    def _walk(self) -> None:
        """Rule on all that needs no wait; leave the rest to a task. What a ruling lets in is asked while this runs,
        and is ruled on by the same loop."""
        self._walking = True
        ruled = 0
        while self._queue and not self._closed:
            if ruled >= TURN:
                self._start(asyncio.sleep(0))
                return
            batch: list[Judged] = []
            unread = False
            while self._queue and len(batch) < TURN:
                ask = self._queue[0]
                if not self._client.wants(ask.ticket):
                    self._queue.popleft()
                    continue
                action = self._gate.reader.action_now(self._protocol, ask.statement)
                if action is None:
                    unread = True
                    break
                self._queue.popleft()
                judged = self._judging.judge(ask, action)
                batch.append(judged)
                execute = ask.statement.phase is Phase.EXECUTE
                barrier = action.changes_names or "transaction-end" in action.traits
                if execute and (barrier or isinstance(judged.verdict, Hold)):
                    break
            if batch:
                try:
                    waits = self._record(batch)
                except Unavailable as down:
                    self._client.broken(down.what)
                    return
                if waits:
                    self._start(self._finish(batch))
                    return
                ruled += len(batch)
                self._client.ruled(
                    [(judged.ask.ticket, self._judging.final(judged), judged.action) for judged in batch]
                )
            elif unread:
                self._start(self._read(self._queue[0]))
                return
        self._walking = False

    def _repeated(self, ask: Ask) -> bool:
        """The same in a tenth of the time, for a read like one that was allowed before. Returns whether it was one."""
        gate, statement = self._gate, ask.statement
        if (
            self._closed
            or statement.phase is not Phase.EXECUTE
            or (repeat := self._judging.repeated(statement)) is None
        ):
            return False
        self._n += 1
        self._numbers[ask.ticket] = self._n
        try:
            repeat.record(gate.journal, self._n, statement)
        except Unavailable as down:
            self._n -= 1
            self._client.broken(down.what)
            return True
        self._client.ruled(((ask.ticket, repeat.verdict, repeat.action),))
        return True

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._walking = True
        self._gate.spawn(f"gate {self._session.id}", self._then_walk(work))

    async def _then_walk(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
            self._walking = False
            if not self._closed:
                self._walk()
        except Unavailable as down:
            self._client.broken(down.what)
        except ProtocolError as broke:  # in what had waited behind the ruling
            self._client.broken(str(broke))
        except Exception:  # our own fault: a session that nobody rules on would hang for ever
            self._client.broken("internal error")
            raise  # whoever spawned us tells what it was

    async def _read(self, ask: Ask) -> None:
        await self._gate.reader.action(self._protocol, ask.statement)

    async def _finish(self, batch: list[Judged]) -> None:
        """What waits for the disk or for people."""
        last = batch[-1]
        held = isinstance(last.verdict, Hold) and last.ask.statement.phase is Phase.EXECUTE
        await self._gate.journal.durable()
        done = batch[:-1] if held else batch
        if done and not self._closed:
            self._client.ruled([(judged.ask.ticket, self._judging.final(judged), judged.action) for judged in done])
        if held and not self._closed:
            await self._ask_people(last)

    # --- recording -------------------------------------------------------------------------------------------------

    def _record(self, batch: list[Judged]) -> bool:
        """Write the requests of a batch with one append. Returns whether its release must wait (disk or people)."""
        entries: list[Entry] = []
        repeats: list[tuple[Judged, Request]] = []
        waits = False
        for at, judged in enumerate(batch):
            statement, verdict = judged.ask.statement, judged.verdict
            if statement.phase is Phase.PREPARE and not (
                isinstance(verdict, Deny) and not self._comes_again(statement.text, batch[at + 1 :])
            ):
                continue
            request = self._request(judged)
            entries.append(request)
            wait = isinstance(verdict, Hold) or self._on_disk(judged)
            waits = waits or wait
            if not wait and isinstance(verdict, Allow) and judged.shown is None:
                repeats.append((judged, request))
        if entries:
            self._append(entries)
        for judged, request in repeats:
            assert isinstance(judged.verdict, Allow)
            self._judging.repeats.keep(
                judged.ask.statement, judged.action, judged.verdict, self._gate.journal.again(request)
            )
        return waits

    def _append(self, requests: Sequence[Entry]) -> None:
        """Write requests; what could not be written is not counted, or the session's end would tell of one too many."""
        try:
            self._gate.journal.append(requests)
        except Unavailable:
            self._n -= len(requests)
            raise

    def _comes_again(self, text: str, behind: Sequence[Judged]) -> bool:
        """Whether the refused statement is asked again to be executed, so that one refusal is one line."""
        asks = [judged.ask.statement for judged in behind] + [ask.statement for ask in self._queue]
        return any(each.phase is Phase.EXECUTE and each.text == text for each in asks)

    def _on_disk(self, judged: Judged) -> bool:
        if not isinstance(judged.verdict, Allow):
            return False  # nothing is released
        durability = self._session.admission.target.durability
        return durability is Durability.DISK or (durability is Durability.MIXED and not judged.action.reads_only)

    def _request(self, judged: Judged, approval: str = "", why: str = "") -> Request:
        self._n += 1
        statement, action, verdict = judged.ask.statement, judged.action, judged.verdict
        self._numbers[judged.ask.ticket] = self._n
        if judged.shown is not None:
            self._client.sealed(statement)
        decision = "allow" if isinstance(verdict, Allow) else "hold" if isinstance(verdict, Hold) else "deny"
        if isinstance(verdict, Deny):
            why = verdict.message
        return Request(
            ses=self._session.id,
            n=self._n,
            phase=statement.phase.value,
            decision=decision,
            rule=verdict.rule,
            rules=self._judging.version,
            touches=leaves.touches(action),
            traits=leaves.traits(action),
            complete=action.complete,
            reader=self._gate.reader_version,
            approval=approval,
            redacted=judged.shown is not None,
            statement=statement.text if judged.shown is None else judged.shown,
            parameters=leaves.parameters(statement.parameters) if judged.shown is None else b"",
            why=why or action.why,
        )

    # --- people -----------------------------------------------------------------------------------------------------

    async def _ask_people(self, judged: Judged) -> None:
        hold = judged.verdict
        assert isinstance(hold, Hold)
        ticket, statement = judged.ask.ticket, judged.ask.statement
        if "by-name" in judged.action.traits:
            why = "people cannot approve a statement that is only named: its name may come to mean another"
            self._refuse(judged, Deny(hold.rule, why, "Run the statement itself, in place of EXECUTE or FETCH."))
            return
        try:
            held = await self._gate.approvals.ask(self._question(judged, hold))
        except Unavailable as down:  # it is refused, and the session lives on
            self._refuse(judged, Deny(hold.rule, f"nobody could be asked: {down.what}", down.mend))
            return
        if held.state == "approved":
            await self._release(judged, held)
            return
        where = f"muniment approvals approve {held.id} --reason ..."
        if not statement.may_wait:
            reason = "it could not wait inside a transaction or a pipeline; the question stays open"
            leave = self._gate.approvals.withdraw(held.id, held.ses, held.n, close=False, reason=reason)
            self._gate.spawn("leave", leave)
            detail = f"Approval {held.id} is asked for; a hold does not wait inside a transaction or a pipeline."
            hint = f"Run it again, outside, once {hold.count} of {hold.approvers} did: {where}"
            self._client.ruled([(ticket, Deny(hold.rule, hold.question, hint, detail), judged.action)])
            return
        self._held, self._held_ticket = held, ticket
        self._client.ruled([(ticket, hold, judged.action)])
        while self._held is held and not held.decided.done():
            people = f"{hold.count} of group {hold.approvers}"
            self._client.told(f"{hold.rule}: waiting for approval {held.id} by {people}: {hold.question}", where)
            await asyncio.wait([held.decided], timeout=REMIND_S)
        if self._held is not held or not self._client.wants(ticket):
            return  # withdrawn meanwhile
        self._held = None
        decision = held.decided.result()
        if decision.approved:
            await self._release(judged, held)
            return
        said = {"deny": f"denied by {decision.person}", "expire": "nobody decided in time"}.get(
            decision.how, "withdrawn"
        )
        reason = f": {decision.reason}" if decision.reason else ""
        detail = f"Approval {held.id} was {said}{reason}." if decision.how == "deny" else f"Approval {held.id}: {said}."
        hint = "Talk to the approver, or ask again by running the statement again."
        self._refuse(judged, Deny(hold.rule, f"not approved, {said}", hint, detail))

    def _refuse(self, judged: Judged, deny: Deny) -> None:
        if self._client.wants(judged.ask.ticket):
            self._client.ruled([(judged.ask.ticket, deny, judged.action)])

    async def _release(self, judged: Judged, held: Held) -> None:
        """It was approved. Rules may have changed meanwhile: judge again, spend the approval, then let it go."""
        hold = judged.verdict
        assert isinstance(hold, Hold)
        again = self._judging.judge(judged.ask, judged.action)
        leaf = ""
        if not isinstance(again.verdict, Deny):
            wanted = again.verdict if isinstance(again.verdict, Hold) else None
            leaf = await self._gate.approvals.use(held.id, self._session.id, self._n + 1, wanted)
            again = self._judging.judge(judged.ask, judged.action)  # they may have changed once more while it was spent
            if isinstance(again.verdict, Hold) and again.verdict != wanted:
                leaf = ""
        if isinstance(again.verdict, Deny):
            self._append([self._request(again)])
            self._refuse(judged, again.verdict)
            return
        if not leaf:
            message = "the approval was used, has expired, or is not the one that the rules want now"
            self._refuse(judged, Deny(hold.rule, message, "Run the statement again to ask anew."))
            return
        if self._closed or not self._client.wants(judged.ask.ticket):
            return  # withdrawn while it was spent: what is not released is not recorded as released
        grant = hold.grant or hold.rule
        if isinstance(again.verdict, Hold):
            again.verdict = Allow(grant, self._judging.masks_of(judged), judged.shown)
        self._append([self._request(again, approval=leaf)])
        await self._gate.journal.durable()
        if self._client.wants(judged.ask.ticket) and not self._closed:
            self._client.ruled([(judged.ask.ticket, again.verdict, judged.action)])

    def _question(self, judged: Judged, hold: Hold) -> Question:
        session, statement = self._session, judged.ask.statement
        identity, initiator = session.admission.identity, session.admission.identity.initiator
        return Question(
            ses=session.id,
            n=self._n,
            identity=identity.name,
            owner=identity.owner,
            target=session.admission.target.name,
            database=session.admission.database,
            role=session.admission.role,
            rule=hold.rule,
            approvers=hold.approvers,
            count=hold.count,
            within_s=hold.within_s,
            statement=statement.text,
            parameters=statement.parameters,
            question=f"{hold.question} ({'; '.join(leaves.touches(judged.action))})",
            initiator=initiator.id,
            recorded=judged.shown or "",
        )
