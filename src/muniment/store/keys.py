"""The keys of one gateway, as local files, and the ciphers that the store seals with.

A directory of mode 0700 holds three files of mode 0600: `log.key` (Ed25519, PEM, signs checkpoints), `kek.key` (wraps
data keys) and `pseudonym.key` (keyed pseudonyms in masks), the last two as 64 hex digits. It is never inside the
evidence directory. This is the home of `cryptography` for the store: seal with `cipher(key)`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from muniment.model.errors import ConfigError, Problem, Unavailable

Cipher = AESGCM
BrokenSeal = InvalidTag  # raised by Cipher.decrypt: other key, other place, or changed bytes

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
WRAPPED_BYTES = 1 + 8 + NONCE_BYTES + KEY_BYTES + TAG_BYTES
_NAMES = ("log.key", "kek.key", "pseudonym.key")
_MAX_FILE_BYTES = 4096  # a key file is at most a few lines; anything longer is not one
_WRAP = b"muniment/v1/wrap/"


def cipher(key: bytes) -> Cipher:
    """AES-256-GCM under a data key of 32 bytes. The caller never uses a nonce twice under one key."""
    return AESGCM(key)


def new_key() -> bytes:
    """A fresh random data key."""
    return secrets.token_bytes(KEY_BYTES)


class Keys:
    """The key material of one gateway; give it to what seals or signs, never to a door."""

    __slots__ = ("_kek", "_pseudonym", "_signer", "directory", "kek_id", "public")

    def __init__(self, directory: Path, signer: Ed25519PrivateKey, kek: bytes, pseudonym: bytes) -> None:
        self.directory = directory
        self._signer = signer
        self._kek = AESGCM(kek)
        self._pseudonym = pseudonym
        # A digest of a random 256-bit key tells nothing of it, and names it in files and messages.
        self.kek_id = hashlib.sha256(b"muniment/v1/kek-id/" + kek).digest()[:8]
        self.public = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def open(cls, directory: Path) -> Keys:
        """Read the keys; make all of them if the directory does not exist or is empty.

        Raises ConfigError with every problem found: a directory or file that others can read, a missing or malformed
        file. Keys that are only partly there are never made anew: what they sealed would be lost in silence.
        """
        directory = Path(os.path.abspath(directory))  # noqa: PTH100 - absolute without following links
        try:
            if not directory.exists() or not any(directory.iterdir()):
                _create(directory)
        except OSError as error:
            raise ConfigError(
                Problem(
                    str(directory), f"cannot make or list it ({error.strerror})", "let the gateway's user write here"
                )
            ) from error
        problems = _unsafe(directory, directory=True)
        texts: dict[str, bytes] = {}
        for name in _NAMES:
            try:
                texts[name] = _read(directory / name)
            except ConfigError as error:
                problems.extend(error.problems)
        if problems:
            raise ConfigError(*problems)
        return cls(
            directory,
            _signer(directory / "log.key", texts["log.key"]),
            _hex(directory / "kek.key", texts["kek.key"]),
            _hex(directory / "pseudonym.key", texts["pseudonym.key"]),
        )

    def log_signer(self) -> tuple[Callable[[bytes], bytes], bytes]:
        """(sign, public key): Ed25519 over a message (RFC 8032), and the 32 raw bytes that verify it."""
        return self._signer.sign, self.public

    def pseudonym_key(self) -> bytes:
        """The 32 bytes that key pseudonyms."""
        return self._pseudonym

    def wrap(self, key: bytes, context: bytes = b"") -> bytes:
        """Seal a data key under the key-encryption key. context: what it is for; unwrap must be given the same.

        Layout (77 bytes): version 1 | key id (8) | random nonce (12) | sealed key (32) | tag (16).
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        head = b"\x01" + self.kek_id
        return head + nonce + self._kek.encrypt(nonce, key, _WRAP + head + context)

    def unwrap(self, wrapped: bytes, context: bytes = b"") -> bytes:
        """Open what `wrap` sealed. Raises Unavailable if it was sealed with another key, or changed."""
        if len(wrapped) != WRAPPED_BYTES or wrapped[0] != 1:
            raise Unavailable("a wrapped data key is malformed", "restore the file from a copy")
        if wrapped[1:9] != self.kek_id:
            raise Unavailable(
                f"sealed with key {wrapped[1:9].hex()}, and {self.directory} holds key {self.kek_id.hex()}",
                "restore the kek.key that was in use then",
            )
        try:
            return self._kek.decrypt(wrapped[9:21], wrapped[21:], _WRAP + wrapped[:9] + context)
        except InvalidTag:
            raise Unavailable(
                "a wrapped data key was changed or belongs to another file", "restore the file from a copy"
            ) from None


def _create(directory: Path) -> None:
    """Make all keys in a directory beside, then move it in place whole: a crash leaves all of them or none."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))  # mode 0700
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name in _NAMES:
        text = pem if name == "log.key" else secrets.token_hex(KEY_BYTES).encode() + b"\n"
        file = os.open(made / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, text)
            os.fsync(file)
        finally:
            os.close(file)
    sync_directory(made)
    try:
        made.rename(directory)  # onto nothing or an empty directory; fails if another process was first
    except OSError:
        for name in _NAMES:
            (made / name).unlink()
        made.rmdir()
        if not directory.exists() or not any(directory.iterdir()):
            raise
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _unsafe(path: Path, *, directory: bool = False, status: os.stat_result | None = None) -> list[Problem]:
    """Why these rights would let somebody else read a key."""
    status = status or path.stat()
    problems = []
    if status.st_mode & 0o077:
        mode = "0700" if directory else "0600"
        problems.append(
            Problem(str(path), f"others can reach it (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod {mode} {path}")
        )
    if status.st_uid not in (0, os.geteuid()):
        problems.append(Problem(str(path), f"it belongs to user {status.st_uid}", f"chown {os.geteuid()} {path}"))
    return problems


def _read(path: Path) -> bytes:
    """The bytes of a key file that only we can read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        mend = "restore it from your backup of the keys; what it sealed or signed needs this very key"
        raise ConfigError(Problem(str(path), f"cannot read it ({error.strerror})", mend)) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(Problem(str(path), "it is not a plain file", "put the key there as a file"))
        if problems := _unsafe(path, status=status):
            raise ConfigError(*problems)
        return os.read(file, _MAX_FILE_BYTES)
    finally:
        os.close(file)


def _signer(path: Path, text: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(Problem(str(path), "it holds no unencrypted Ed25519 key in PEM", "restore it from a backup"))
    return key


def _hex(path: Path, text: bytes) -> bytes:
    try:
        key = bytes.fromhex(text.strip().decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(Problem(str(path), "it does not hold 64 hex digits", "restore it from a backup"))
    return key
