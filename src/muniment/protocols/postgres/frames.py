"""Bytes of PostgreSQL's protocol 3.0: whole frames out of a stream, and the few messages that we write ourselves.

Source: PostgreSQL manual, "Frontend/Backend Protocol": "Message Formats", "Error and Notice Message Fields".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from muniment.model.effects import Side
from muniment.model.errors import ProtocolError

MAX_FRAME_BYTES = 64 << 20  # one message; a longer one is refused before it is read
MAX_STARTUP_BYTES = 10_000  # what the server itself accepts for a startup packet
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102
PROTOCOL_3 = 196608

CLIENT_KINDS = frozenset(b"QPBEDCHSFdcfX")
TARGET_KINDS = frozenset(b"123ACDEGHIKNRSTVWZcdnstv")

_INT32 = struct.Struct("!i")
_INT16 = struct.Struct("!h")
_COLUMN = struct.Struct("!ihihih")  # table, column number, type, type size, type modifier, format

SSL_REQUEST_PACKET = struct.pack("!ii", 8, SSL_REQUEST)
SYNC = b"S\x00\x00\x00\x04"
FLUSH = b"H\x00\x00\x00\x04"
TERMINATE = b"X\x00\x00\x00\x04"


def head(side: Side, data: bytes, pos: int) -> int:
    """Where the frame that starts at `pos` ends; 0 while it is not whole. ProtocolError: unknown kind, bad length.

    A kind and length that cannot be are refused as soon as they are seen, not when the frame is whole.
    """
    have = len(data) - pos
    if have < 1:
        return 0
    kind = data[pos]
    if kind not in (CLIENT_KINDS if side is Side.CLIENT else TARGET_KINDS):
        raise ProtocolError(side, f"unknown message type 0x{kind:02x}")
    if have < 5:
        return 0
    size: int = _INT32.unpack_from(data, pos + 1)[0]
    if size < 4:
        raise ProtocolError(side, f"message {chr(kind)} has a length of {size}")
    if size + 1 > MAX_FRAME_BYTES:
        raise ProtocolError(side, f"message {chr(kind)} of {size} bytes is longer than {MAX_FRAME_BYTES}")
    end = pos + 1 + size
    return end if end - pos <= have else 0


def split(side: Side, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every whole frame of a recorded stretch of bytes as (kind, body); what is left over is dropped."""
    pos = 0
    while end := head(side, data, pos):
        yield data[pos], data[pos + 5 : end]
        pos = end


def frame(kind: bytes, body: bytes) -> bytes:
    """One message."""
    return kind + _INT32.pack(len(body) + 4) + body


def cstring(side: Side, data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """The zero-terminated text at `pos` and the position after it. ProtocolError when it does not end before `end`."""
    stop = data.find(b"\0", pos, end)
    if stop < 0:
        raise ProtocolError(side, "text without an end")
    return data[pos:stop], stop + 1


def int16(side: Side, data: bytes, pos: int, end: int) -> tuple[int, int]:
    """A signed 16-bit number and the position after it."""
    if pos + 2 > end:
        raise ProtocolError(side, "message is cut short")
    return _INT16.unpack_from(data, pos)[0], pos + 2


def int32(side: Side, data: bytes, pos: int, end: int) -> tuple[int, int]:
    """A signed 32-bit number and the position after it."""
    if pos + 4 > end:
        raise ProtocolError(side, "message is cut short")
    return _INT32.unpack_from(data, pos)[0], pos + 4


def count(side: Side, data: bytes, pos: int, end: int) -> tuple[int, int]:
    """An unsigned 16-bit count (parameters go to 65,535) and the position after it."""
    number, pos = int16(side, data, pos, end)
    return number & 0xFFFF, pos


def fields(side: Side, body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their one-letter names."""
    found: dict[str, str] = {}
    pos, end = 0, len(body)
    while pos < end and body[pos]:
        name = chr(body[pos])
        value, pos = cstring(side, body, pos + 1, end)
        found[name] = value.decode("utf-8", "replace")
    return found


def report(kind: bytes, values: dict[str, str]) -> bytes:
    """An ErrorResponse ("E") or NoticeResponse ("N") with these fields; text may not hold a zero byte."""
    parts = [
        name.encode() + text.replace("\0", "\ufffd").encode("utf-8", "replace") + b"\0" for name, text in values.items()
    ]
    return frame(kind, b"".join(parts) + b"\0")


def error(code: str, message: str, *, detail: str = "", hint: str = "", severity: str = "ERROR") -> bytes:
    """An ErrorResponse of our own."""
    values = {"S": severity, "V": severity, "C": code, "M": message}
    if detail:
        values["D"] = detail
    if hint:
        values["H"] = hint
    return report(b"E", values)


def notice(message: str, *, detail: str = "", hint: str = "") -> bytes:
    """A NoticeResponse of our own."""
    values = {"S": "NOTICE", "V": "NOTICE", "C": "00000", "M": message}
    if detail:
        values["D"] = detail
    if hint:
        values["H"] = hint
    return report(b"N", values)


def query(text: str) -> bytes:
    """A Query message."""
    return frame(b"Q", text.encode() + b"\0")


def execute(portal: str) -> bytes:
    """An Execute message without a row limit."""
    return frame(b"E", portal.encode() + b"\0" + b"\0\0\0\0")


def describe_portal(portal: bytes) -> bytes:
    """A Describe of a portal."""
    return frame(b"D", b"P" + portal + b"\0")


def row_description(body: bytes) -> tuple[tuple[str, int, int, int, int], ...]:
    """The columns of a RowDescription: (name, table id, column number, type id, format)."""
    side = Side.TARGET
    number, pos = count(side, body, 0, len(body))
    columns = []
    for _ in range(number):
        name, pos = cstring(side, body, pos, len(body))
        if pos + 18 > len(body):
            raise ProtocolError(side, "RowDescription is cut short")
        table, column, kind, _size, _modifier, form = _COLUMN.unpack_from(body, pos)
        columns.append((name.decode("utf-8", "replace"), table & 0xFFFFFFFF, column, kind & 0xFFFFFFFF, form))
        pos += 18
    if pos != len(body):
        raise ProtocolError(side, "RowDescription has bytes left over")
    return tuple(columns)


def data_row(body: bytes) -> list[bytes | None]:
    """The values of one DataRow."""
    side = Side.TARGET
    number, pos = count(side, body, 0, len(body))
    values: list[bytes | None] = []
    for _ in range(number):
        size, pos = int32(side, body, pos, len(body))
        if size == -1:
            values.append(None)
            continue
        if size < 0 or pos + size > len(body):
            raise ProtocolError(side, "DataRow is cut short")
        values.append(body[pos : pos + size])
        pos += size
    return values
