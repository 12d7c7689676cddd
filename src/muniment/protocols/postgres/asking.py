"""The client's messages: whole ones are taken while they may be, and asked about where they run something."""

from __future__ import annotations

from dataclasses import replace

from muniment.model.effects import Send, Side
from muniment.model.errors import ProtocolError
from muniment.model.exchange import Parameter, Phase
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.releasing import Releasing
from muniment.protocols.postgres.state import (
    COPY_KINDS,
    ENDING,
    FEW_ITEMS,
    MAX_EXPECTS,
    MAX_ITEMS,
    MAX_QUEUED_BYTES,
    MAX_STATEMENTS,
    OURS,
    RUNNING,
    Expect,
    Item,
    Portal,
    Prepared,
    State,
    decode,
)  # fmt: skip

_Q, _P, _B, _E, _D, _C, _H, _S, _F, _X = b"QPBEDCHSFX"
MAX_NAME_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1


class Asking(Releasing):
    """Takes the client's messages in order."""

    def _from_client(self, data: bytes) -> None:
        if data:
            self._client.append(data)
            self._client_size += len(data)
            self._pump()

    def _pump(self) -> None:
        """Take whole messages while we may, ask for those that need it, release those that are free to go."""
        if not self._client or self._client_size < self._client_need or not self._may_take(self._client[0][0]):
            return
        self._client_need = 0
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
        if kind == _X and not self._items:
            return True  # a good-bye need not wait for what we ask in between
        if self._queued_bytes > MAX_QUEUED_BYTES or self._refreshing or len(self._expects) >= MAX_EXPECTS:
            return False
        self._crowded = len(self._items) >= (FEW_ITEMS if self._crowded else MAX_ITEMS)
        if self._crowded:
            return False
        if self._dirty and not self._in_batch and (self._expects or self._items or self._cancelling):
            return False  # names have changed under it: wait for the quiet point
        if kind in COPY_KINDS:
            return self._copying_in or not (self._expects or self._items)
        return True

    def _message(self, kind: int, raw: bytes) -> None:
        if kind in COPY_KINDS:
            if self._copying_in:
                self._copying_in = kind == 100  # "d"; CopyDone and CopyFail end it
                self._out.append(Send(Side.TARGET, raw, recorded=self._copied(kind, raw)))
                if kind != 100:
                    self._expects.append(Expect(kind))
                    self._copy_ends = True
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
            self._ask(item, self._statement(self._read(text)))
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
        item.batch = self._batches + 1
        if kind in RUNNING:
            self._running = item.batch
        if kind in ENDING:
            self._batches = item.batch
        self._items.append(item)
        self._queued_bytes += len(raw)
        self._release()

    def _copied(self, kind: int, raw: bytes) -> bytes | None:
        """What the recording holds of a line that is copied in: nothing of one for a protected relation, else the line,
        with the values masked that a detector finds."""
        exchange = self._expects[0].exchange if self._expects else None
        masks = exchange.masks if exchange is not None else None
        if masks is None or exchange is None or kind != 100:
            return None
        if exchange.protected:  # which of the values stands in which column, nobody has looked at
            return frames.frame(b"d", b"[withheld]\n")
        text, hits = masks.text(decode(raw[5:]))
        return frames.frame(b"d", text.encode("utf-8", "surrogateescape")) if hits else None

    @staticmethod
    def _whole(stop: int, raw: bytes) -> None:
        if stop != len(raw):
            raise ProtocolError(Side.CLIENT, f"message {chr(raw[0])} has bytes left over")

    def _read(self, text: bytes) -> str:
        """A statement's text as the target reads it; bytes that are no text stay as lone surrogates: unreadable."""
        return text.decode(self._codec, "surrogateescape")

    def _parse(self, item: Item) -> None:
        raw, end = item.raw, len(item.raw)
        name, pos = frames.cstring(Side.CLIENT, raw, 5, end)
        text, pos = frames.cstring(Side.CLIENT, raw, pos, end)
        number, pos = frames.count(Side.CLIENT, raw, pos, end)
        if pos + 4 * number != end:
            raise ProtocolError(Side.CLIENT, "Parse is not as long as it says")
        self._not_ours(name)
        types = tuple(int.from_bytes(raw[p : p + 4], "big") for p in range(pos, end, 4))
        prepared = Prepared(name, self._read(text), types)
        if name and name not in self._statements and len(self._statements) + len(self._parsing) >= MAX_STATEMENTS:
            raise ProtocolError(Side.CLIENT, f"more than {MAX_STATEMENTS} prepared statements")
        item.prepared = prepared
        self._parsing[name] = prepared
        self._ask(item, self._statement(prepared.text, phase=Phase.PREPARE))
        prepared.exchange = item.exchange

    @staticmethod
    def _not_ours(name: bytes) -> None:
        """Refuse names that the server has in another form: it cuts long ones off without a word, and takes those that
        are not ASCII out of the client's encoding."""
        if name.startswith(OURS):
            raise ProtocolError(Side.CLIENT, "names that begin with 'muniment:' are the gateway's")
        if len(name) > MAX_NAME_BYTES or not name.isascii():
            raise ProtocolError(Side.CLIENT, f"a statement's or portal's name is not ASCII of {MAX_NAME_BYTES} bytes")

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
            text = 'EXECUTE "' + decode(name).replace('"', '""') + '"'
        self._ask(item, self._statement(text, parameters))
        assert item.exchange is not None and item.statement is not None
        item.portal = Portal(portal, item.statement, item.exchange)
        self._portals[portal] = item.portal
        self._forget_name(self._cursors, portal)
        if len(self._portals) > MAX_STATEMENTS:
            raise ProtocolError(Side.CLIENT, f"more than {MAX_STATEMENTS} portals")

    def _execute(self, item: Item) -> None:
        name, pos = frames.cstring(Side.CLIENT, item.raw, 5, len(item.raw))
        _, pos = frames.int32(Side.CLIENT, item.raw, pos, len(item.raw))
        self._whole(pos, item.raw)
        self._not_ours(name)
        portal = self._portals.get(name)
        if portal is None:  # a cursor that DECLARE made is a portal too: read it as the FETCH that it is
            text = 'FETCH ALL FROM "' + decode(name).replace('"', '""') + '"'
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
        names = self._statement(old.text, old.parameters)
        self._ask(item, replace(names, names=old.names))  # it was planned when it was bound, whatever names mean now

    def _forget_name(self, table: dict[str, str], name: bytes) -> None:
        """The name means something else from here on, or nothing."""
        if table.pop(decode(name), None) is not None:
            self._full = None

    def _describe_or_close(self, item: Item) -> None:
        raw = item.raw
        if len(raw) < 7 or raw[5] not in b"SP":
            raise ProtocolError(Side.CLIENT, f"message {chr(raw[0])} names neither a statement nor a portal")
        name, pos = frames.cstring(Side.CLIENT, raw, 6, len(raw))
        self._whole(pos, raw)
        self._not_ours(name)
        if raw[5] == 83:  # "S"
            item.prepared = self._parsing.get(name) or self._statements.get(name)
            if raw[0] == _C and item.prepared is None:
                self._forget_name(self._prepared, name)
        else:
            item.portal = self._portals.get(name)
            if raw[0] == _C:
                self._forget_name(self._cursors, name)


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
