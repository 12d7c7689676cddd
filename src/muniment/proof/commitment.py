"""Salted commitments: what a leaf shows of a value that only the sealed payload holds.

A field is disclosed by giving its salt and value, as in SD-JWT (RFC 9901). Without the salt a commitment tells nothing,
also for values that could be guessed. Keyed with HMAC-SHA256 (RFC 2104).
"""

from __future__ import annotations

import hmac

LABEL = b"muniment/v1/"
SECRET_BYTES = 32  # one secret a record; every salt of the record is derived from it


class CommitmentError(Exception):
    """The value and the salt do not give this commitment."""


def salt(secret: bytes, name: str) -> bytes:
    """The 32-byte salt of one field, derived from its record's secret, so that one field can be disclosed alone."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a record's secret is {SECRET_BYTES} bytes")
    return hmac.digest(secret, b"muniment/v1/salt/" + name.encode(), "sha256")


def commit(salt: bytes, label: bytes, name: str, value: bytes) -> str:
    """The commitment to a field, 64 hex digits: HMAC-SHA256(salt, label || name || 0x00 || value)."""
    return hmac.digest(salt, label + name.encode() + b"\0" + value, "sha256").hex()


def verify(commitment: str, salt: bytes, label: bytes, name: str, value: bytes) -> None:
    """Check a disclosed field. Raises CommitmentError unless it is what was committed to."""
    if not hmac.compare_digest(commit(salt, label, name, value).encode(), commitment.encode()):
        raise CommitmentError(f"{name}: not the value that was committed to")
