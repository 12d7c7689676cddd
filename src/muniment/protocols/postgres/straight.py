"""The common read, straight through: one Query, or one Bind, Describe, Execute and Sync, that comes alone and whole, is
allowed, and is answered in one read.

Nearly all traffic is of this kind, and the general way costs several times as much: an item, a portal and an expect a
message. Here one `Run` stands for them all. Whatever else happens before the run is over, it is first *unfolded* into
what the general way would remember, which then goes on; so this file decides nothing, and a test holds the two ways
equal on every transcript.
"""

from __future__ import annotations

import struct
from typing import Any

from muniment.model.effects import Ask, Done, Effect, Send, Side
from muniment.model.exchange import Action, Catalog, Outcome, Parameter, Statement
from muniment.model.verdict import Allow, Masks, RowPlan, Verdict
from muniment.protocols.postgres.answering import Answering
from muniment.protocols.postgres.showing import MAX_PLANS, shape_of
from muniment.protocols.postgres.state import (
    IDLE,
    MAX_STATEMENTS,
    STATUSES,
    Exchange,
    Expect,
    Item,
    Portal,
    Prepared,
    State,
)
from muniment.scan.rows import skip_rows

MAX_BYTES = 64 << 10  # of a read from the client; larger ones gain nothing
_Q, _P, _B, _E, _D, _C, _H, _S, _F, _X = b"QPBEDCHSFX"
_BOUND = b"2\x00\x00\x00\x04"
_READY = b"Z\x00\x00\x00\x05"
_DESCRIBE, _EXECUTE, _SYNC = b"D\x00\x00\x00\x06P\x00", b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00", b"S\x00\x00\x00\x04"
_EXECUTED = _EXECUTE + _SYNC  # what may come behind a Bind
_DESCRIBED = _DESCRIBE + _EXECUTED
_UINT16 = struct.Struct("!H").unpack_from
_INT32 = struct.Struct("!i").unpack_from
_CLIENT, _TARGET = Side.CLIENT, Side.TARGET


class Run:
    """One read of the client's that is on its way. prepared: None for a Query; end: where its Bind ends; sent: it was
    allowed, and is at the target."""

    __slots__ = ("action", "described", "end", "masks", "prepared", "raw", "sent", "statement", "ticket")

    def __init__(
        self, ticket: int, raw: bytes, statement: Statement, prepared: Prepared | None, described: bool, end: int
    ) -> None:
        self.ticket = ticket
        self.raw = raw
        self.statement = statement
        self.prepared = prepared
        self.described = described
        self.end = end
        self.sent = False
        self.action: Action | None = None
        self.masks: Masks | None = None


_Plan = tuple[Action, Masks, Catalog | None, RowPlan | None]


