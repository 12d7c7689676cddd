from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from tests.store.journals import INSTANCE, check, opened, opening, request, response

from muniment.model.errors import Unavailable
from muniment.store import payloads
from muniment.store.keys import Keys
from muniment.store.payloads import BLOCK, SEGMENT, SEGMENT_MAGIC, Block, Payload


def walked(evidence: Path) -> list[Block]:
    path = payloads.path_of(evidence, INSTANCE)
    file = os.open(path, os.O_RDONLY)
    try:
        return list(payloads.walk(file, 0, path.stat().st_size))
    finally:
        os.close(file)


def written(evidence: Path, keys: Keys) -> Path:
    """Two runs: lines 1 to 4 and 5 to 7, of which 3 and 5 have no payload."""
    with opened(evidence, keys) as (journal, _):
        journal.append([opening(), request(1, text="select 'one'"), response(1), request(2, text="select 'two'")])
    with opened(evidence, keys) as (journal, _):
        journal.append([response(2)])
        journal.append([request(3, text="select 'three'")])
        journal.append([request(4, text="select 'four'")])
    return payloads.path_of(evidence, INSTANCE)


def test_every_line_reads_back_with_and_without_its_offset(evidence: Path, keys: Keys) -> None:
    written(evidence, keys)
    check(evidence, keys)
    offsets = {number: block.offset for block in walked(evidence) for number in range(block.first, block.last + 1)}
    for number, text in {2: "one", 4: "two", 6: "three", 7: "four"}.items():
        found = payloads.read(evidence, INSTANCE, keys, number)
        assert found == payloads.read(evidence, INSTANCE, keys, number, offsets[number])
        assert found is not None
        assert found.fields == {"statement": f"select '{text}'".encode(), "parameters": b"\x00\x01"}
    for number in (0, 3, 5, 8):
        assert payloads.read(evidence, INSTANCE, keys, number) is None


def test_no_nonce_comes_twice_under_one_key(evidence: Path, keys: Keys) -> None:
    path = written(evidence, keys)
    data = path.read_bytes()
    pairs = [BLOCK.unpack_from(data, block.offset)[4:] for block in walked(evidence) if block.first]
    assert len(set(pairs)) == len(pairs) == 3
    heads = [data[block.offset : block.end] for block in walked(evidence) if not block.first]
    assert len({head[24:-4] for head in heads}) == 2, "each run has its own key"


def test_a_block_that_was_taken_back_keeps_its_nonce_used(keys: Keys) -> None:
    sealer = payloads.Sealer(keys, INSTANCE, 0, 1)
    first, again = sealer.seal(1, 1, b"plain"), sealer.seal(1, 1, b"plain")
    assert BLOCK.unpack_from(first)[4] != BLOCK.unpack_from(again)[4]
    assert first[BLOCK.size :] != again[BLOCK.size :]


def test_a_flipped_bit_anywhere_in_a_block_or_its_key_is_seen(evidence: Path, keys: Keys) -> None:
    path = written(evidence, keys)
    data = path.read_bytes()
    last = walked(evidence)[-1]
    segment = next(block for block in walked(evidence) if block.offset == BLOCK.unpack_from(data, last.offset)[5])
    for at in (*range(last.offset, last.end), *range(segment.offset, segment.end)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Unavailable):
            payloads.read(evidence, INSTANCE, keys, 7, last.offset)


def test_a_file_cut_anywhere_is_seen(evidence: Path, keys: Keys) -> None:
    path = written(evidence, keys)
    last = walked(evidence)[-1]
    for size in range(last.end - 1, 0, -1):
        os.truncate(path, size)
        with pytest.raises(Unavailable):
            payloads.read(evidence, INSTANCE, keys, 7, last.offset)
    path.unlink()
    with pytest.raises(Unavailable, match="cannot read"):
        payloads.read(evidence, INSTANCE, keys, 7)


def test_a_block_moved_to_another_place_or_instance_does_not_open(evidence: Path, keys: Keys) -> None:
    path = written(evidence, keys)
    data = path.read_bytes()
    one, other = (block for block in walked(evidence) if block.first in (6, 7))
    assert one.end - one.offset == other.end - other.offset + 1  # "three" and "four"
    head = data[one.offset : one.offset + 5] + data[other.offset + 5 : other.offset + BLOCK.size]
    path.write_bytes(data[: one.offset] + head + data[one.offset + BLOCK.size :])
    with pytest.raises(Unavailable, match="changed or moved"):
        payloads.read(evidence, INSTANCE, keys, 7, one.offset)
    payloads.path_of(evidence, "i-00000002").write_bytes(data)
    with pytest.raises(Unavailable, match="another file"):
        payloads.read(evidence, "i-00000002", keys, 7)


def test_a_wrong_key_is_named(evidence: Path, keys: Keys, tmp_path: Path) -> None:
    written(evidence, keys)
    with pytest.raises(Unavailable, match=f"sealed with key {keys.kek_id.hex()}"):
        payloads.read(evidence, INSTANCE, Keys.open(tmp_path / "other"), 7)


def test_a_segment_is_found_among_bytes_that_look_like_one(evidence: Path, keys: Keys) -> None:
    with opened(evidence, keys) as (journal, _):
        journal.append([request(1)])
    path = payloads.path_of(evidence, INSTANCE)
    with path.open("ab") as file:  # what a torn write could leave
        file.write(SEGMENT_MAGIC + bytes(SEGMENT.size))
    file_number = os.open(path, os.O_RDONLY)
    assert payloads.segment_before(file_number, path.stat().st_size, 99) == 0
    os.close(file_number)


def test_a_payload_is_data_and_nothing_more() -> None:
    record = payloads.pack_record(7, b"s" * 32, {"statement": b"x" * 70_000, "why": b""})
    assert list(payloads._records(record * 2)) == [Payload(7, b"s" * 32, {"statement": b"x" * 70_000, "why": b""})] * 2
    assert dataclasses.is_dataclass(Payload)
