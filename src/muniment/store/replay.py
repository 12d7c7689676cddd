"""Reading a journal's lines back, each with the place of its payload."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from muniment.model.errors import Unavailable
from muniment.proof.canonical import MAX_BYTES
from muniment.store.files import Files
from muniment.store.payloads import Block, segment_before, walk
from muniment.store.recovery import Position

_BATCH = 4096  # lines handed over at once
_NUMBER = re.compile(rb'"iseq":(\d+)')  # a quote inside a text is escaped, so this is nowhere but at the key
_COMMITS = b'"sd":{'


class SyncedLine(NamedTuple):
    """A line that will not be lost. hash: leaf hash, hex; payload: offset of its sealed block, -1 where it has none."""

    iseq: int
    line: bytes
    hash: str
    payload: int


def lines_from(files: Files, iseq: int, end: Position) -> Iterator[list[SyncedLine]]:
    """The lines from number `iseq` (1 or more) to `end`, in batches; nothing where there is none."""
    if iseq > end.iseq:
        return iter(())
    start = Position(iseq - 1, "", 0, _offset_of(files.lines, iseq, end.lines), 0)
    blocks = segment_before(files.payloads, end.payloads, iseq)
    return lines_between(files, Position(start.iseq, "", 0, start.lines, blocks), end, end.iseq)


def lines_between(files: Files, start: Position, end: Position, last: int) -> Iterator[list[SyncedLine]]:
    """The lines behind `start`, up to number `last`, from the synced part of the files, which ends at `end`.

    start.payloads: the offset of any block or segment at or before the first line's own.
    """
    blocks = walk(files.payloads, start.payloads, end.payloads)
    block: Block | None = next(blocks, None)
    iseq = start.iseq
    batch: list[SyncedLine] = []
    with files.lines_path.open("rb") as file:
        file.seek(start.lines)
        while iseq < last:
            raw = file.readline(MAX_BYTES + 2)
            iseq += 1
            if not raw.endswith(b"\n"):
                raise Unavailable(f"{files.lines_path} was changed under us at line {iseq}", "restore it from a copy")
            line = raw[:-1]
            offset = -1
            if _COMMITS in line:
                while block and block.last < iseq:
                    block = next(blocks, None)
                if block and block.first <= iseq:
                    offset = block.offset
            batch.append(SyncedLine(iseq, line, sha256(b"\0" + line).hexdigest(), offset))
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def after(at: Position, batch: list[SyncedLine]) -> Position:
    """The position behind a batch that began at `at`, good as a start for `lines_between`."""
    lines = at.lines + sum([len(line.line) + 1 for line in batch])
    payloads = max(at.payloads, max([line.payload for line in batch]))
    return Position(batch[-1].iseq, batch[-1].hash, at.t_us, lines, payloads)


def _offset_of(file: int, iseq: int, end: int) -> int:
    """The byte at which a line begins, found by halving: a line's number is in it."""
    low, high = 0, end
    while high - low > 4 * MAX_BYTES:
        middle = (low + high) // 2
        chunk = os.pread(file, 2 * MAX_BYTES + 4, middle)
        begin = chunk.find(b"\n") + 1
        if _number(chunk, begin) <= iseq:
            low = middle + begin
        else:
            high = middle
    chunk = os.pread(file, high - low + 2 * MAX_BYTES, low)
    at = 0
    while _number(chunk, at) != iseq:
        at = chunk.find(b"\n", at) + 1
        if at == 0:
            raise Unavailable(f"the journal has no line {iseq}", "restore it from a copy")
    return low + at


def _number(chunk: bytes, at: int) -> int:
    found = _NUMBER.search(chunk, at)
    if not found:
        raise Unavailable("the journal holds something that is no line of it", "restore it from a copy")
    return int(found[1])
