"""The file form of a recording: sealed chunks that can be neither cut, moved nor swapped unseen.

    head    "MUNIREC1" | length (4) | JSON: v, ses, stream ("shown" or "original"), key (the data key, wrapped)
    chunk   sealed length (4) | how (1) | AES-256-GCM of zstd of the plain chunk
    plain   random (16), then frames: t_us (8) | channel (1) | length (4) | data
    end     a chunk with nothing in it; `how` says by whom: 1 closed in order, 2 by the start after a crash

Numbers are big-endian. A chunk's nonce is `how` and its index, its additional data are the head's hash and both, so it
opens only in its own place of its own file, and a file without its end says so. No nonce comes twice under a file's
key: indexes only grow, and an end always seals nothing. What is committed to is the plain text: the RFC 6962 root over
SHA-256 of the plain chunks (their random bytes keep guesses at the content from being tried), and the SHA-256 of the
stored file, so that anybody can see a swap. This is the home of `zstandard`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import zstandard

from muniment.model.errors import Unavailable
from muniment.proof.tree import leaf_hash
from muniment.store.keys import NONCE_BYTES, BrokenSeal, Keys, cipher, new_key

CHUNK_BYTES = 128 << 10  # plain; large enough for zstd, small enough to seek
SALT_BYTES = 16
DATA, ENDED, RECOVERED = 0, 1, 2  # how
FRAME = Struct(">QBI")
_MAGIC = b"MUNIREC1"
_CHUNK = Struct(">IB")
_MAX_PLAIN = CHUNK_BYTES + SALT_BYTES + FRAME.size
_MAX_SEALED = _MAX_PLAIN + (16 << 10)  # zstd makes noise a little longer
_MAX_HEAD = 4096
_AAD = b"muniment/v1/recording/"
_WRAP = b"recordings/"
_STREAMS = {".rec": "shown", ".orig": "original"}


class RecordingError(Unavailable):
    """A recording cannot be read on from here. chunk: index of the first one that is not readable."""

    def __init__(self, path: Path, chunk: int, what: str, mend: str = "restore the file from a copy") -> None:
        super().__init__(f"{path.name}, chunk {chunk}: {what}", mend)
        self.chunk = chunk


class Unfinished(RecordingError):
    """It is whole so far and has no end: the session still runs, or its gateway was killed, or the tail was cut."""


class Chunk(NamedTuple):
    """An opened chunk. end: the position behind it in the file; the first one is the head, with number -1."""

    number: int
    how: int
    plain: bytes
    end: int


class Seal:
    """The head and the cipher of one file."""

    __slots__ = ("_aad", "_cipher", "head")

    def __init__(self, head: bytes, key: bytes) -> None:
        self.head = head
        self._aad = _AAD + sha256(head).digest()
        self._cipher = cipher(key)

    @classmethod
    def new(cls, path: Path, ses: str, keys: Keys) -> Seal:
        """With a fresh data key, for a file that does not exist yet."""
        key = new_key()
        stream = _stream(path)
        wrapped = keys.wrap(key, _context(ses, stream))
        body = json.dumps({"v": 1, "ses": ses, "stream": stream, "key": wrapped.hex()}).encode()
        return cls(_MAGIC + len(body).to_bytes(4) + body, key)

    @classmethod
    def of(cls, path: Path, start: bytes, keys: Keys, ses: str | None) -> Seal:
        """Of an existing file that begins with `start`. Raises Unfinished if its head is cut, RecordingError if it is
        another file's, Unavailable if its key is not here."""
        size = int.from_bytes(start[8:12])
        if not _MAGIC.startswith(start[:8]) or size > _MAX_HEAD - 12:
            raise RecordingError(path, 0, "it is not a recording")
        head = start[: 12 + size]
        if len(start) < 12 or len(head) < 12 + size:
            raise Unfinished(path, 0, "cut inside its head")
        try:
            body = json.loads(head[12:])
            found, stream, wrapped = str(body["ses"]), str(body["stream"]), bytes.fromhex(body["key"])
        except (ValueError, KeyError, TypeError):
            raise RecordingError(path, 0, "its head was changed") from None
        expected = path.stem if ses is None else ses
        if (found, stream) != (expected, _stream(path)):
            raise RecordingError(path, 0, f"it holds the {stream} stream of {found}, not of {expected}: it was swapped")
        return cls(head, keys.unwrap(wrapped, _context(found, stream)))

    def data(self, index: int, plain: bytes, compress: Callable[[bytes], bytes]) -> bytes:
        """A chunk as it is stored."""
        return self._stored(index, DATA, compress(plain))

    def end(self, index: int, how: int) -> bytes:
        """The end as it is stored. index: how many chunks are before it."""
        return self._stored(index, how, b"")

    def open(self, index: int, how: int, sealed: bytes) -> bytes:
        """What was sealed. Raises BrokenSeal."""
        nonce = _nonce(index, how)
        return self._cipher.decrypt(nonce, sealed, self._aad + nonce)

    def _stored(self, index: int, how: int, inner: bytes) -> bytes:
        nonce = _nonce(index, how)
        sealed = self._cipher.encrypt(nonce, inner, self._aad + nonce)
        return _CHUNK.pack(len(sealed), how) + sealed


