"""From a ruling to the target: what is released, what is put in the place of what was refused."""

from __future__ import annotations

from muniment.model.effects import Ask, Close, Send, Side
from muniment.model.exchange import Action, Parameter, Phase, Statement
from muniment.model.verdict import Allow, Deny, Hold, Verdict
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.naming import Naming
from muniment.protocols.postgres.state import ENDING, IDLE, RUNNING, Exchange, Expect, Item, Mode, Portal, State

_Q, _P, _B, _E, _D, _C, _H, _S, _F, _X = b"QPBEDCHSFX"
_FAST_PATH = Deny("protocol", "function calls by the fast-path message are refused", "Use SELECT function(...).")


class Releasing(Naming):
    """Asks, hears rulings, and releases in order."""

    def _statement(self, text: str, parameters: tuple[Parameter, ...] = (), phase: Phase = Phase.EXECUTE) -> Statement:
        quiet = not self._exchange_ahead()
        may_wait = quiet and (self.status == IDLE or self._hold_in_transaction)
        return Statement(text, parameters, self._names_now(text), phase, may_wait)

    def _exchange_ahead(self) -> bool:
        """Whether something that runs was taken since the target was last idle: up to its Sync even what has been
        answered may hold locks."""
        return self._running > self._answered

    def _ask(self, item: Item, statement: Statement) -> None:
        self._tickets += 1
        item.exchange = item.exchange or Exchange(self._tickets)
        item.exchange.ticket = self._tickets
        item.statement = statement
        item.state = State.ASKED
        self._asked[self._tickets] = item
        self._out.append(Ask(self._tickets, statement))

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
                self._last_masks = verdict.masks
                exchange.shown = verdict.shown
            case Hold():
                pass
        if exchange.masks is not None and action is not None:
            exchange.protected = exchange.masks.tells(action)
            self._touched = exchange if exchange.protected else self._touched
        self._asked.pop(exchange.ticket, None)
        item.state = State.READY
        executes = item.statement is not None and item.statement.phase is Phase.EXECUTE
        if action is not None and executes and self._moves_names(action):
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
            self._batches -= sum(raw[0] in ENDING for raw in again)
            self._running = max(each.batch for each in self._items if each.kind in RUNNING)
            self._in_batch = False
            self._client = [*again, *self._client]
            self._client_size += sum(map(len, again))
            self._client_need = 0

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
            self._answered += item.kind in ENDING
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
            self._answered += kind in ENDING
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