class Straight(Answering):
    """Takes what it can; `None` says that the general way has to."""

    def __init__(self, *known: Any, **more: Any) -> None:
        """See `state.Memory`."""
        super().__init__(*known, **more)
        self._run: Run | None = None
        self._clear = False  # known to be so: the last run ended, and nothing happened since
        self._straight_plans: dict[bytes, _Plan] = {}

    def _is_clear(self) -> bool:
        """Whether nothing is queued, due, half received, or in a state that changes what a message means."""
        return not (
            self._items
            or self._expects
            or self._client
            or self._target
            or self._parsing
            or self._dirty
            or self._refreshing
            or self._skipping
            or self._copying_in
            or self._cancelling
            or self._closed
            or self._exchange_ahead()
            or self._looking is not None
        )

    def _begin(self, data: bytes) -> list[Effect] | None:
        """The client's read, where it is one whole Query or one whole Bind to Sync."""
        size = len(data)
        if size < 6 or size > MAX_BYTES or not (self._clear or self._is_clear()):
            return None
        kind = data[0]
        end = int.from_bytes(data[1:5], "big") + 1
        prepared = None
        described = False
        if kind == _B:
            behind = data[end:]
            described = behind == _DESCRIBED
            stop = data.find(b"\0", 6, end)
            if data[5] or stop < 0 or not (described or behind == _EXECUTED):
                return None
            prepared = self._statements.get(data[6:stop])
            if prepared is None or len(self._portals) >= MAX_STATEMENTS:
                return None
            parameters = bound(data, stop + 1, end, prepared.types)
            if parameters is None:
                return None
            self._portals.pop(b"", None)
            text = prepared.text
        elif kind == _Q and end == size and data.find(b"\0", 5) == size - 1:
            text, parameters = self._read(data[5:-1]), ()
        else:
            return None
        may_wait = self.status == IDLE or self._hold_in_transaction
        statement = Statement(text, parameters, self._names_now(text), may_wait=may_wait)
        self._tickets = ticket = self._tickets + 1
        self._in_batch = False
        self._clear = True
        self._run = Run(ticket, data, statement, prepared, described, end)
        return [Ask(ticket, statement)]

    def _allowed(self, run: Run, verdict: Verdict, action: Action | None) -> list[Effect] | None:
        """The ruling on a run, where it is a plain yes."""
        if run.sent or action is None or not isinstance(verdict, Allow):
            return None
        if verdict.shown is not None or action.defines or action.forgets or self._cancelling:
            return None
        if self._moves_names(action):
            return None
        masks = verdict.masks
        if masks is not None and run.prepared is not None and not run.described:
            return None
        run.sent = True
        run.action = action
        run.masks = self._last_masks = masks
        return [Send(_TARGET, run.raw)]

    def _finish(self, run: Run, data: bytes) -> list[Effect] | None:
        """The target's read, where it is the whole reply to a run, and shows nothing that is masked."""
        ready = len(data) - 6
        if ready < 0 or not run.sent or not data.startswith(_READY, ready) or data[ready + 5] not in STATUSES:
            return None
        pos = 0
        if run.prepared is not None:
            if not data.startswith(_BOUND):
                return None
            pos = 5
        description = -1
        if data[pos] == 84 and (run.described or run.prepared is None):  # "T"
            description, pos = pos, pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
            if not description + 7 <= pos < ready:
                return None
        elif run.described:
            return None
        rows, first = 0, pos
        if data[pos] == 68:  # "D"
            rows, pos = skip_rows(data, pos)
        if pos >= ready or data[pos] != 67 or pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big") != ready:  # "C"
            return None
        if run.masks is not None and (rows or description >= 0):
            if description < 0 or (plan := self._known_plan(data[description + 5 : first], run)) is None:
                return None
            if rows and plan[3] is not None:
                may_hit = plan[3].may_hit
                if may_hit is None or may_hit(data[first:pos]):
                    return None
        tag = data[pos + 5 : ready - 1].decode("utf-8", "replace")
        self._run = None
        self.status = status = data[ready + 5]
        self._planned, self._plan = False, None
        effects: list[Effect] = [Done(run.ticket, Outcome("ok", rows, pos - first, "", tag))]
        if status == IDLE:
            self._touched = None
            self._transaction_ended()
        else:
            self._touches_protected(run)
        if status != IDLE:
            if run.prepared is not None:
                self._keep_portal(run, data[description + 5 : first] if description >= 0 else b"")
        elif self._portals:
            for portal in self._portals.values():
                self._done(portal.exchange, "unexecuted")
            self._portals.clear()
            effects += self._out
            self._out = []
        effects.append(Send(_CLIENT, data))
        if self._transaction_dirty:
            self._clear = False
            self._quiet()
            effects += self._out
            self._out = []
        return effects

    def _touches_protected(self, run: Run) -> None:
        """Within a transaction: remember that it is about protected data, for what its end may say."""
        if self._touched is not None or run.masks is None or run.action is None or not run.masks.tells(run.action):
            return
        self._touched = exchange = Exchange(run.ticket)
        exchange.action, exchange.masks, exchange.protected, exchange.done = run.action, run.masks, True, True

    def _known_plan(self, body: bytes, run: Run) -> _Plan | None:
        """How rows of this description are masked for this statement; None: it names relations that are not known."""
        action, masks, catalog = run.action, run.masks, self._known.catalog
        assert action is not None and masks is not None
        kept = self._straight_plans.get(body)
        if kept is None or kept[0] is not action or kept[1] is not masks or kept[2] is not catalog:
            if self._unknown_in(body):
                return None
            if len(self._straight_plans) >= MAX_PLANS:
                self._straight_plans.clear()
            kept = self._straight_plans[body] = (action, masks, catalog, masks.plan(shape_of(body), action, 0))
        return kept

    # --- back to the general way -----------------------------------------------------------------------------------

    def _unfold(self) -> None:
        """Remember the run as the general way would: what is not sent yet as items, what is as expects."""
        self._clear = False
        run, self._run = self._run, None
        if run is None:
            return
        self._batches += 1
        self._running = self._batches
        exchange = Exchange(run.ticket)
        portal = None
        if run.prepared is not None:
            portal = self._portals[b""] = Portal(b"", run.statement, exchange)
            portal.executed = True
        if run.sent:
            exchange.action, exchange.masks = run.action, run.masks
            if run.masks is not None and run.action is not None:
                exchange.protected = run.masks.tells(run.action)
                self._touched = exchange if exchange.protected else self._touched
            self._unfold_sent(run, exchange, portal)
        else:
            self._unfold_asked(run, exchange, portal)

    def _unfold_sent(self, run: Run, exchange: Exchange, portal: Portal | None) -> None:
        if portal is not None:
            portal.described = run.described and run.masks is not None
        for kind, _ in _messages(run):
            expect = Expect(kind)
            if kind in (_Q, _B, _E):
                expect.exchange = exchange
            if kind != _S:
                expect.portal = portal
            self._expects.append(expect)

    def _unfold_asked(self, run: Run, exchange: Exchange, portal: Portal | None) -> None:
        for kind, raw in _messages(run):
            asked = kind in (_Q, _B)
            item = Item(kind, raw, State.ASKED if asked else State.READY)
            item.batch = self._batches
            if asked:
                item.statement = run.statement
                self._asked[run.ticket] = item
            if asked or kind == _E:
                item.exchange = exchange
            if kind != _S:
                item.portal = portal
            self._items.append(item)
            self._queued_bytes += len(raw)

    def _keep_portal(self, run: Run, body: bytes) -> None:
        """Within a transaction a portal lives on, and may be executed again."""
        exchange = Exchange(run.ticket)
        exchange.action, exchange.masks, exchange.done = run.action, run.masks, True
        portal = self._portals[b""] = Portal(b"", run.statement, exchange)
        portal.executed = True
        if run.masks is not None:
            portal.described = True
            portal.shape = shape_of(body)


