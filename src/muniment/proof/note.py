"""C2SP signed notes and checkpoints: a text, a blank line, and one line a signature.

Sources: c2sp.org/signed-note (Ed25519, signature type 0x01), c2sp.org/tlog-checkpoint, Go's sumdb/note.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from muniment.proof.tree import HASH_BYTES

ED25519 = 1
MAX_NOTE_BYTES = 64 << 10  # sixteen signatures of any kind fit; a longer note is not read at all
MAX_SIGNATURES = 64
MAX_SIZE = (1 << 63) - 1
_DASH = "\u2014 "


class NoteError(ValueError):
    """Not a note, or not signed by a key that we trust."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that may sign notes under this name. key: 32 bytes, Ed25519 (RFC 8032)."""

    name: str
    key: bytes

    @property
    def id(self) -> bytes:
        """Four bytes that tell the name's keys apart; not a strong hash."""
        return sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.key).digest()[:4]

    def __str__(self) -> str:
        """The line in which it is handed on: name+id+key."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([ED25519]) + self.key).decode()}"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line. value: the bytes after the key id."""

    name: str
    id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note. Nothing in `text` may be believed before `verify` has returned."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        """The note's own form."""
        lines = [f"{_DASH}{one.name} {base64.b64encode(one.id + one.value).decode()}\n" for one in self.signatures]
        return self.text + "\n" + "".join(lines)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's tree head. root: 32 bytes; extensions: further lines, which monitors cannot audit."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_BYTES or any(not _line(line) for line in lines):
            raise NoteError("a checkpoint is an origin, a size and a root of 32 bytes, each one line")
        return "\n".join(lines) + "\n"


def parse_vkey(line: str) -> VerifierKey:
    """Read a public key's line (name+id+key). Raises NoteError."""
    name, plus, rest = line.strip().partition("+")
    hint, plus, key = rest.partition("+")
    data = _base64(key)
    if not plus or not _name(name) or len(data) != 1 + HASH_BYTES or data[0] != ED25519:
        raise NoteError("not a note's public key (name+id+key, Ed25519)")
    vkey = VerifierKey(name, data[1:])
    if hint != vkey.id.hex():
        raise NoteError("the public key's id is not the one of its name and key")
    return vkey


def sign(text: str, name: str, key: bytes, sign: Callable[[bytes], bytes]) -> str:
    """Sign a text that ends with a newline. key: the public key of `sign`. Returns the whole note."""
    if not _name(name):
        raise NoteError("a key's name has no spaces and no plus")
    if not text.endswith("\n") or not _plain(text):
        raise NoteError("a note's text is lines of plain characters, the last one ended")
    return str(Note(text, (Signature(name, VerifierKey(name, key).id, sign(text.encode())),)))


def parse(note: str) -> Note:
    """Take a note apart without believing it. Raises NoteError."""
    if len(note) > MAX_NOTE_BYTES or not _plain(note):
        raise NoteError("not a note: too long, or with control characters")
    text, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise NoteError("not a note: a text, a blank line and signature lines are wanted")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"not a note: more than {MAX_SIGNATURES} signatures")
    return Note(text + "\n", tuple(_signature(line) for line in lines))


def verify(note: str, vkeys: Iterable[VerifierKey]) -> str:
    """Check a note. Returns its text when a known key signed it and every signature of a known key is good.

    Raises NoteError. Signatures of unknown keys (witnesses, keys to come) are passed over.
    """
    parsed = parse(note)
    known = {(vkey.name, vkey.id): vkey for vkey in vkeys}
    good = 0
    for one in parsed.signatures:
        vkey = known.get((one.name, one.id))
        if vkey is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(vkey.key).verify(one.value, parsed.text.encode())
        except (InvalidSignature, ValueError):
            raise NoteError(f"the signature of {one.name} is wrong") from None
        good += 1
    if not good:
        raise NoteError("no known key signed this note")
    return parsed.text


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a note as a checkpoint. Raises NoteError."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not _plain(text) or any(not line for line in lines[:-1]):
        raise NoteError("not a checkpoint: an origin, a size and a root are wanted, one line each")
    origin, size, root = lines[:3]
    if not (size.isascii() and size.isdigit()) or len(size) > 19 or str(int(size)) != size or int(size) > MAX_SIZE:
        raise NoteError("not a checkpoint: the second line is not a tree size")
    if len(data := _base64(root)) != HASH_BYTES:
        raise NoteError("not a checkpoint: the third line is not a root")
    return Checkpoint(origin, int(size), data, tuple(lines[3:-1]))


def _signature(line: str) -> Signature:
    name, space, value = line.removeprefix(_DASH).partition(" ")
    data = _base64(value)
    if not line.startswith(_DASH) or not space or not _name(name) or len(data) < 5:
        raise NoteError("not a note: a signature line is a dash, a name and a signature")
    return Signature(name, data[:4], data[4:])


def _base64(text: str) -> bytes:
    """Decode, or nothing where the text is not the one form of its bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if base64.b64encode(data).decode() == text else b""


def _name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(one.isspace() for one in name) and _plain(name)


def _line(line: str) -> bool:
    return bool(line) and "\n" not in line and _plain(line)


def _plain(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return all(one >= " " or one == "\n" for one in text)
