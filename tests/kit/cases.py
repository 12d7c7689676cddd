"""What the kit needs to know of a language: how its bytes look. One `Case` for each entry of LANGUAGES."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from muniment.judge.masking import masks_for
from muniment.model.effects import Side
from muniment.model.exchange import Catalog, Relation
from muniment.model.rules import Mask, Selector
from muniment.model.verdict import Masks
from muniment.protocols.postgres import frames
from tests.scan.frames import row
from tests.transcripts import tapes

Chunks = list[tuple[Side, bytes]]
CARD = b"4111111111111111"
READY = b"Z\0\0\0\x05I"


@dataclass(frozen=True, slots=True)
class Case:
    """One language on the table.

    tapes: what real clients and servers said behind the login; forbidden: an exchange that the kit's policy refuses, a
    word of it, and what the target answers to what stands in its place; harmless: an exchange that it allows, and the
    target's answer; secret: an exchange, the answer with CARD in it; unknown: messages that the language does not know;
    flood: a message that may be repeated for ever while an exchange is held; refusal: what the client must be told.
    """

    name: str
    tapes: dict[str, Chunks]
    forbidden: bytes
    word: bytes
    refused_answer: bytes
    refusal: bytes
    harmless: bytes
    harmless_answer: bytes
    secret: bytes
    secret_answer: bytes
    unknown: tuple[bytes, ...]
    flood: bytes


CUSTOMERS = Relation(20000, "public", "customers", "r", ((1, "id"), (2, "card_number"), (3, "note")))
CATALOG = Catalog("db", 1, 0, {("public", "customers"): CUSTOMERS}, {20000: CUSTOMERS}, {}, {})


def masks() -> Masks:
    """A column that is protected by its origin, and the detector of card numbers."""
    mask = Mask("m", Selector(), (("card_number", ("public.customers.card_number",)),), ("card_number",))
    made = masks_for([mask], CATALOG, b"k" * 32)
    assert made is not None
    return made


def described(*columns: tuple[str, int, int, int], form: int = 0) -> bytes:
    """A RowDescription: (name, table, column number, type). form: 0 for text, 1 for binary, of all."""
    body = struct.pack("!h", len(columns))
    for name, table, number, kind in columns:
        body += name.encode() + b"\0" + struct.pack("!ihihih", table, number, kind, -1, -1, form)
    return frames.frame(b"T", body)


def tag(text: str) -> bytes:
    """A CommandComplete."""
    return frames.frame(b"C", text.encode() + b"\0")


def _steady(tape: tapes.Tape) -> Chunks:
    """The chunks of a tape behind the login, as they were read."""
    target = b""
    for at, (side, data) in enumerate(tape.chunks):
        if side == "t":
            target += data
            if target.endswith(READY):
                rest = tape.chunks[at + 1 :]
                whole = [(Side.CLIENT if one == "c" else Side.TARGET, data) for one, data in rest if data]
                return [piece for side, data in whole for piece in _at_copy_in(side, data)]
    raise AssertionError(f"{tape.name} has no login")


def _at_copy_in(side: Side, data: bytes) -> Chunks:
    """asyncpg sends rows before it is told to; through us the target says CopyInResponse before it has them."""
    pos = 0
    while side is Side.TARGET and (end := frames.head(side, data, pos)):
        if data[pos] == b"G"[0]:
            return [(side, part) for part in (data[:end], data[end:]) if part]
        pos = end
    return [(side, data)]


CASES = {
    "postgres": Case(
        name="postgres",
        tapes={tape.name: _steady(tape) for tape in tapes.tapes("postgres")},
        forbidden=frames.query("DROP TABLE customers"),
        word=b"DROP",
        refused_answer=frames.error("34000", "no such portal") + READY,
        refusal=b"C42501\0",
        harmless=frames.query("SELECT 1"),
        harmless_answer=tag("SELECT 1") + READY,
        secret=frames.query("SELECT card_number, note FROM customers"),
        secret_answer=described(("card_number", 20000, 2, 25), ("note", 20000, 3, 25))
        + row(CARD, b"on file: " + CARD)
        + row(None, b"none")
        + tag("SELECT 2")
        + READY,
        unknown=(b"?", b"p\0\0\0\4", b"Q\x7f\xff\xff\xff", b"Q\0\0\0\3", b"W\0\0\0\4"),
        flood=frames.query("SELECT '" + "x" * 60_000 + "'"),
    )
}