def _messages(run: Run) -> list[tuple[int, bytes]]:
    """A run's messages, each with its letter."""
    if run.prepared is None:
        return [(_Q, run.raw)]
    between = [(_D, _DESCRIBE)] if run.described else []
    return [(_B, run.raw[: run.end]), *between, (_E, _EXECUTE), (_S, _SYNC)]


def bound(data: bytes, pos: int, end: int, types: tuple[int, ...]) -> tuple[Parameter, ...] | None:
    """The values of a Bind that ends at `end`, from its format codes at `pos` on; None where it is not well formed.

    A length that leads out of the Bind leads past `end`, and positions only grow: one comparison at the end tells.
    """
    try:
        codes = _UINT16(data, pos)[0]
        forms = pos + 2
        pos = forms + 2 * codes
        values = _UINT16(data, pos)[0]
        pos += 2
        if codes > 1 and codes != values:
            return None
        binary = codes == 1 and _UINT16(data, forms)[0] == 1
        found = []
        known = len(types)
        for number in range(values):
            size = _INT32(data, pos)[0]
            pos += 4
            if codes > 1:
                binary = _UINT16(data, forms + 2 * number)[0] == 1
            kind = types[number] if number < known else 0
            if size >= 0:
                found.append(Parameter(kind, binary, data[pos : pos + size]))
                pos += size
            elif size == -1:
                found.append(Parameter(kind, binary, None))
            else:
                return None
        return tuple(found) if pos + 2 + 2 * _UINT16(data, pos)[0] == end else None
    except struct.error:
        return None
