"""Sealed payloads: the values behind the commitments of an instance's journal.

One file an instance, `payloads/<inst>.bin`, append-only. Every open of the journal begins a *segment*: a header with a
fresh data key, wrapped by the key-encryption key. Blocks follow, one per append, each sealed with AES-256-GCM:

    segment  magic (16) | first iseq (8) | wrapped key (77) | CRC-32 of what is before (4)
    block    "B" | sealed length (4) | first iseq (8) | last iseq (8) | number (8) | offset of its segment (8) | sealed
    plain    per record: iseq (8) | fields (1) | secret (32), then per field:
             name length (1) | name | value length (4) | value

Numbers are big-endian. A nonce is the block's number, which only grows within a segment, also over blocks that were
taken back; a key lives in the memory of one process. So no nonce comes twice under one key. The block's header and the
instance are authenticated with it, so a block opens only in its own place.
"""

from __future__ import annotations

import mmap
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from muniment.model.errors import Unavailable
from muniment.store.keys import NONCE_BYTES, TAG_BYTES, WRAPPED_BYTES, BrokenSeal, Cipher, Keys, cipher, new_key

SEGMENT_MAGIC = b"S-muniment-key\x00\x01"
SEGMENT = Struct(f">16sQ{WRAPPED_BYTES}sI")
BLOCK = Struct(">cIQQQQ")
RECORD = Struct(">QB32s")
_AAD = b"muniment/v1/payload/"
_WRAP = b"payloads/"
_DAMAGED = "restore the file from a copy"


def path_of(evidence: Path, instance: str) -> Path:
    """Where an instance's payloads are."""
    return evidence / "payloads" / f"{instance}.bin"


@dataclass(frozen=True, slots=True)
class Payload:
    """What was committed to: the record's secret (every salt comes from it) and the values by field name."""

    iseq: int
    secret: bytes
    fields: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Block:
    """Where a sealed block is and which lines it belongs to."""

    offset: int
    end: int
    first: int
    last: int


class Sealer:
    """Seals the blocks of one segment. Not thread-safe; the journal's lock is around it."""

    __slots__ = ("_aad", "_cipher", "_number", "_segment", "header")

    def __init__(self, keys: Keys, instance: str, segment: int, first_iseq: int) -> None:
        """segment: the offset at which `header` will be written."""
        key = new_key()
        self._cipher = cipher(key)
        self._aad = _AAD + instance.encode() + b"/"
        self._number = 0
        self._segment = segment
        head = SEGMENT_MAGIC + first_iseq.to_bytes(8) + keys.wrap(key, _WRAP + instance.encode())
        self.header = head + zlib.crc32(head).to_bytes(4)

    def seal(self, first: int, last: int, plain: bytes) -> bytes:
        """A block for the records of the lines first..last."""
        self._number = number = self._number + 1
        head = BLOCK.pack(b"B", len(plain) + TAG_BYTES, first, last, number, self._segment)
        return head + self._cipher.encrypt(number.to_bytes(NONCE_BYTES), plain, self._aad + head)


def walk(file: int, start: int, end: int) -> Iterator[Block]:
    """Segments (first and last 0) and blocks that are whole and end before `end`, from the offset of one on.

    Stops where no such thing follows; the last one's `end` says where that is. A block whose last lines were torn off,
    so that a later run gave their numbers anew, ends before them.
    """
    held: Block | None = None
    pos = start
    while pos < end:
        head = os.pread(file, SEGMENT.size, pos)
        if head[:1] == b"S" and _segment_ok(head):
            if held:
                first = int.from_bytes(head[16:24])
                yield Block(held.offset, held.end, held.first, min(held.last, first - 1))
            yield Block(pos, pos + SEGMENT.size, 0, 0)
            held, pos = None, pos + SEGMENT.size
            continue
        if held:
            yield held
        held = None
        if head[:1] != b"B" or len(head) < BLOCK.size:
            return
        _, size, first, last, _, _ = BLOCK.unpack_from(head)
        if pos + BLOCK.size + size > end or not 0 < first <= last:
            return
        held = Block(pos, pos + BLOCK.size + size, first, last)
        pos = held.end
    if held:
        yield held


def segment_before(file: int, end: int, iseq: int) -> int:
    """The offset of the last segment that can hold the line `iseq`; 0 if there is none (the file is empty)."""
    if end == 0:
        return 0
    with mmap.mmap(file, end, prot=mmap.PROT_READ) as view:
        at = view.rfind(SEGMENT_MAGIC)
        while at > 0:
            head = view[at : at + SEGMENT.size]
            if _segment_ok(head) and int.from_bytes(head[16:24]) <= iseq:
                return at
            at = view.rfind(SEGMENT_MAGIC, 0, at)
    return 0