def compressor() -> Callable[[bytes], bytes]:
    """zstd, level 1. For one thread."""
    return zstandard.ZstdCompressor(level=1).compress


def salt() -> bytes:
    """The random bytes that a plain chunk begins with."""
    return secrets.token_bytes(SALT_BYTES)


def leaf(plain: bytes) -> bytes:
    """The leaf hash of a plain chunk: RFC 6962 over its SHA-256, so that a chunk can be shown by its digest alone."""
    return leaf_hash(sha256(plain).digest())


def chunks(path: Path, keys: Keys, ses: str | None = None) -> Iterator[Chunk]:
    """The head (number -1) and every whole chunk, the end included. ses: by default the file's name says whose it is.

    Raises Unavailable if there is no such file or its key is not here, RecordingError where it was changed, and
    Unfinished where it stops before its end.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise Unavailable(
            f"cannot read the recording {path.name} ({error.strerror})", "restore it from a copy"
        ) from error
    with file:
        seal = Seal.of(path, os.pread(file.fileno(), _MAX_HEAD, 0), keys, ses)
        file.seek(len(seal.head))
        at = len(seal.head)
        yield Chunk(-1, DATA, b"", at)
        index, how = 0, DATA
        expand = zstandard.ZstdDecompressor()
        while head := file.read(_CHUNK.size):
            if how != DATA:
                raise RecordingError(path, index, "there is something behind its end")
            if len(head) < _CHUNK.size:
                raise Unfinished(path, index, "cut inside this chunk")
            size, how = _CHUNK.unpack(head)
            if size > _MAX_SEALED or how > RECOVERED:
                raise RecordingError(path, index, "it was changed")
            sealed = file.read(size)
            if len(sealed) < size:
                raise Unfinished(path, index, "cut inside this chunk")
            try:
                inner = seal.open(index, how, sealed)
                plain = expand.decompress(inner, max_output_size=_MAX_PLAIN) if how == DATA else inner
            except (BrokenSeal, zstandard.ZstdError):
                raise RecordingError(path, index, "it was changed, or belongs elsewhere") from None
            at += _CHUNK.size + size
            yield Chunk(index, how, plain, at)
            index += how == DATA
        if how == DATA:
            raise Unfinished(path, index, "no end: its session still runs, its gateway was killed, or the rest was cut")


def _stream(path: Path) -> str:
    return _STREAMS.get(path.suffix, "shown")


def _context(ses: str, stream: str) -> bytes:
    return _WRAP + f"{stream}/{ses}".encode()


def _nonce(index: int, how: int) -> bytes:
    return how.to_bytes(4) + index.to_bytes(NONCE_BYTES - 4)
