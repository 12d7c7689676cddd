"""Two transports, one conversation: carries out its effects, records what it sends, and ends the session.

What breaks here ends the session, never the gateway; nothing is caught to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from muniment.doors.wire import dial
from muniment.doors.wire.catalogs import FRESH_US
from muniment.doors.wire.door import Door
from muniment.doors.wire.pipe import Pipe
from muniment.model.access import Session
from muniment.model.effects import Ask, Cancel, Close, Done, Effect, Look, Send, Side, Withdraw
from muniment.model.entries import SessionClose
from muniment.model.errors import ProtocolError, Unavailable
from muniment.model.exchange import Action, Statement
from muniment.model.verdict import Verdict
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.conversation import Conversation
from muniment.protocols.postgres.login import Ready
from muniment.services.decisions import parameters_json
from muniment.services.turnstile import Turnstile
from muniment.store.recordings import Recorder, path_of

log = logging.getLogger("muniment.wire")

STALE_US, RETRY_US = 300_000_000, 5_000_000  # how old names may become when the target does not give them; asked again
CHECK_S = 1.0  # how often age and idleness are looked at
TURN_S = 0.005  # a read that takes longer is followed by other sessions' reads
CHANNEL = {Side.TARGET: 0, Side.CLIENT: 1}
GONE_S = 30.0  # what a client sent before it hung up has this time to be taken by a slow target
NOTES, META = 2, 3


class Relay:
    """One open session: a `turnstile.Client`, a `sessions.LiveSession` and a `door.Cancellable`."""

    def __init__(
        self, door: Door, session: Session, ready: Ready, talk: Conversation, client: Pipe, target: Pipe
    ) -> None:
        self.session = session
        self._door = door
        self._ready = ready
        self._talk = talk
        self._client = client
        self._target = target
        self._gate = Turnstile(door.gate, session, self)
        self._now_us = door.now_us
        self._recorder = Recorder(path_of(door.evidence, session.id), door.keys, ses=session.id)
        self._originals: Recorder | None = None
        self._reason = ""
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopped: dict[Side, set[str]] = {Side.CLIENT: set(), Side.TARGET: set()}
        self._client_stopped = self._stopped[Side.CLIENT]
        self._gone_s = 0.0  # for how long a client that is not read has been known to be gone
        self._read_us = 0  # when what is handled now was read
        self._names_us = talk.catalog.loaded_at_us if talk.catalog is not None else session.opened_at_us
        self._names_due_us = self._names_us + FRESH_US  # when they are read again before anything is judged
        self._early: list[bytes] = []  # what the client said while its names were read again
        self._active_us = session.opened_at_us
        left_us = session.admission.expires_at_us - self._now_us()  # a clock that is set back prolongs nothing
        self._until = asyncio.get_running_loop().time() + left_us / 1e6

    async def run(self) -> None:
        """From the login to the end; returns when the session's end is recorded."""
        try:
            self._client.hand_over(self._from_client, self._client_lost, self._client_writable)
            self._target.hand_over(self._from_target, self._target_lost, self._target_writable)
            while not self._over.done():
                self._look_at_clock()
                await asyncio.wait([self._over], timeout=CHECK_S)
        finally:
            await self._finish()

    # --- bytes -----------------------------------------------------------------------------------------------------

    def _from_client(self, data: bytes) -> None:
        if self._early or self._now_us() > self._names_due_us:
            if not self._early:
                self._may_read(Side.CLIENT, "names", False)
                self._door.spawn(f"names {self.session.id}", self._renew())
            self._early.append(data)
            return
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        self._feed(Side.CLIENT, data)
        if self._talk.full and not self._reason:
            self._may_read(Side.CLIENT, "queue", False)

    def _from_target(self, data: bytes) -> None:
        self._feed(Side.TARGET, data)

    def _feed(self, side: Side, data: bytes) -> None:
        if self._reason:
            return
        began = monotonic()
        self._read_us = now_us = self._now_us()
        if side is Side.CLIENT:
            self._active_us = now_us
        try:
            self._do(self._talk.received(side, data))
        except Exception as error:
            self._ended_by(error)
        self._read_us = 0
        if monotonic() - began > TURN_S:  # one read of dense hits may take this long, and the loop does many in a row
            self._may_read(side, "turn", False)
            asyncio.get_running_loop().call_soon(self._may_read, side, "turn", True)

    def _later(self, work: Callable[[], list[Effect]]) -> None:
        """Go on after something that was waited for."""
        if self._reason:
            return
        try:
            self._do(work())
        except Exception as error:
            self._ended_by(error)

    def _ended_by(self, error: Exception) -> None:
        if isinstance(error, ProtocolError):
            log.warning("session %s: %s", self.session.id, error)
            self._end(f"protocol: {error}", "08P01", f"the {error.side.value} broke the protocol: {error.what}")
        elif isinstance(error, Unavailable):
            self.broken(error.what)
        else:
            log.error("session %s: our own fault; it is ended", self.session.id, exc_info=error)
            self._end("internal error", "XX000", "internal error of the gateway")

    def _do(self, effects: list[Effect]) -> None:
        """Carry out effects in order: one write a side, then the asks together."""
        asks: list[Ask] = []
        to_client: list[bytes] = []
        to_target: list[bytes] = []
        behind = False
        write = self._recorder.write
        for effect in effects:
            if isinstance(effect, Send):
                data = effect.data
                now_us = self._read_us or self._now_us()
                if effect.side is Side.CLIENT:
                    behind = write(now_us, 1, data)
                    to_client.append(data)
                    if effect.original is not None:
                        self._seal(now_us, 1, effect.original)
                else:
                    behind = write(now_us, 0, data if effect.recorded is None else effect.recorded)
                    to_target.append(data)
            elif isinstance(effect, Ask):
                asks.append(effect)
            elif isinstance(effect, Done):
                self._gate.ended(effect.ticket, effect.outcome)
            else:
                self._rarely(effect)
        if to_target:
            self._target.write(to_target[0] if len(to_target) == 1 else b"".join(to_target))
        if to_client:
            self._client.write(to_client[0] if len(to_client) == 1 else b"".join(to_client))
        if behind or (self._originals is not None and self._originals.behind):
            self._hold_back()
        if asks:
            self._gate.ask(asks)
        if self._client_stopped and not self._talk.full:
            self._may_read(Side.CLIENT, "queue", True)

    def _rarely(self, effect: Effect) -> None:
        match effect:
            case Withdraw(ticket):
                self._gate.withdraw(ticket, close=not self._client.closed)
            case Look(ticket, _):
                self._may_read(Side.TARGET, "look", False)
                self._door.spawn(f"look {self.session.id}", self._look(ticket))
            case Cancel():
                self._door.spawn(f"cancel {self.session.id}", self._cancel_target())
            case Close(reason):
                self._end(reason)

    def _seal(self, now_us: int, channel: int, data: bytes) -> None:
        """Originals go to the sealed stream, unless a mask says that they are forgotten."""
        masks = self._door.gate.masks(self._door.rules(), self.session.admission.target.name, self._talk.catalog)
        if masks is None or masks.forgets:
            return
        if self._originals is None:
            path = path_of(self._door.evidence, self.session.id, original=True)
            self._originals = Recorder(path, self._door.keys, ses=self.session.id)
        self._originals.write(now_us, channel, data)

    # --- services.turnstile.Client -----------------------------------------------------------------------------------

    def wants(self, ticket: int) -> bool:
        """See `services.turnstile.Client`."""
        return self._talk.wants(ticket)

    def ruled(self, rulings: Sequence[tuple[int, Verdict, Action | None]]) -> None:
        """See `services.turnstile.Client`."""
        if len(rulings) == 1:
            effects = self._talk.ruled(*rulings[0])
        else:
            effects = [effect for ruling in rulings for effect in self._talk.ruled(*ruling)]
        if not self._reason:
            self._do(effects)

    def told(self, message: str, hint: str) -> None:
        """See `services.turnstile.Client`."""
        self._later(lambda: self._talk.say(message, hint))

    def sealed(self, statement: Statement) -> None:
        """See `services.turnstile.Client`."""
        text = statement.text.encode("utf-8", "surrogateescape")
        self._seal(self._now_us(), META, text + b"\0" + parameters_json(statement.parameters).encode())

    def broken(self, why: str) -> None:
        """See `services.turnstile.Client`."""
        log.error("session %s ends: %s", self.session.id, why)
        self._end(f"unavailable: {why}", "57P01", f"the gateway can no longer record this session: {why}")

    # --- LiveSession, Cancellable ------------------------------------------------------------------------------------

    def cut(self, reason: str) -> None:
        """See `services.sessions.LiveSession`."""
        self._end(f"cut: {reason}", "57P01", f"terminating connection: {reason}")

    def cancel(self) -> None:
        """See `door.Cancellable`."""
        self._later(self._talk.cancelled)

    # --- waiting for others ----------------------------------------------------------------------------------------

    async def _cancel_target(self) -> None:
        try:
            if not await dial.cancel(self.session.admission.target, self._ready.target_pid, self._ready.target_key):
                # it could come later, and hit another query: there must be none
                self._end("the target keeps a cancel back", "57P01", "the target did not answer a cancel request")
        except Unavailable as down:
            log.warning("session %s: cancel was not delivered: %s", self.session.id, down)
        self._later(self._talk.cancel_over)

    async def _look(self, ticket: int) -> None:
        admission = self.session.admission
        names = self._talk.names
        try:
            catalog = await self._door.catalogs.fresh(
                admission.target.name, admission.database, admission.role, self._talk.catalog
            )
        except Unavailable as down:
            self.broken(down.what)
            return
        self._later(
            lambda: self._talk.found(
                ticket,
                names.replaced(catalog=catalog),
                self._door.gate.masks(self._door.rules(), admission.target.name, catalog),
            )
        )
        self._may_read(Side.TARGET, "look", True)

    async def _renew(self) -> None:
        """Names that others changed count within half a minute: read them before anything more is judged."""
        admission, known = self.session.admission, self._talk.catalog
        own = known is not None and known.version < 0
        try:
            if own:  # younger than what is shared
                catalog = await self._door.catalogs.fresh(
                    admission.target.name, admission.database, admission.role, known
                )
            else:
                catalog = await self._door.catalogs.get(admission.target.name, admission.database, admission.role)
        except Unavailable as down:
            now_us = self._now_us()
            if now_us - self._names_us > STALE_US:
                self.broken(down.what)
                return
            log.warning("session %s: names are not read again: %s", self.session.id, down)
            self._names_due_us = now_us + RETRY_US
        else:
            self._names_us = catalog.loaded_at_us
            self._names_due_us = self._names_us + FRESH_US
            if known is None or catalog.version != known.version:
                self._later(lambda: self._talk.renewed(catalog))
        early, self._early = self._early, []
        self._take_in(b"".join(early))
        self._may_read(Side.CLIENT, "names", True)

    def _hold_back(self) -> None:
        """The recording is behind: read nothing until it has caught up."""
        if "record" not in self._stopped[Side.CLIENT]:
            self._may_read(Side.CLIENT, "record", False)
            self._may_read(Side.TARGET, "record", False)
            self._door.spawn(f"record {self.session.id}", self._catch_up())

    async def _catch_up(self) -> None:
        try:
            await self._recorder.caught_up()
            if self._originals is not None:
                await self._originals.caught_up()
        except Unavailable as down:
            self.broken(down.what)
            return
        self._may_read(Side.CLIENT, "record", True)
        self._may_read(Side.TARGET, "record", True)

    def _may_read(self, side: Side, why: str, may: bool) -> None:
        """Stop or go on reading from a side; it is read only when nothing stops it."""
        stopped = self._stopped[side]
        pipe = self._client if side is Side.CLIENT else self._target
        if not may:
            if not stopped:
                pipe.pause()
            stopped.add(why)
        elif why in stopped:
            stopped.discard(why)
            if not stopped:
                pipe.resume()

    def _client_writable(self, may: bool) -> None:
        self._may_read(Side.TARGET, "client is slow", may)

    def _target_writable(self, may: bool) -> None:
        self._may_read(Side.CLIENT, "target is slow", may)

    def _look_at_clock(self) -> None:
        now_us = self._now_us()
        self._gone_s = self._gone_s + CHECK_S if self._client_stopped and self._client.hung_up() else 0.0
        if self._gone_s >= GONE_S:
            self._client_lost()
            return
        admission = self.session.admission
        if now_us >= admission.expires_at_us or asyncio.get_running_loop().time() >= self._until:
            self.cut("the session is as old as it may become")
            return
        rule = self._door.rules().identities.get(admission.identity.name)
        idle_s = rule.idle_s if rule is not None else 0
        if idle_s and not self._talk.busy and now_us - self._active_us > idle_s * 1_000_000:
            self.cut(f"idle for more than {idle_s} s")

    # --- the end ------------------------------------------------------------------------------------------------------

    def _client_lost(self) -> None:
        self._end("client hung up")

    def _target_lost(self) -> None:
        self._end("target hung up", "57P01", "the target closed the connection")

    def _end(self, reason: str, code: str = "", message: str = "") -> None:
        if self._reason:
            return
        self._reason = reason.encode("utf-8", "replace").decode()  # an operator's word may hold what is no text
        self._door.sessions.remove(self.session.id)
        if code and not self._client.closed:
            data = frames.error(code, message, severity="FATAL")
            with contextlib.suppress(Unavailable):  # it ends because of that, or is behind: the end must not fail
                self._recorder.write(self._now_us(), 1, data)
            self._client.write(data)
        for effect in self._talk.ended():
            if isinstance(effect, Withdraw):
                self._gate.withdraw(effect.ticket, close=False)
            elif isinstance(effect, Done):
                self._gate.ended(effect.ticket, effect.outcome)
        self._gate.close()
        if not self._target.closed:
            self._target.write(frames.TERMINATE)
            self._target.close()
        self._client.close()
        if not self._over.done():
            self._over.set_result(None)

    async def _finish(self) -> None:
        self._end("gateway")
        try:
            self._door.gate.flush()
        except Exception:  # our own fault; the session's end is recorded all the same
            log.exception("session %s: outcomes could not be recorded", self.session.id)
        shown = await self._recorder.end()
        original = await self._originals.end() if self._originals is not None else None
        reason = self._reason
        if failed := shown.failed or (original.failed if original is not None else ""):
            reason = f"{reason}; recording broke: {failed}"
        entry = SessionClose(
            ses=self.session.id,
            reason=reason[:200],
            exchanges=self._gate.exchanges,
            frames=shown.frames,
            recording=shown.stored_sha256,
            shown=shown.shown_root,
        )
        if original is not None:
            entry = replace(entry, originals=original.stored_sha256, original=original.shown_root)
        self._door.gate.journal.append_closing([entry])
        self._door.arithmetic.closed += 1