class Opener:
    """Reads the blocks of one payloads file; keeps the data keys that it unwrapped."""

    def __init__(self, file: int, instance: str, keys: Keys) -> None:
        self._file = file
        self._instance = instance
        self._keys = keys
        self._ciphers: dict[int, Cipher] = {}

    def records(self, offset: int) -> Iterator[Payload]:
        """The records of the block at `offset`. Raises Unavailable if it is cut or changed, or its key is not here."""
        head = os.pread(self._file, BLOCK.size, offset)
        if len(head) < BLOCK.size or head[:1] != b"B":
            raise Unavailable(f"payloads of {self._instance}: no block at offset {offset}", _DAMAGED)
        size = BLOCK.unpack(head)[1]
        if offset + BLOCK.size + size > os.fstat(self._file).st_size:
            raise Unavailable(f"payloads of {self._instance}: cut inside the block at offset {offset}", _DAMAGED)
        try:
            plain = self._open(head, os.pread(self._file, size, offset + BLOCK.size))
        except BrokenSeal:
            what = f"payloads of {self._instance}: the block at offset {offset} was changed or moved"
            raise Unavailable(what, _DAMAGED) from None
        yield from _records(plain)

    def newest(self) -> None:
        """Raises Unavailable if there is a newest segment and its key is not ours."""
        at = segment_before(self._file, os.fstat(self._file).st_size, sys.maxsize)
        if _segment_ok(os.pread(self._file, SEGMENT.size, at)):
            self._cipher(at)

    def whole(self, block: Block) -> bool:
        """Whether a block that `walk` found is what was written. Raises Unavailable if its key is not ours."""
        if block.first:
            head = os.pread(self._file, BLOCK.size, block.offset)
            try:
                self._open(head, os.pread(self._file, block.end - block.offset - BLOCK.size, block.offset + BLOCK.size))
            except BrokenSeal:
                return False
        else:
            self._cipher(block.offset)
        return True

    def _open(self, head: bytes, sealed: bytes) -> bytes:
        number, segment = BLOCK.unpack(head)[4:]
        aad = _AAD + self._instance.encode() + b"/" + head
        return self._cipher(segment).decrypt(number.to_bytes(NONCE_BYTES), sealed, aad)

    def _cipher(self, segment: int) -> Cipher:
        if segment not in self._ciphers:
            head = os.pread(self._file, SEGMENT.size, segment)
            if not _segment_ok(head):
                raise Unavailable(f"payloads of {self._instance}: no key at offset {segment}", _DAMAGED)
            key = self._keys.unwrap(head[24 : 24 + WRAPPED_BYTES], _WRAP + self._instance.encode())
            self._ciphers[segment] = cipher(key)
        return self._ciphers[segment]


def read(evidence: Path, instance: str, keys: Keys, iseq: int, offset: int | None = None) -> Payload | None:
    """The payload of one journal line; None if that line has none.

    offset: of its block, as the journal's sink was told; without it the blocks' headers are walked from the segment's
    begin, about 2 us each. Raises Unavailable when the file is missing, cut, changed, or sealed with another key.
    """
    path = path_of(evidence, instance)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"cannot read {path} ({error.strerror})", _DAMAGED) from error
    try:
        if offset is None:
            offset = _find(file, iseq)
        if offset is None:
            return None
        opener = Opener(file, instance, keys)
        return next((payload for payload in opener.records(offset) if payload.iseq == iseq), None)
    finally:
        os.close(file)


def pack_record(iseq: int, secret: bytes, fields: dict[str, bytes]) -> bytes:
    """One record as it stands in a block's plain text."""
    parts = [RECORD.pack(iseq, len(fields), secret)]
    for name, value in fields.items():
        parts += (len(name).to_bytes(1), name.encode(), len(value).to_bytes(4), value)
    return b"".join(parts)


def _find(file: int, iseq: int) -> int | None:
    end = os.fstat(file).st_size
    for block in walk(file, segment_before(file, end, iseq), end):
        if block.first > iseq:
            break
        if block.first and iseq <= block.last:
            return block.offset
    return None


def _records(plain: bytes) -> Iterator[Payload]:
    """Split an authenticated plain text; a wrong length in it would be our bug, and shows as an IndexError or worse."""
    pos = 0
    while pos < len(plain):
        iseq, count, secret = RECORD.unpack_from(plain, pos)
        pos += RECORD.size
        fields: dict[str, bytes] = {}
        for _ in range(count):
            size = plain[pos]
            name = plain[pos + 1 : pos + 1 + size].decode()
            pos += 1 + size
            size = int.from_bytes(plain[pos : pos + 4])
            fields[name] = plain[pos + 4 : pos + 4 + size]
            pos += 4 + size
        yield Payload(iseq, secret, fields)


def _segment_ok(head: bytes) -> bool:
    return (
        len(head) == SEGMENT.size and head.startswith(SEGMENT_MAGIC) and zlib.crc32(head[:-4]).to_bytes(4) == head[-4:]
    )
