"""DataRow frames for tests, written out by struct as the manual has them."""

from __future__ import annotations

import struct

from hypothesis import strategies as st


def row(*values: bytes | None) -> bytes:
    """One DataRow frame."""
    body = struct.pack(">H", len(values))
    for value in values:
        body += struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
    return b"D" + struct.pack(">i", len(body) + 4) + body


def read(block: bytes) -> list[list[bytes | None]]:
    """The rows of a block of whole frames, read independently of our code."""
    rows: list[list[bytes | None]] = []
    pos = 0
    while pos < len(block):
        letter, size, count = struct.unpack_from(">cIH", block, pos)
        assert letter == b"D"
        at, end = pos + 7, pos + 1 + size
        values: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", block, at)
            at += 4
            if length < 0:
                assert length == -1
                values.append(None)
                continue
            assert at + length <= end
            values.append(block[at : at + length])
            at += length
        assert at == end
        rows.append(values)
        pos = end
    assert pos == len(block)
    return rows


values = st.none() | st.binary(max_size=40)
tables = st.integers(0, 5).flatmap(lambda width: st.lists(st.lists(values, min_size=width, max_size=width), max_size=8))
