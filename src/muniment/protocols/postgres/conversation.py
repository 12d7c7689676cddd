"""PostgreSQL after the login: who may speak when, what is asked, and what is put in the place of what was refused.

A refusal is always an error of the target's own: the refused message is replaced by an Execute of a portal that cannot
exist (and a Sync, where the message had one in it), and the target's error by ours. So transaction status, rollback and
skipping up to Sync stay the server's, and the target is in the state that the client was told.
Source: PostgreSQL manual, "Message Flow" (Simple Query, Extended Query, Pipelining, COPY Operations).
"""

from __future__ import annotations

from muniment.model.effects import Cancel, Effect, Send, Side, Withdraw
from muniment.model.exchange import Action, Catalog
from muniment.model.verdict import Deny, Masks, Verdict
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.meaning import Names
from muniment.protocols.postgres.state import IDLE, MAX_QUEUED_BYTES, State
from muniment.protocols.postgres.straight import Straight


class Conversation(Straight):
    """One session's steady state. Feed it bytes and rulings; do what the effects say, in their order."""

    @property
    def catalog(self) -> Catalog | None:
        """The catalogue by which names are resolved now."""
        return self._known.catalog

    @property
    def busy(self) -> bool:
        """Whether something runs at the target, or waits for a ruling."""
        return bool(self._run or self._expects or self._items)

    def wants(self, ticket: int) -> bool:
        """Whether this ticket still waits for its ruling."""
        run = self._run
        return ticket in self._asked or (run is not None and run.ticket == ticket and not run.sent)

    @property
    def full(self) -> bool:
        """Whether the client should not be read for now. The rest of a message that has begun to come is read, or it
        would never end; it is bounded by itself."""
        waiting = self._client_size if self._client_size >= self._client_need else 0
        return self._queued_bytes + waiting > MAX_QUEUED_BYTES

    def received(self, side: Side, data: bytes) -> list[Effect]:
        """Bytes came from `side`. ProtocolError: that side broke its language."""
        run = self._run
        if run is None:
            if side is Side.CLIENT and (effects := self._begin(data)) is not None:
                return effects
        elif side is Side.TARGET and (effects := self._finish(run, data)) is not None:
            return effects
        self._unfold()
        if side is Side.CLIENT:
            self._from_client(data)
        else:
            self._from_target(data)
        return self._take()

    def ruled(self, ticket: int, verdict: Verdict, action: Action | None) -> list[Effect]:
        """The answer to an `Ask`. A ticket that is no longer asked for is ignored. Hold: it waits; rule again later."""
        run = self._run
        if run is not None and run.ticket == ticket and (effects := self._allowed(run, verdict, action)) is not None:
            return effects
        self._unfold()
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
        self._unfold()
        if self._looking is not None and self._looking[0] == ticket:
            data = self._looking[1]
            self._looking = None
            self._known = self._with(catalog=names.catalog)
            if (exchange := self._current()) is not None:
                exchange.masks = masks
            self._from_target(data, looked=True)
        return self._take()

    def renewed(self, catalog: Catalog) -> list[Effect]:
        """A younger catalogue. One that the session changed itself, in a transaction that goes on, is read again there:
        nobody else can see it."""
        self._unfold()
        own = self._known.catalog is not None and self._known.catalog.version < 0
        if self.status == IDLE or not own:
            self._newer = catalog
        else:
            self._dirty = self._dirty_whole = True
            self._quiet()
        return self._take()

    def cancelled(self) -> list[Effect]:
        """The client asked, by the key we gave it, that what runs now be cancelled."""
        self._unfold()
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
        self._unfold()
        self._cancelling = False
        self._release()
        self._quiet()
        self._pump()
        return self._take()

    def ended(self) -> list[Effect]:
        """One side is gone. Withdraws what waits and ends what ran with an outcome that nobody knows."""
        self._unfold()
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
