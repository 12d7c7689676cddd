"""The target's messages: each is the reply that is due, or comes at any time, or breaks the protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from muniment.model.effects import Look, Send, Side
from muniment.model.errors import ProtocolError
from muniment.model.verdict import Masks
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.showing import Showing, shape_of
from muniment.protocols.postgres.startup import codec_of
from muniment.protocols.postgres.state import COPY_KINDS, IDLE, STATUSES, Expect, Mode, decode, encode

_FREE_TEXT = (b"application_name", b"search_path")  # reported settings that a statement may set to what it has read
_Q, _P, _B, _E, _D, _C, _H, _S, _F, _X = b"QPBEDCHSFX"


class Answering(Showing):
    """Follows the replies, in the order of what was sent."""

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
            if kind == 84 and not looked and (unknown := self._unknown(data[pos + 5 : end])):
                self._pass(data, start, pos)
                self._tickets += 1
                self._out.append(Look(self._tickets, unknown))
                self._looking = (self._tickets, data[pos:])
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
                self._prepared[decode(prepared.name)] = prepared.text
                self._full = None
        return self._shown(expect)

    def _on_bind_complete(self, data: bytes, pos: int, end: int) -> bytes | None:
        return self._shown(self._pop(b"B", "BindComplete"))

    def _on_close_complete(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._pop(b"C", "CloseComplete")
        if expect.prepared is not None and self._statements.get(expect.prepared.name) is expect.prepared:
            del self._statements[expect.prepared.name]
            self._prepared.pop(decode(expect.prepared.name), None)
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
                expect.portal.shape = shape_of(body)
            return self._shown(expect)
        assert exchange is not None
        exchange.nth += 1
        self._planned = True
        self._plan = None
        if exchange.masks is not None:
            self._plan = self._plan_for(body, exchange)
        return None

    def _on_command_complete(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._head(b"QE", "CommandComplete")
        self._copying_in = False
        self._drop_copy_marks()
        exchange = expect.exchange
        if exchange is not None:
            tag = data[pos + 5 : end - 1].decode("utf-8", "replace")
            exchange.tag = tag
            if tag == "ROLLBACK":
                self._drop_cursors(self._young)
            self._remember(exchange, tag)
        self._planned, self._plan = False, None
        if expect.kind == _E:
            self._expects.popleft()
            if exchange is not None:
                self._done(exchange, "ok")
        return self._shown(expect)

    def _drop_copy_marks(self) -> None:
        if self._copy_ends:
            self._copy_ends = False
            self._expects = deque(expect for expect in self._expects if expect.kind not in COPY_KINDS)

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
            kept = deque(e for e in self._expects if e.kind != _S)
            self._batches -= len(self._expects) - len(kept)
            self._running = min(self._running, self._batches + 1)
            self._expects = kept
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
        text, hits = exchange.masks.text(decode(data[pos + 5 : end]))
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
        self._drop_cursors(self._young)
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

    def _on_notice(self, data: bytes, pos: int, end: int) -> bytes | None:
        expect = self._expects[0] if self._expects else None
        if expect is not None and expect.inner is not None:
            return b""
        exchange = expect.exchange if expect is not None else None
        return self._redacted(b"N", frames.fields(Side.TARGET, data[pos + 5 : end]), exchange)

    def _on_notification(self, data: bytes, pos: int, end: int) -> bytes | None:
        channel, at = frames.cstring(Side.TARGET, data, pos + 9, end)
        payload, _ = frames.cstring(Side.TARGET, data, at, end)
        masks, _ = self._masks_now()
        if masks is None:
            return None
        shown = [masks.text(decode(text)) for text in (channel, payload)]
        if not any(hits for _, hits in shown):
            return None
        return frames.frame(b"A", data[pos + 5 : pos + 9] + b"".join(encode(text) + b"\0" for text, _ in shown))

    def _masks_now(self) -> tuple[Masks | None, bool]:
        """The masks of what comes now, and whether the statement that it may be of touches protected data."""
        exchange = self._expects[0].exchange if self._expects else None
        return (exchange.masks, exchange.protected) if exchange is not None else (self._last_masks, False)

    def _on_parameter(self, data: bytes, pos: int, end: int) -> bytes | None:
        name, at = frames.cstring(Side.TARGET, data, pos + 5, end)
        value, _ = frames.cstring(Side.TARGET, data, at, end)
        if name == b"standard_conforming_strings" and value != b"on":
            raise ProtocolError(Side.TARGET, "standard_conforming_strings was turned off")
        if name == b"client_encoding" and codec_of(decode(value)) != self._codec:
            raise ProtocolError(Side.TARGET, "client_encoding was changed")
        masks, protected = self._masks_now()
        if masks is None:
            return None
        text, hits = masks.text(decode(value))
        if not hits and not (protected and name in _FREE_TEXT):
            return None
        return frames.frame(b"S", name + b"\0" + (encode(text) if hits else b"") + b"\0")

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
        if self.status not in STATUSES:
            raise ProtocolError(Side.TARGET, "ReadyForQuery has no known status")
        exchange = expect.exchange
        if expect.kind == _Q and exchange is not None:
            self._done(exchange, "error" if exchange.code else "ok")
        if self.status == IDLE:
            self._touched = None
            self._transaction_ended()
        if self.status == IDLE and not self._items and not self._expects:
            for portal in self._portals.values():
                self._done(portal.exchange, "unexecuted")
            self._portals.clear()
        if expect.inner is not None:
            self._refreshed(expect.inner)
        else:
            self._answered += 1
        return self._shown(expect)


_HANDLERS: dict[int, Callable[[Answering, bytes, int, int], bytes | None]] = {
    b"1"[0]: Answering._on_parse_complete,
    b"2"[0]: Answering._on_bind_complete,
    b"3"[0]: Answering._on_close_complete,
    b"n"[0]: Answering._on_no_data,
    b"t"[0]: Answering._on_parameter_description,
    b"T"[0]: Answering._on_row_description,
    b"C"[0]: Answering._on_command_complete,
    b"I"[0]: Answering._on_empty_query,
    b"s"[0]: Answering._on_suspended,
    b"G"[0]: Answering._on_copy_in,
    b"H"[0]: Answering._on_copy_out,
    b"d"[0]: Answering._on_copy_data,
    b"c"[0]: Answering._on_copy_out,
    b"E"[0]: Answering._on_error,
    b"N"[0]: Answering._on_notice,
    b"A"[0]: Answering._on_notification,
    b"S"[0]: Answering._on_parameter,
    b"Z"[0]: Answering._on_ready,
}
