"""Stepping over and rewriting DataRow frames."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scan.frames import read, row, tables

shown = st.none() | st.binary(max_size=30)


@settings(max_examples=150, deadline=None)
@given(table=tables, tail=st.binary(max_size=20), data=st.data())
def test_skip_rows_stops_at_the_first_frame_that_is_no_whole_row(
    scan: SimpleNamespace, table: list[list[bytes | None]], tail: bytes, data: st.DataObject
) -> None:
    frames = [row(*values) for values in table]
    block = b"".join(frames)
    other = b"C\x00\x00\x00\x05" + tail
    assert scan.rows.skip_rows(block + other, 0) == (len(table), len(block))
    cut = data.draw(st.integers(0, len(block)))
    rows, pos = scan.rows.skip_rows(block[:cut], 0)
    starts = [sum(map(len, frames[:n])) for n in range(len(frames) + 1)]
    assert (rows, pos) == max((n, start) for n, start in enumerate(starts) if start <= cut)


@settings(max_examples=150, deadline=None)
@given(garbage=st.binary(max_size=60), pos=st.integers(0, 70))
def test_skip_rows_takes_any_bytes_and_never_goes_past_their_end(
    scan: SimpleNamespace, garbage: bytes, pos: int
) -> None:
    pos = min(pos, len(garbage))
    rows, after = scan.rows.skip_rows(b"D" + garbage, pos)
    assert pos <= after <= len(garbage) + 1
    assert (rows == 0) == (after == pos)


@pytest.mark.parametrize("length", [b"\x00\x00\x00\x00", b"\x00\x00\x00\x05", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
def test_a_bad_length_looks_like_a_partial_frame(scan: SimpleNamespace, length: bytes) -> None:
    assert scan.rows.skip_rows(b"D" + length + b"\x00\x00" * 20, 0) == (0, 0)


@settings(max_examples=150, deadline=None)
@given(table=tables, data=st.data())
def test_rewriting_shows_what_the_maskers_return_and_leaves_the_rest(
    scan: SimpleNamespace, table: list[list[bytes | None]], data: st.DataObject
) -> None:
    width = len(table[0]) if table else 3
    answers = data.draw(st.lists(st.none() | st.tuples(shown), min_size=width, max_size=width))
    maskers = tuple(None if answer is None else (lambda value, a=answer[0]: a) for answer in answers)
    block = b"".join(row(*values) for values in table)
    expected = [
        [value if value is None or answer is None else answer[0] for value, answer in zip(values, answers, strict=True)]
        for values in table
    ]
    result, changed = scan.rows.rewrite_rows(block, maskers)
    assert read(result) == expected
    assert changed == sum(a != b for xs, ys in zip(table, expected, strict=True) for a, b in zip(xs, ys, strict=True))
    assert (result is block) == (changed == 0)
    again, _ = scan.rows.rewrite_rows(result, maskers)
    assert again == result


@settings(max_examples=200, deadline=None)
@given(table=tables, data=st.data())
def test_corrupted_rows_raise_value_error_or_stay_whole(
    scan: SimpleNamespace, table: list[list[bytes | None]], data: st.DataObject
) -> None:
    block = bytearray(b"".join(row(*values) for values in table))
    if not block:
        return
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] = data.draw(st.integers(0, 255))
    del block[data.draw(st.integers(0, len(block))) :]
    try:
        result, _ = scan.rows.rewrite_rows(bytes(block), (lambda value: b"x",) * len(table[0]))
    except ValueError:
        return
    read(result)


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=80), width=st.integers(0, 3))
def test_garbage_raises_nothing_but_value_error(scan: SimpleNamespace, garbage: bytes, width: int) -> None:
    for block in (garbage, b"D" + garbage, row(b"1") + garbage):
        try:
            scan.rows.rewrite_rows(block, (lambda value: b"x",) * width)
        except ValueError:
            continue
        read(block)


def test_a_row_with_another_number_of_columns_is_not_shown(scan: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="number of columns"):
        scan.rows.rewrite_rows(row(b"1", b"2"), (None,))


def test_a_masker_s_own_error_comes_through(scan: SimpleNamespace) -> None:
    def broken(value: bytes) -> bytes:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        scan.rows.rewrite_rows(row(b"1"), (broken,))


def test_a_row_of_the_widest_kind_is_rewritten(scan: SimpleNamespace) -> None:
    width = 1664  # the most columns of a result
    block = row(*[b"v"] * width)
    result, changed = scan.rows.rewrite_rows(block, (lambda value: b"[masked]",) * width)
    assert changed == width
    assert read(result) == [[b"[masked]"] * width]


@pytest.mark.parametrize("column", [None, lambda value: b"x"])
def test_a_row_that_is_longer_than_its_columns_is_not_shown(scan: SimpleNamespace, column: object) -> None:
    longer = b"D\x00\x00\x00\x0c\x00\x01\x00\x00\x00\x01ab"
    with pytest.raises(ValueError, match="longer"):
        scan.rows.rewrite_rows(row(b"1") + longer + row(b"2"), (column,))


def test_a_constant_masks_without_a_call_and_counts_like_one(scan: SimpleNamespace) -> None:
    counts: dict[str, int] = {}
    maskers = (scan.rows.Constant(b"[masked]", "a", counts), None, scan.rows.Constant(None, "b", counts))
    block = row(b"1", b"2", b"3") + row(None, b"4", b"5")
    result, changed = scan.rows.rewrite_rows(block, maskers)
    assert read(result) == [[b"[masked]", b"2", None], [None, b"4", None]]
    assert changed == 3
    assert counts == {"a": 1, "b": 2}
    assert maskers[0](b"x") == b"[masked]" and maskers[2](b"x") is None
    assert counts == {"a": 2, "b": 3}
