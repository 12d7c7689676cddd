"""Recorded bytes as people read them: rows as tables, notices, errors, command tags, in their order and time.

What is shown is what the client was shown, masked values masked. The statements themselves come from the journal: a
statement that was refused never went anywhere, so it is in no recording.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from muniment.model.effects import Side
from muniment.model.errors import ProtocolError
from muniment.protocols.postgres import frames
from muniment.store.recordings import Frame, RecordingError, Unfinished

ROWS_AT_ONCE = 100  # rows of one event: a long result is shown in parts, so memory stays small
MAX_SHOWN = 2000  # characters of one value
_TO_TARGET = 0
_NUMBERS = {
    16: "?",
    21: "!h",
    23: "!i",
    20: "!q",
    26: "!I",
    700: "!f",
    701: "!d",
}  # type ids of the catalogue: pg_type.dat
_TEXTS = frozenset((18, 19, 25, 114, 142, 705, 1042, 1043))


@dataclass(frozen=True, slots=True)
class Shown:
    """Something that the client was shown. what: rows | notice | error | complete | copy | note; columns and rows only
    with rows (None: NULL)."""

    t_us: int
    what: str
    text: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()


def render(protocol: str, recorded: Iterator[Frame]) -> Iterator[Shown]:
    """What the client was shown, from a recording of this protocol. A recording that is damaged or has no end is read
    as far as it goes, and the last event says so."""
    reader = READERS.get(protocol)
    t_us = 0
    try:
        if reader is None:
            yield Shown(0, "note", f"recordings of {protocol!r} cannot be shown by this release")
            return
        for shown in reader(recorded):
            t_us = shown.t_us
            yield shown
    except Unfinished as error:
        yield Shown(t_us, "note", f"the recording has no end: {error.what}")
    except RecordingError as error:
        yield Shown(t_us, "note", f"the recording cannot be read on from here: {error}")
    except ProtocolError as error:
        yield Shown(t_us, "note", f"the recorded bytes cannot be read on from here: {error}")


class _Postgres:
    """Reads what went to the client, one message at a time."""

    def __init__(self) -> None:
        self.columns: tuple[tuple[str, int, int, int, int], ...] = ()
        self.rows: list[tuple[str | None, ...]] = []
        self.since = 0
        self.copied = 0

    def message(self, t_us: int, kind: int, body: bytes) -> Iterator[Shown]:
        """What one message shows, behind the rows that came before it."""
        if kind == ord("D"):
            if not self.rows:
                self.since = t_us
            self.rows.append(self._row(body))
            if len(self.rows) >= ROWS_AT_ONCE:
                yield from self.flush()
            return
        if kind == ord("d"):
            self.copied += len(body)
            return
        yield from self.flush()
        match chr(kind):
            case "T":
                self.columns = frames.row_description(body)
            case "C":
                yield Shown(t_us, "complete", body.rstrip(b"\0").decode("utf-8", "replace"))
            case "E" | "N" as letter:
                yield Shown(t_us, "error" if letter == "E" else "notice", _report(frames.fields(Side.TARGET, body)))
            case "G":
                yield Shown(t_us, "copy", "COPY: the target takes data from the client")
            case "c" if self.copied:
                yield Shown(t_us, "copy", f"COPY: {self.copied} bytes to the client")
                self.copied = 0
            case "s":
                yield Shown(t_us, "note", "portal suspended: more rows may be fetched")
            case _:
                pass

    def _row(self, body: bytes) -> tuple[str | None, ...]:
        values = frames.data_row(body)
        known = len(self.columns) == len(values)
        return tuple(
            None
            if value is None
            else value_text(value, self.columns[n][3] if known else 0, known and self.columns[n][4])
            for n, value in enumerate(values)
        )

    def flush(self) -> Iterator[Shown]:
        """The rows that wait, as one table."""
        if not self.rows:
            return
        width = len(self.rows[0])
        # a statement that is executed again need not be described again: its columns then have no names here
        names = tuple(column[0] for column in self.columns) if len(self.columns) == width else ("?",) * width
        rows, self.rows = tuple(self.rows), []
        yield Shown(self.since, "rows", table(names, rows), names, rows)


def _postgres(recorded: Iterator[Frame]) -> Iterator[Shown]:
    reader = _Postgres()
    inboxes: dict[int, bytes] = {}
    copied_in = 0
    for t_us, channel, data in recorded:
        if channel > 2:
            continue
        side = Side.CLIENT if channel == _TO_TARGET else Side.TARGET
        inbox = inboxes.get(channel, b"") + data
        pos = 0
        while end := frames.head(side, inbox, pos):
            kind, body = inbox[pos], inbox[pos + 5 : end]
            pos = end
            if side is Side.TARGET:
                yield from reader.message(t_us, kind, body)
            elif kind == ord("d"):
                copied_in += len(body)
            elif kind in b"cf" and copied_in:
                yield Shown(t_us, "copy", f"COPY: {copied_in} bytes from the client")
                copied_in = 0
        inboxes[channel] = inbox[pos:]
    yield from reader.flush()


READERS: dict[str, Callable[[Iterator[Frame]], Iterator[Shown]]] = {"postgres": _postgres}


def _report(fields: dict[str, str]) -> str:
    lines = [f"{fields.get('S', '?')}:  {fields.get('M', '')}" + (f" ({fields['C']})" if "C" in fields else "")]
    lines += [f"{name}:  {fields[letter]}" for letter, name in (("D", "DETAIL"), ("H", "HINT")) if letter in fields]
    return "\n".join(lines)


def value_text(value: bytes, kind: int, binary: bool | int) -> str:
    """One value as text. kind: the type's id, 0 unknown. A binary value of a type that is not known here is hex.

    A description made before the formats were chosen says "text" of what then came in binary, so that text which is
    not printable is taken for binary too.
    """
    text = ""
    if not binary or kind in _TEXTS:
        try:
            text = value.decode()
            if all(letter.isprintable() or letter in "\t\n\r" for letter in text):
                return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + f"… ({len(text)} characters)"
        except UnicodeDecodeError:
            pass
    form = _NUMBERS.get(kind)
    if form and struct.calcsize(form) == len(value):
        number = struct.unpack(form, value)[0]
        return ("t" if number else "f") if kind == 16 else str(number)
    if kind == 2950 and len(value) == 16:
        return str(uuid.UUID(bytes=value))
    shown = value[: MAX_SHOWN // 2].hex()
    return f"\\x{shown}" + (f"… ({len(value)} bytes)" if len(value) > MAX_SHOWN // 2 else "")


def table(columns: tuple[str, ...], rows: tuple[tuple[str | None, ...], ...]) -> str:
    """Rows as psql prints them."""
    cells = [tuple("" if value is None else _one_line(value) for value in row) for row in rows]
    head = tuple(_one_line(name) for name in columns)
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [" " + " | ".join(name.center(width) for name, width in zip(head, widths, strict=True)).rstrip()]
    lines.append("-" + "-+-".join("-" * width for width in widths) + "-")
    lines += [
        " " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """Text that cannot move a terminal's cursor or break the table."""
    return "".join(letter if letter.isprintable() else "↵" if letter == "\n" else "·" for letter in text)
