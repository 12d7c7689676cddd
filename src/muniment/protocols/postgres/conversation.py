"""PostgreSQL after the login: who may speak when, what is asked, and what is put in the place of what was refused.

A refusal is always an error of the target's own: the refused message is replaced by an Execute of a portal that cannot
exist (and a Sync, where the message had one in it), and the target's error by ours. So transaction status, rollback and
skipping up to Sync stay the server's, and the target is in the state that the client was told.
Source: PostgreSQL manual, "Message Flow" (Simple Query, Extended Query, Pipelining, COPY Operations).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Any

from muniment.model.effects import Ask, Cancel, Close, Done, Effect, Look, Send, Side, Withdraw
from muniment.model.errors import ProtocolError
from muniment.model.exchange import Action, Catalog, Column, Outcome, Parameter, Phase, Statement
from muniment.model.verdict import Allow, Deny, Hold, Masks, RowPlan, Verdict
from muniment.protocols.postgres import catalogue, frames
from muniment.protocols.postgres.meaning import Names
from muniment.protocols.postgres.state import (
    Exchange,
    Expect,
    Inner,
    Item,
    Mode,
    Portal,
    Prepared,
    Shape,
    State,
)  # fmt: skip
from muniment.scan.rows import rewrite_rows, skip_rows

MAX_QUEUED_BYTES = 8 << 20  # of messages that wait for a ruling; then the client is not read
MAX_PLANS = 256
MAX_STATEMENTS = 10_000  # prepared statements that one session may keep
FIRST_USER_OID = 16384  # below it are the system's own relations, which every catalogue holds
OURS = b"muniment:"

IDLE, IN_TRANSACTION, FAILED = b"I"[0], b"T"[0], b"E"[0]
_Q, _P, _B, _E, _D, _C, _H, _S, _F, _X = b"QPBEDCHSFX"
_COPY_KINDS = frozenset(b"dcf")
_SHOWN_ALWAYS = ("S", "V", "C", "s", "t", "c", "d", "n", "F", "L", "R")  # fields of an error that hold no value

_FAST_PATH = Deny("protocol", "function calls by the fast-path message are refused", "Use SELECT function(...).")
_WITHHELD = "[message withheld: the statement touches protected data]"


class Conversation:
    """One session's steady state. Feed it bytes and rulings; do what the effects say, in their order.

    names: how names are resolved at the start; status: transaction status that the login ended with; number: unique to
    the session in this process, so that its private catalogues are told apart; now_us: of the catalogue's loads.
    """

    def __init__(self, names: Names, status: int, number: int, *, hold_in_transaction: bool = False) -> None:
        self.names = names
        self.status = status
        self.parameters: dict[str, str] = {}
        self._known: Names = names
        self._full: Names | None = names  # without, and with, what the session itself prepared and declared
        self._number = number
        self._loads = 0
        self._hold_in_transaction = hold_in_transaction
        self._tickets = 0
        self._out: list[Effect] = []
        self._client: list[bytes] = []
        self._client_size = self._client_need = 0
        self._target: list[bytes] = []
        self._target_size = self._target_need = 0
        self._items: deque[Item] = deque()
        self._queued_bytes = 0
        self._expects: deque[Expect] = deque()
        self._asked: dict[int, Item] = {}
        self._statements: dict[bytes, Prepared] = {}
        self._parsing: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Portal] = {}
        self._prepared: dict[str, str] = {}  # by PREPARE and by Parse, as EXECUTE finds them
        self._cursors: dict[str, str] = {}
        self._plans: dict[tuple[bytes, int, int, int], tuple[object, object, RowPlan | None]] = {}
        self._in_batch = False  # a message of the extended protocol was taken since the last Sync
        self._skipping = False  # the target ignores everything up to the next Sync
        self._copying_in = False
        self._dirty = self._dirty_whole = False
        self._transaction_dirty = self._transaction_whole = False
        self._refreshing = False
        self._cancelling = False
        self._looking: tuple[int, bytes] | None = None
        self._plan: RowPlan | None = None
        self._planned = False
        self._closed = False

    # --- what the relay calls ------------------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog | None:
        """The catalogue by which names are resolved now."""
        return self._known.catalog

    @property
    def busy(self) -> bool:
        """Whether something runs at the target, or waits for a ruling."""
        return bool(self._expects or self._items)

    def wants(self, ticket: int) -> bool:
        """Whether this ticket still waits for its ruling."""
        return ticket in self._asked

    @property
    def full(self) -> bool:
        """Whether the client should not be read for now."""
        return self._queued_bytes + self._client_size > MAX_QUEUED_BYTES

    def received(self, side: Side, data: bytes) -> list[Effect]:
        """Bytes came from `side`. ProtocolError: that side broke its language."""
        if side is Side.CLIENT:
            self._from_client(data)
        else:
            self._from_target(data)
        return self._take()

    def ruled(self, ticket: int, verdict: Verdict, action: Action | None) -> list[Effect]:
        """The answer to an `Ask`. A ticket that is no longer asked for is ignored. Hold: it waits; rule again later."""
        item = self._asked.get(ticket)
        if item is not None and item.exchange is not None:
            self._rule(item, item.exchange, verdict, action)
            self._release()
            self._pump()
        return self._take()

    def say(self, message: str, hint: str = "") -> list[Effect]:
        """A notice of the gateway's own for the client."""
        return [Send(Side.CLIENT, frames.notice(message, hint=hint))]

    def found(self, ticket: int, names: Names, masks: Masks | None) -> list[Effect]:
        """The answer to a `Look`: names with a younger catalogue, and the masks over it."""
        if self._looking is not None and self._looking[0] == ticket:
            data = self._looking[1]
            self._looking = None
            self._known = self._with(catalog=names.catalog)
            if self._expects and (exchange := self._expects[0].exchange) is not None:
                exchange.masks = masks
            self._from_target(data, looked=True)
        return self._take()

    def cancelled(self) -> list[Effect]:
        """The client asked, by the key we gave it, that what runs now be cancelled."""
        held = [item for item in self._items if item.state is State.HELD]
        if held:
            for item in held:
                assert item.exchange is not None
                self._out.append(Withdraw(item.exchange.ticket))
                self._deny(item, Deny("cancelled", "canceling statement due to user request"))
            self._release()
            self._pump()
        elif self._expects and not self._refreshing and not self._cancelling:
            self._cancelling = True
            self._out.append(Cancel())
        return self._take()

    def cancel_over(self) -> list[Effect]:
        """The target has closed the connection on which it was asked to cancel."""
        self._cancelling = False
        self._release()
        self._pump()
        return self._take()

    def ended(self) -> list[Effect]:
        """One side is gone. Withdraws what waits and ends what ran with an outcome that nobody knows."""
        self._closed = True
        for item in self._items:
            if item.state in (State.ASKED, State.HELD) and item.exchange is not None:
                self._out.append(Withdraw(item.exchange.ticket))
                self._done(item.exchange, "withdrawn")
        for expect in self._expects:
            if expect.exchange is not None:
                self._done(expect.exchange, "refused" if expect.exchange.denied else "unknown")
        for portal in self._portals.values():
            self._done(portal.exchange, "unexecuted")
        self._items.clear()
        self._expects.clear()
        return self._take()

    def _take(self) -> list[Effect]:
        effects, self._out = self._out, []
        return effects

    # --- the client's messages --------------------------------------------------------------------------------------

    def _from_client(self, data: bytes) -> None:
        if self._client:
            self._client.append(data)
            self._client_size += len(data)
            if self._client_size < self._client_need:
                return
            data = b"".join(self._client)
        self._client = [data] if data else []
        self._client_size = len(data)
        self._client_need = 0
        self._pump()

    def _pump(self) -> None:
        """Take whole messages while we may, ask for those that need it, release those that are free to go."""
        if not self._client or self._client_size < self._client_need:
            return
        data = self._client[0] if len(self._client) == 1 else b"".join(self._client)
        pos, size = 0, len(data)
        while pos < size and not self._closed:
            end = frames.head(Side.CLIENT, data, pos)
            if not end:
                if size - pos >= 5:
                    self._client_need = int.from_bytes(data[pos + 1 : pos + 5], "big") + 1
                break
            if not self._may_take(data[pos]):
                break
            self._message(data[pos], data[pos:end] if pos or end < size else data)
            pos = end
        rest = data[pos:] if pos else data
        self._client = [rest] if rest else []
        self._client_size = len(rest)

    def _may_take(self, kind: int) -> bool:
        if self._queued_bytes > MAX_QUEUED_BYTES or self._refreshing:
            return False
        if self._dirty and not self._in_batch and (self._expects or self._items):
            return False  # names have changed under it: wait for the quiet point
        if kind in _COPY_KINDS:
            return self._copying_in or not (self._expects or self._items)
        return True

    def _message(self, kind: int, raw: bytes) -> None:
        if kind in _COPY_KINDS:
            if self._copying_in:
                self._copying_in = kind == 100  # "d"; CopyDone and CopyFail end it
                self._out.append(Send(Side.TARGET, raw, recorded=self._copied(kind, raw)))
                if kind != 100:
                    self._expects.append(Expect(kind))
            return  # out of COPY the server ignores them, and so do we
        if self._copying_in:
            if kind in (_H, _S):
                return  # ignored by the server too until the copying ends
            if kind != _X:
                raise ProtocolError(Side.CLIENT, f"message {chr(kind)} in the middle of COPY FROM STDIN")
        item = Item(kind, raw, State.READY)
        if kind == _Q:
            text, stop = frames.cstring(Side.CLIENT, raw, 5, len(raw))
            self._whole(stop, raw)
            self._ask(item, self._statement(_decode(text)))
        elif kind == _P:
            self._parse(item)
        elif kind == _B:
            self._bind(item)
        elif kind == _E:
            self._execute(item)
        elif kind in (_D, _C):
            self._describe_or_close(item)
        elif kind == _F:
            function, _ = frames.int32(Side.CLIENT, raw, 5, len(raw))
            self._ask(item, self._statement(f"fast-path call of function {function & 0xFFFFFFFF}"))
        self._in_batch = kind not in (_Q, _S, _F) if kind != _X else self._in_batch
        self._items.append(item)
        self._queued_bytes += len(raw)
        self._release()

    def _copied(self, kind: int, raw: bytes) -> bytes | None:
        """What the recording holds of a line that is copied in: values that a detector finds are masked in it."""
        masks = self._expects[0].exchange.masks if self._expects and self._expects[0].exchange else None
        if masks is None or kind != 100:
            return None
        text, hits = masks.text(_decode(raw[5:]))
        return frames.frame(b"d", text.encode("utf-8", "surrogateescape")) if hits else None

    @staticmethod
    def _whole(stop: int, raw: bytes) -> None:
        if stop != len(raw):
            raise ProtocolError(Side.CLIENT, f"message {chr(raw[0])} has bytes left over")

    def _statement(self, text: str, parameters: tuple[Parameter, ...] = (), phase: Phase = Phase.EXECUTE) -> Statement:
        quiet = not self._exchange_ahead()
        may_wait = quiet and (self.status == IDLE or self._hold_in_transaction)
        return Statement(text, parameters, self._names_now(text), phase, may_wait)

    def _exchange_ahead(self) -> bool:
        """Whether something that runs was released, or waits, since the target was last idle."""
        ahead = any(item.kind in (_Q, _B, _E, _F) for item in self._items)
        return ahead or any(expect.kind in (_Q, _B, _E) for expect in self._expects)

    def _names_now(self, text: str) -> Names:
        """How names are resolved for this text. The session's own prepared statements and cursors come along only
        where a keyword that refers to one stands in it, so that all else is read from caches that sessions share."""
        if self._dirty:
            return self._with(path=None)
        if (self._prepared or self._cursors) and _REFERS.search(text):
            if self._full is None:
                self._full = self._known.replaced(prepared=dict(self._prepared), cursors=dict(self._cursors))
            return self._full
        return self._known

    def _ask(self, item: Item, statement: Statement) -> None:
        self._tickets += 1
        item.exchange = item.exchange or Exchange(self._tickets)
        item.exchange.ticket = self._tickets
        item.statement = statement
        item.state = State.ASKED
        self._asked[self._tickets] = item
        self._out.append(Ask(self._tickets, statement))

    def _parse(self, item: Item) -> None:
        raw, end = item.raw, len(item.raw)
        name, pos = frames.cstring(Side.CLIENT, raw, 5, end)
        text, pos = frames.cstring(Side.CLIENT, raw, pos, end)
        number, pos = frames.count(Side.CLIENT, raw, pos, end)
        if pos + 4 * number != end:
            raise ProtocolError(Side.CLIENT, "Parse is not as long as it says")
        self._not_ours(name)
        types = tuple(int.from_bytes(raw[p : p + 4], "big") for p in range(pos, end, 4))
        prepared = Prepared(name, _decode(text), types)
        if name and name not in self._statements and len(self._statements) + len(self._parsing) >= MAX_STATEMENTS:
            raise ProtocolError(Side.CLIENT, f"more than {MAX_STATEMENTS} prepared statements")
        item.prepared = prepared
        self._parsing[name] = prepared
        self._ask(item, self._statement(prepared.text, phase=Phase.PREPARE))
        prepared.exchange = item.exchange

    @staticmethod
    def _not_ours(name: bytes) -> None:
        if name.startswith(OURS):
            raise ProtocolError(Side.CLIENT, "names that begin with 'muniment:' are the gateway's")

    def _bind(self, item: Item) -> None:
        raw, end = item.raw, len(item.raw)
        portal, pos = frames.cstring(Side.CLIENT, raw, 5, end)
        name, pos = frames.cstring(Side.CLIENT, raw, pos, end)
        self._not_ours(portal)
        self._not_ours(name)
        prepared = self._parsing.get(name) or self._statements.get(name)
        parameters = _parameters(raw, pos, prepared.types if prepared else ())
        if prepared is not None:
            text = prepared.text
        else:  # made by PREPARE, or not at all: read it as the EXECUTE that it is
            text = 'EXECUTE "' + _decode(name).replace('"', '""') + '"'
        self._ask(item, self._statement(text, parameters))
        assert item.exchange is not None and item.statement is not None
        item.portal = Portal(portal, item.statement, item.exchange)
        self._portals[portal] = item.portal
        if len(self._portals) > MAX_STATEMENTS:
            raise ProtocolError(Side.CLIENT, f"more than {MAX_STATEMENTS} portals")

    def _execute(self, item: Item) -> None:
        name, pos = frames.cstring(Side.CLIENT, item.raw, 5, len(item.raw))
        _, pos = frames.int32(Side.CLIENT, item.raw, pos, len(item.raw))
        self._whole(pos, item.raw)
        self._not_ours(name)
        portal = self._portals.get(name)
        if portal is None:  # a cursor that DECLARE made is a portal too: read it as the FETCH that it is
            text = 'FETCH ALL FROM "' + _decode(name).replace('"', '""') + '"'
            self._ask(item, self._statement(text))
            assert item.exchange is not None and item.statement is not None
            item.portal = Portal(name, item.statement, item.exchange)
            return
        item.portal = portal
        if not portal.executed:
            portal.executed = True
            item.exchange = portal.exchange
            return
        old = portal.statement
        portal.planned = False
        self._ask(item, self._statement(old.text, old.parameters))

    def _describe_or_close(self, item: Item) -> None:
        raw = item.raw
        if len(raw) < 7 or raw[5] not in b"SP":
            raise ProtocolError(Side.CLIENT, f"message {chr(raw[0])} names neither a statement nor a portal")
        name, pos = frames.cstring(Side.CLIENT, raw, 6, len(raw))
        self._whole(pos, raw)
        self._not_ours(name)
        if raw[5] == 83:  # "S"
            item.prepared = self._parsing.get(name) or self._statements.get(name)
        else:
            item.portal = self._portals.get(name)

    # --- rulings ----------------------------------------------------------------------------------------------------

    def _rule(self, item: Item, exchange: Exchange, verdict: Verdict, action: Action | None) -> None:
        exchange.action = action
        if item.kind == _F:
            verdict = _FAST_PATH
        match verdict:
            case Hold() if item.statement is not None and item.statement.phase is Phase.EXECUTE:
                item.state = State.HELD
                if self._expects and item is self._items[0]:
                    self._out.append(Send(Side.TARGET, frames.FLUSH))  # earlier replies come out while it waits
                return
            case Deny():
                self._deny(item, verdict)
                return
            case Allow():
                exchange.masks = verdict.masks
                exchange.shown = verdict.shown
            case Hold():
                pass
        if exchange.masks is not None and action is not None:
            exchange.protected = exchange.masks.protects(action)
        self._asked.pop(exchange.ticket, None)
        item.state = State.READY
        if action is not None and action.changes_names and item.statement and item.statement.phase is Phase.EXECUTE:
            self._ask_again_behind(item, action)

    def _deny(self, item: Item, verdict: Deny) -> None:
        assert item.exchange is not None
        self._asked.pop(item.exchange.ticket, None)
        item.exchange.denied = verdict
        item.state = State.DENIED

    def _ask_again_behind(self, item: Item, action: Action) -> None:
        """Names mean something else behind this item: what was asked under the old ones is asked anew.

        Up to the next Sync nothing can be read in between, so it is asked with unknown names; what comes later goes
        back to the client's bytes and is taken again at the quiet point.
        """
        self._mark_dirty(action)
        behind = list(self._items)[self._items.index(item) + 1 :]
        same_batch = item.kind != _Q
        again: list[bytes] = []
        for later in behind:
            asked = later.statement is not None and later.exchange is not None
            if asked and later.exchange is not None:
                if later.state is State.READY:
                    self._done(later.exchange, "withdrawn")
                    later.exchange.done = False
                self._asked.pop(later.exchange.ticket, None)
            if not same_batch:
                again.append(later.raw)
                self._items.remove(later)
                self._queued_bytes -= len(later.raw)
            elif asked and later.statement is not None:
                old = later.statement
                self._ask(later, Statement(old.text, old.parameters, self._names_now(old.text), old.phase, False))
            same_batch = same_batch and later.kind != _S
        if again:
            self._in_batch = False
            self._client = [*again, *self._client]
            self._client_size += sum(map(len, again))
            self._client_need = 0

    def _mark_dirty(self, action: Action) -> None:
        self._dirty = True
        whole = bool(action.verbs & _DEFINING)
        self._dirty_whole = self._dirty_whole or whole
        self._transaction_dirty = True
        self._transaction_whole = self._transaction_whole or whole

    # --- release to the target ------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Send what is free to go, in order, up to the first item that must wait."""
        if self._cancelling or self._closed:
            return
        parts: list[bytes] = []
        instead: dict[int, bytes] = {}  # what the recording holds in the place of a part
        while self._items:
            item = self._items[0]
            if item.state in (State.ASKED, State.HELD, State.NEW):
                if item.state is State.HELD and parts:
                    parts.append(frames.FLUSH)
                break
            self._items.popleft()
            self._queued_bytes -= len(item.raw)
            if item.state is State.DENIED:
                self._release_denied(item, parts)
            else:
                self._release_ready(item, parts)
                if item.exchange is not None and item.exchange.shown is not None and parts and parts[-1] is item.raw:
                    instead[len(parts) - 1] = _without_values(item)
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            recorded = b"".join(instead.get(at, part) for at, part in enumerate(parts)) if instead else None
            self._out.append(Send(Side.TARGET, data, recorded=recorded))

    def _release_denied(self, item: Item, parts: list[bytes]) -> None:
        exchange = item.exchange
        assert exchange is not None and exchange.denied is not None
        self._unparse(item)
        if self._skipping:
            self._done(exchange, "refused")
            return
        denied = exchange.denied
        parts.append(frames.execute(f"muniment:{exchange.ticket}"))
        expect = Expect(_E, Mode.REPLACE)
        expect.exchange = exchange
        code = "57014" if denied.rule == "cancelled" else "0A000" if denied is _FAST_PATH else "42501"
        message = denied.message if denied.rule in ("cancelled", "protocol") else f"{denied.rule}: {denied.message}"
        expect.error = frames.error(code, message, detail=denied.detail, hint=denied.hint)
        self._expects.append(expect)
        if item.kind in (_Q, _F):
            parts.append(frames.SYNC)
            self._expects.append(Expect(_S))
        else:
            self._skipping = True

    def _unparse(self, item: Item) -> None:
        """A Parse that never reaches the target makes no statement; the same for a Bind's portal."""
        if item.prepared is not None and self._parsing.get(item.prepared.name) is item.prepared:
            del self._parsing[item.prepared.name]
        if item.kind == _B and item.portal is not None and self._portals.get(item.portal.name) is item.portal:
            del self._portals[item.portal.name]

    def _release_ready(self, item: Item, parts: list[bytes]) -> None:
        kind, exchange = item.kind, item.exchange
        if self._skipping and kind not in (_S, _X):
            if exchange is not None:
                self._done(exchange, "skipped")
            self._unparse(item)
            return
        if kind in (_H, _X):
            parts.append(item.raw)
            if kind == _X:
                self._out.append(Close("client"))
            return
        expect = Expect(kind)
        expect.exchange = exchange
        expect.prepared, expect.portal = item.prepared, item.portal
        if kind == _S:
            self._skipping = False
        elif kind == _D and item.portal is not None:
            item.portal.described = item.portal.exchange.masks is not None
        elif kind == _E and item.portal is not None:
            self._before_execute(item.portal, exchange, parts)
        parts.append(item.raw)
        self._expects.append(expect)

    def _before_execute(self, portal: Portal, exchange: Exchange | None, parts: list[bytes]) -> None:
        """Rows are masked by their description; one that the client did not ask for, we ask for."""
        if exchange is not None and exchange.masks is not None and not portal.described:
            portal.described = True
            parts.append(frames.describe_portal(portal.name))
            expect = Expect(_D, Mode.SWALLOW)
            expect.portal, expect.exchange = portal, exchange
            self._expects.append(expect)

    # --- the target's messages ---

    def _from_target(self, data: bytes, *, looked: bool = False) -> None:
        if self._looking is not None:
            self._looking = (self._looking[0], self._looking[1] + data)
            return
        if self._target:
            self._target.append(data)
            self._target_size += len(data)
            if self._target_size < self._target_need:
                return
            data = b"".join(self._target)
            self._target = []
        self._target_size = self._target_need = 0
        pos, start, size = 0, 0, len(data)
        while pos < size:
            kind = data[pos]
            if kind == 68:  # "D": rows are stepped over together
                after = self._rows(data, pos, start)
                if after != pos:
                    start = after if self._plan is not None or self._swallowing() else start
                    pos = after
                    continue
            end = frames.head(Side.TARGET, data, pos)
            if not end:
                if size - pos >= 5:
                    self._target_need = int.from_bytes(data[pos + 1 : pos + 5], "big") + 1
                break
            if kind == 68:
                raise ProtocolError(Side.TARGET, "a DataRow that cannot be read")
            if kind == 84 and not looked and self._must_look(data[pos + 5 : end]):
                self._pass(data, start, pos)
                assert self._looking is not None
                self._looking = (self._looking[0], data[pos:])
                return
            looked = False
            shown = self._reply(kind, data, pos, end)
            if shown is not None:
                self._pass(data, start, pos)
                if shown:
                    self._out.append(Send(Side.CLIENT, shown))
                start = end
            pos = end
            if kind == 90:  # "Z": our own questions and the client's next messages come between
                self._pass(data, start, pos)
                start = pos
                self._quiet()
        self._pass(data, start, pos)
        if pos < size:
            rest = data[pos:]
            self._target = [rest]
            self._target_size = len(rest)
        if self._client and not self._refreshing:
            self._pump()

    def _pass(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            self._out.append(Send(Side.CLIENT, data if end - start == len(data) else data[start:end]))

    def _swallowing(self) -> bool:
        return bool(self._expects) and self._expects[0].mode is Mode.SWALLOW

    def _rows(self, data: bytes, pos: int, start: int) -> int:
        """Handle the whole DataRows at `pos`. Returns where they end; where they are masked, all before is passed."""
        rows, after = skip_rows(data, pos)
        if not rows:
            return pos
        expect = self._head(b"QE", "DataRow")
        if expect.mode is Mode.SWALLOW:
            self._pass(data, start, pos)
            if expect.inner is not None:
                expect.inner.rows += [frames.data_row(body) for _, body in frames.split(Side.TARGET, data[pos:after])]
            return after
        exchange = expect.exchange
        assert exchange is not None
        if expect.kind == _E and expect.portal is not None:
            self._plan_portal(expect.portal, exchange)
        elif exchange.masks is not None and not self._planned:
            raise ProtocolError(Side.TARGET, "rows without a description")
        exchange.rows += rows
        exchange.bytes += after - pos
        plan = self._plan
        if plan is None:
            return after
        self._pass(data, start, pos)
        block = data[pos:after]
        if plan.may_hit is not None and not plan.may_hit(block):
            self._out.append(Send(Side.CLIENT, block))
            return after
        try:
            shown, changed = rewrite_rows(block, plan.maskers)
        except ValueError as bad:
            raise ProtocolError(Side.TARGET, str(bad)) from None
        self._out.append(Send(Side.CLIENT, shown, block if changed else None))
        if changed:
            self._collect(plan, exchange)
        return after

    @staticmethod
    def _collect(plan: RowPlan, exchange: Exchange) -> None:
        for name, hits in plan.counts.items():
            exchange.masked[name] = exchange.masked.get(name, 0) + hits
        plan.counts.clear()

    def _plan_portal(self, portal: Portal, exchange: Exchange) -> None:
        if exchange.masks is None:
            self._plan = None
            return
        if portal.shape is None:
            raise ProtocolError(Side.TARGET, "rows of a portal without a description")
        if not portal.planned:
            portal.planned = True
            portal.plan = exchange.masks.plan(portal.shape, exchange.action, 0)
        self._plan = portal.plan

    def _must_look(self, body: bytes) -> bool:
        """Whether a description names relations that our catalogue does not have; then ask for a younger one."""
        exchange = self._expects[0].exchange if self._expects else None
        catalog = self._known.catalog
        if exchange is None or exchange.masks is None or catalog is None:
            return False
        origins = {table for _, table, _, _, _ in frames.row_description(body)}
        unknown = frozenset(oid for oid in origins if oid >= FIRST_USER_OID and oid not in catalog.by_oid)
        if not unknown:
            return False
        self._tickets += 1
        self._looking = (self._tickets, b"")
        self._out.append(Look(self._tickets, unknown))
        return True

    def _head(self, kinds: bytes, what: str) -> Expect:
        if not self._expects or self._expects[0].kind not in kinds:
            raise ProtocolError(Side.TARGET, f"{what} that nothing asked for")
        return self._expects[0]

    def _reply(self, kind: int, data: bytes, pos: int, end: int) -> bytes | None:
        """Handle one message. Returns None to pass it as it is, else what to send in its place (empty: nothing)."""
        handler = _HANDLERS.get(kind)
        if handler is None:
            raise ProtocolError(Side.TARGET, f"message {chr(kind)} has no place here")
        return handler(self, data, pos, end)

    def _pop(self, kinds: bytes, what: str) -> Expect:
        expect = self._head(kinds, what)
        self._expects.popleft()
        return expect

    @staticmethod
    def _shown(expect: Expect) -> bytes | None:
        return b"" if expect.mode is Mode.SWALLOW else None

    def _on_parse_complete(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._pop(b"P", "ParseComplete")
        if (prepared := expect.prepared) is not None:
            if self._parsing.get(prepared.name) is prepared:
                del self._parsing[prepared.name]
            self._statements[prepared.name] = prepared
            if prepared.name:
                self._prepared[_decode(prepared.name)] = prepared.text
                self._full = None
        return self._shown(expect)

    def _on_bind_complete(self, data: bytes, pos: int, end: int) -> bytes | None:
        return self._shown(self._pop(b"B", "BindComplete"))

    def _on_close_complete(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._pop(b"C", "CloseComplete")
        if expect.prepared is not None and self._statements.get(expect.prepared.name) is expect.prepared:
            del self._statements[expect.prepared.name]
            self._prepared.pop(_decode(expect.prepared.name), None)
            self._full = None
        if expect.portal is not None and self._portals.get(expect.portal.name) is expect.portal:
            del self._portals[expect.portal.name]
            self._done(expect.portal.exchange, "unexecuted")
        return self._shown(expect)

    def _on_no_data(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._pop(b"D", "NoData")
        if expect.portal is not None:
            expect.portal.shape = ()
        return self._shown(expect)

    def _on_parameter_description(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._head(b"D", "ParameterDescription")
        number, at = frames.count(Side.TARGET, data, pos + 5, end)
        if at + 4 * number != end:
            raise ProtocolError(Side.TARGET, "ParameterDescription is not as long as it says")
        if expect.prepared is not None:
            types = tuple(int.from_bytes(data[p : p + 4], "big") for p in range(at, end, 4))
            expect.prepared.types = types
        return self._shown(expect)

    def _on_row_description(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._head(b"QD", "RowDescription")
        body = data[pos + 5 : end]
        exchange = expect.exchange
        if expect.kind == _D:
            self._expects.popleft()
            if expect.portal is not None and expect.portal.exchange.masks is not None:
                expect.portal.shape = _shape(body)
            return self._shown(expect)
        assert exchange is not None
        exchange.nth += 1
        self._planned = True
        self._plan = None
        if exchange.masks is not None:
            self._plan = self._plan_for(body, exchange)
        return None

    def _plan_for(self, body: bytes, exchange: Exchange) -> RowPlan | None:
        masks, action = exchange.masks, exchange.action
        assert masks is not None
        key = (body, id(action), id(masks), exchange.nth)
        kept = self._plans.get(key)
        if kept is None:
            plan = masks.plan(_shape(body), action, exchange.nth)
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            kept = self._plans[key] = (action, masks, plan)  # kept alive, so that an id is never another's
        return kept[2]

    def _on_command_complete(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._head(b"QE", "CommandComplete")
        self._copying_in = False
        self._drop_copy_marks()
        exchange = expect.exchange
        if exchange is not None:
            tag = data[pos + 5 : end - 1].decode("utf-8", "replace")
            exchange.tag = tag
            self._remember(exchange, tag)
        self._planned, self._plan = False, None
        if expect.kind == _E:
            self._expects.popleft()
            if exchange is not None:
                self._done(exchange, "ok")
        return self._shown(expect)

    def _drop_copy_marks(self) -> None:
        if any(expect.kind in _COPY_KINDS for expect in self._expects):
            self._expects = deque(expect for expect in self._expects if expect.kind not in _COPY_KINDS)

    def _on_empty_query(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._head(b"QE", "EmptyQueryResponse")
        if expect.kind == _E:
            self._expects.popleft()
            if expect.exchange is not None:
                self._done(expect.exchange, "ok")
        return self._shown(expect)

    def _on_suspended(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._pop(b"E", "PortalSuspended")
        if expect.exchange is not None:
            expect.exchange.tag = "SUSPENDED"
            self._done(expect.exchange, "ok")
        return self._shown(expect)

    def _on_copy_in(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._head(b"QE", "CopyInResponse")
        self._copying_in = True
        if expect.kind == _E:  # the server ignores a Sync that was sent before the copying ended
            self._expects = deque(e for e in self._expects if e.kind != _S)
        return None

    def _on_copy_out(self, data: bytes, pos: int, end: int) -> bytes | None:
        exchange = self._head(b"QE", "CopyOutResponse").exchange
        if data[pos] == 72 and exchange is not None and exchange.masks is not None and data[pos + 5 : pos + 6] != b"\0":
            raise ProtocolError(Side.TARGET, "a binary COPY out cannot be masked")
        return None

    def _on_copy_data(self, data: bytes, pos: int, end: int) -> bytes | None:
        """One line of COPY TO STDOUT; columns are not masked here (such a COPY is refused), but values are."""
        exchange = self._head(b"QE", "CopyData").exchange
        if exchange is None:
            return None
        exchange.bytes += end - pos
        exchange.rows += 1
        if exchange.masks is None:
            return None
        text, hits = exchange.masks.text(_decode(data[pos + 5 : end]))
        if not hits:
            return None
        for name, number in hits.items():
            exchange.masked[name] = exchange.masked.get(name, 0) + number
        return frames.frame(b"d", text.encode("utf-8", "surrogateescape"))

    def _on_error(self, data: bytes, pos: int, end: int) -> bytes | None:
        values = frames.fields(Side.TARGET, data[pos + 5 : end])
        code = values.get("C", "")
        self._copying_in = False
        self._drop_copy_marks()
        self._planned, self._plan = False, None
        if not self._expects:  # the server speaks for itself: it is going down, or ends us
            return self._redacted(b"E", values, None)
        expect = self._expects[0]
        exchange = expect.exchange
        if exchange is not None and not exchange.code:
            exchange.code = code
            self._forget_doubtful(exchange)
        shown: bytes | None
        if expect.mode is Mode.REPLACE and code == "34000":
            shown = expect.error
        elif expect.inner is not None:
            expect.inner.failed, shown = code, b""
        else:
            shown = self._redacted(b"E", values, exchange)
        if expect.kind != _Q:
            self._skip_to_sync()
        return shown

    def _forget_doubtful(self, exchange: Exchange) -> None:
        """Of several statements some failed: what they would have prepared or declared is not known any more."""
        action = exchange.action
        if action is not None and "several-statements" in action.traits and action.defines:
            for kind, name, _ in action.defines:
                (self._prepared if kind == "prepared" else self._cursors).pop(name, None)
            self._full = None

    def _skip_to_sync(self) -> None:
        """After an error in the extended protocol the server ignores everything up to Sync."""
        while self._expects and self._expects[0].kind != _S:
            expect = self._expects.popleft()
            exchange = expect.exchange
            if exchange is not None and (expect.kind in (_E, _B)):
                denied = exchange.denied is not None
                self._done(exchange, "refused" if denied else "error" if exchange.code else "skipped")
            if expect.prepared is not None and self._parsing.get(expect.prepared.name) is expect.prepared:
                del self._parsing[expect.prepared.name]
            if expect.kind == _B and expect.portal is not None:
                self._portals.pop(expect.portal.name, None)
        if not self._expects:
            self._skipping = True

    def _redacted(self, kind: bytes, values: dict[str, str], exchange: Exchange | None) -> bytes | None:
        masks = exchange.masks if exchange is not None else None
        if masks is None or exchange is None:
            return None
        if exchange.protected:
            shown = {name: values[name] for name in values if name in _SHOWN_ALWAYS}
            shown["M"] = _WITHHELD
            exchange.masked["message"] = exchange.masked.get("message", 0) + 1
            return frames.report(kind, shown)
        changed = False
        for name in ("M", "D", "H", "W", "q"):
            if name in values:
                text, hits = masks.text(values[name])
                if hits:
                    values[name], changed = text, True
                    for each, number in hits.items():
                        exchange.masked[each] = exchange.masked.get(each, 0) + number
        return frames.report(kind, values) if changed else None

    def _on_notice(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._expects[0] if self._expects else None
        if expect is not None and expect.inner is not None:
            return b""
        exchange = expect.exchange if expect is not None else None
        return self._redacted(b"N", frames.fields(Side.TARGET, data[pos + 5 : end]), exchange)

    def _on_notification(self, data: bytes, pos: int, end: int) -> bytes | None:
        exchange = self._expects[0].exchange if self._expects else None
        masks = exchange.masks if exchange is not None else self._last_masks
        if masks is None:
            return None
        at = pos + 9
        channel, at = frames.cstring(Side.TARGET, data, at, end)
        payload, _ = frames.cstring(Side.TARGET, data, at, end)
        text, hits = masks.text(_decode(payload))
        if not hits:
            return None
        return frames.frame(b"A", data[pos + 5 : pos + 9] + channel + b"\0" + text.encode() + b"\0")

    def _on_parameter(self, data: bytes, pos: int, end: int) -> bytes | None:
        name, at = frames.cstring(Side.TARGET, data, pos + 5, end)
        value, _ = frames.cstring(Side.TARGET, data, at, end)
        self.parameters[_decode(name)] = _decode(value)
        if name == b"standard_conforming_strings" and value != b"on":
            raise ProtocolError(Side.TARGET, "standard_conforming_strings was turned off")
        return None

    def _on_ready(self, data: bytes, pos: int, end: int) -> bytes | None:
        if end - pos != 6:
            raise ProtocolError(Side.TARGET, "ReadyForQuery is not as long as it should be")
        self._drop_copy_marks()
        self._copying_in = False
        while self._expects and self._expects[0].kind not in (_Q, _S):  # ignored by the server since an error
            gone = self._expects.popleft()
            if gone.exchange is not None:
                self._done(gone.exchange, "refused" if gone.exchange.denied else "skipped")
        expect = self._pop(b"QS", "ReadyForQuery")
        self.status = data[pos + 5]
        exchange = expect.exchange
        if expect.kind == _Q and exchange is not None:
            self._last_masks = exchange.masks
            self._done(exchange, "error" if exchange.code else "ok")
        if self.status == IDLE and not self._items and not self._expects:
            for portal in self._portals.values():
                self._done(portal.exchange, "unexecuted")
            self._portals.clear()
        if expect.inner is not None:
            self._refreshed(expect.inner)
        return self._shown(expect)

    _last_masks: Masks | None = None

    # --- names --------------------------------------------------------------------------------------------------------

    def _remember(self, exchange: Exchange, tag: str) -> None:
        """A statement succeeded: keep what it prepared or declared, drop what it deallocated or closed."""
        action = exchange.action
        if action is None or not (action.defines or action.forgets):
            return
        for kind, name in action.forgets:
            table = self._prepared if kind == "prepared" else self._cursors
            if name == "*":
                table.clear()
                if kind == "prepared":
                    self._statements = {k: v for k, v in self._statements.items() if not k}
            else:
                table.pop(name, None)
                if kind == "prepared":
                    self._statements.pop(name.encode(), None)
        for kind, name, text in action.defines:
            (self._prepared if kind == "prepared" else self._cursors)[name] = text
        self._full = None

    def _with(self, **changes: Any) -> Names:
        self._full = None
        return self._known.replaced(**changes)

    def _quiet(self) -> None:
        """The target is idle. If names may have changed, read them before anything else is judged."""
        if self._expects or self._refreshing or self._closed:
            return
        if self.status == IDLE and self._transaction_dirty:
            self._dirty = True
            self._dirty_whole = self._dirty_whole or self._transaction_whole
            self._transaction_dirty = self._transaction_whole = False
        if self._dirty and self.status != FAILED and not self._exchange_waiting():
            self._refreshing = True
            inner = Inner(self._dirty_whole, [])
            self._send_inner(inner)

    def _exchange_waiting(self) -> bool:
        return any(item.state is State.READY for item in self._items)

    def _send_inner(self, inner: Inner) -> None:
        """Our question, in the extended protocol: a Query would destroy the client's unnamed statement."""
        text = catalogue.PATH_QUERY
        if inner.whole:
            text += "UNION ALL" + catalogue.CATALOG_QUERY
        name = OURS + b"names"
        close = frames.frame(b"C", b"S" + name + b"\0")
        parts = [
            close,
            frames.frame(b"P", name + b"\0" + text.encode() + b"\0\0\0"),
            frames.frame(b"B", name + b"\0" + name + b"\0" + b"\0" * 6),
            frames.execute(name.decode()),
            frames.frame(b"C", b"P" + name + b"\0"),
            close,
            frames.SYNC,
        ]
        for kind in (_C, _P, _B, _E, _C, _C, _S):
            expect = Expect(kind, Mode.SWALLOW)
            expect.inner = inner
            self._expects.append(expect)
        self._out.append(Send(Side.TARGET, b"".join(parts)))

    def _refreshed(self, inner: Inner) -> None:
        self._refreshing = False
        if inner.failed:
            self._closed = True
            message = "the gateway could not read the session's names"
            self._out.append(Send(Side.CLIENT, frames.error("08006", message, severity="FATAL")))
            self._out.append(Close(f"names: {inner.failed}"))
            return
        paths = [row for row in inner.rows if row[0] in (b"p", b"t")]
        path, temporary = catalogue.read_path(paths)
        catalog = self._known.catalog
        if inner.whole and catalog is not None:
            self._loads += 1
            version = -((self._number << 24) + self._loads)
            rows = [row for row in inner.rows if row[0] not in (b"p", b"t")]
            catalog = catalogue.read_catalog(rows, catalog.database, version, catalog.loaded_at_us)
        self._dirty = self._dirty_whole = False
        self._known = self._with(path=path, temporary=temporary, catalog=catalog)

    def _done(self, exchange: Exchange, status: str) -> None:
        if exchange.done:
            return
        exchange.done = True
        masked = tuple(sorted(exchange.masked.items()))
        outcome = Outcome(status, exchange.rows, exchange.bytes, exchange.code, exchange.tag, masked)
        self._out.append(Done(exchange.ticket, outcome))


_REFERS = re.compile(r"execute|fetch|move|close|deallocate|discard|current\s+of|prepare|declare", re.IGNORECASE)
_DEFINING = frozenset({"create", "drop", "alter", "truncate", "grant", "revoke", "reassign", "import", "comment"})

_HANDLERS: dict[int, Callable[[Conversation, bytes, int, int], bytes | None]] = {
    b"1"[0]: Conversation._on_parse_complete,
    b"2"[0]: Conversation._on_bind_complete,
    b"3"[0]: Conversation._on_close_complete,
    b"n"[0]: Conversation._on_no_data,
    b"t"[0]: Conversation._on_parameter_description,
    b"T"[0]: Conversation._on_row_description,
    b"C"[0]: Conversation._on_command_complete,
    b"I"[0]: Conversation._on_empty_query,
    b"s"[0]: Conversation._on_suspended,
    b"G"[0]: Conversation._on_copy_in,
    b"H"[0]: Conversation._on_copy_out,
    b"d"[0]: Conversation._on_copy_data,
    b"c"[0]: Conversation._on_copy_out,
    b"E"[0]: Conversation._on_error,
    b"N"[0]: Conversation._on_notice,
    b"A"[0]: Conversation._on_notification,
    b"S"[0]: Conversation._on_parameter,
    b"Z"[0]: Conversation._on_ready,
}


def _without_values(item: Item) -> bytes:
    """A Query, Parse or Bind as the record may hold it: literals replaced, no parameters."""
    exchange = item.exchange
    shown = (exchange.shown or "").encode("utf-8", "replace") if exchange is not None else b""
    if item.kind == _Q:
        return frames.frame(b"Q", shown + b"\0")
    if item.kind == _P and item.prepared is not None:
        return frames.frame(b"P", item.prepared.name + b"\0" + shown + b"\0\0\0")
    if item.kind == _B:
        end = item.raw.index(b"\0", item.raw.index(b"\0", 5) + 1) + 1
        return frames.frame(b"B", item.raw[5:end] + b"\0" * 6)
    return item.raw


def _decode(data: bytes) -> str:
    """Text of the client's; bytes that are no UTF-8 stay as lone surrogates, which the reader refuses to read."""
    return data.decode("utf-8", "surrogateescape")


def _shape(body: bytes) -> Shape:
    return tuple(
        Column(name, (table, column) if table else None, kind, form == 1)
        for name, table, column, kind, form in frames.row_description(body)
    )


def _parameters(raw: bytes, pos: int, types: tuple[int, ...]) -> tuple[Parameter, ...]:
    """The bound values of a Bind, from its format codes on."""
    side, end = Side.CLIENT, len(raw)
    number, pos = frames.count(side, raw, pos, end)
    formats = []
    for _ in range(number):
        form, pos = frames.int16(side, raw, pos, end)
        formats.append(form == 1)
    values, pos = frames.count(side, raw, pos, end)
    if number > 1 and number != values:
        raise ProtocolError(side, "Bind has another number of formats than of values")
    found = []
    for index in range(values):
        size, pos = frames.int32(side, raw, pos, end)
        if size < -1 or pos + max(size, 0) > end:
            raise ProtocolError(side, "Bind is cut short")
        binary = formats[index] if number > 1 else bool(formats) and formats[0]
        value = None if size == -1 else raw[pos : pos + size]
        found.append(Parameter(types[index] if index < len(types) else 0, binary, value))
        pos += max(size, 0)
    results, pos = frames.count(side, raw, pos, end)
    if pos + 2 * results != end:
        raise ProtocolError(side, "Bind is not as long as it says")
    return tuple(found)
