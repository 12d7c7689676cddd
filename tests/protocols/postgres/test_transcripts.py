"""What real clients and servers said to each other passes through the conversation as it was said."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.model.effects import Side
from muniment.model.errors import ProtocolError
from muniment.protocols.postgres import frames
from tests.kit.table import Table, deny
from tests.transcripts import tapes

TAPES = {tape.name: tape for tape in tapes.tapes("postgres")}
NAMES = sorted(TAPES)


def steady(name: str) -> list[tuple[Side, bytes]]:
    """The chunks of a tape behind the login, as whole as they were read."""
    chunks = TAPES[name].chunks
    target = b""
    for at, (side, data) in enumerate(chunks):
        if side == "t":
            target += data
            if target.endswith(b"Z\x00\x00\x00\x05I"):
                rest = chunks[at + 1 :]
                whole = [(Side.CLIENT if one == "c" else Side.TARGET, data) for one, data in rest if data]
                return [piece for side, data in whole for piece in _at_copy_in(side, data)]
    raise AssertionError(f"{name} has no login")


def _at_copy_in(side: Side, data: bytes) -> list[tuple[Side, bytes]]:
    """asyncpg sends rows before it is told to; through us the target says CopyInResponse before it has them."""
    pos = 0
    while side is Side.TARGET and (end := frames.head(side, data, pos)):
        if data[pos] == b"G"[0]:
            return [(side, data[:end]), (side, data[end:])]
        pos = end
    return [(side, data)]


def said(chunks: list[tuple[Side, bytes]], side: Side) -> bytes:
    return b"".join(data for one, data in chunks if one is side)


def through(chunks: list[tuple[Side, bytes]], table: Table) -> None:
    for side, data in chunks:
        table.client(data) if side is Side.CLIENT else table.target(data)


@pytest.mark.parametrize("name", NAMES)
def test_an_allowed_conversation_is_forwarded_byte_for_byte(name: str) -> None:
    chunks, table = steady(name), Table()
    through(chunks, table)
    assert table.to_target == said(chunks, Side.CLIENT)
    assert table.to_client == said(chunks, Side.TARGET)


@pytest.mark.parametrize("name", NAMES)
def test_byte_at_a_time_is_the_same_conversation(name: str) -> None:
    chunks, table = steady(name), Table()
    through([(side, data[at : at + 1]) for side, data in chunks for at in range(len(data))], table)
    assert table.to_target == said(chunks, Side.CLIENT)
    assert table.to_client == said(chunks, Side.TARGET)


@settings(max_examples=40)
@given(st.data(), st.sampled_from(NAMES))
def test_any_split_is_the_same_conversation(data: st.DataObject, name: str) -> None:
    chunks = steady(name)
    split = []
    for side, chunk in chunks:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(chunk)), max_size=4)))
        edges = [0, *cuts, len(chunk)]
        split += [(side, chunk[a:b]) for a, b in itertools.pairwise(edges) if b > a]
    table = Table()
    through(split, table)
    assert table.to_target == said(chunks, Side.CLIENT)
    assert table.to_client == said(chunks, Side.TARGET)


@settings(max_examples=150)
@given(st.data(), st.sampled_from(NAMES), st.sampled_from(list(Side)))
def test_corrupted_bytes_are_a_protocol_error_or_nothing(data: st.DataObject, name: str, which: Side) -> None:
    chunks = steady(name)
    at = data.draw(st.sampled_from([i for i, (side, chunk) in enumerate(chunks) if side is which and chunk]))
    side, chunk = chunks[at]
    spot = data.draw(st.integers(0, len(chunk) - 1))
    byte = data.draw(st.integers(0, 255))
    broken = chunk[:spot] + bytes([byte]) + chunk[spot + data.draw(st.integers(0, 2)) :]
    table = Table()
    with contextlib.suppress(ProtocolError):
        through([*chunks[:at], (side, broken), *chunks[at + 1 :]], table)


QUERIES = [
    name
    for name in NAMES
    if any(kind == b"Q"[0] for kind, _ in frames.split(Side.CLIENT, said(steady(name), Side.CLIENT)))
]


@pytest.mark.parametrize("name", QUERIES)
def test_nothing_of_a_refused_exchange_reaches_the_target(name: str) -> None:
    asked = said(steady(name), Side.CLIENT)
    texts = [body for kind, body in frames.split(Side.CLIENT, asked) if kind == b"Q"[0]]
    table = Table(deny(""))
    for text in texts:
        table.client(frames.frame(b"Q", text))
        assert text not in table.to_target
        table.target(frames.error("34000", 'portal "x" does not exist') + b"Z\0\0\0\5I")
    assert table.to_client.count(b"C42501") == len(texts)
