"""Proving to a target that we know its secret, and seeing that it does: MD5 and SCRAM-SHA-256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata

from muniment.model.effects import Side
from muniment.model.errors import ProtocolError

MAX_SCRAM_ROUNDS = 200_000  # PostgreSQL's default is 4,096; a hostile target must not buy our CPU


def md5(user: str, secret: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password."""
    inner = hashlib.md5(secret.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


class Scram:
    """The client's half of SCRAM-SHA-256, without channel binding. Source: RFC 5802, section 3; RFC 7677."""

    def __init__(self, secret: str, nonce: bytes) -> None:
        self._secret = unicodedata.normalize("NFKC", secret).encode()
        self._nonce = base64.b64encode(nonce)
        self._bare = b"n=,r=" + self._nonce
        self._signature = b""
        self.proved = False

    def first(self) -> bytes:
        """The first message."""
        return b"n,," + self._bare

    def final(self, challenge: bytes) -> bytes:
        """The answer to the target's challenge. ProtocolError when it is none."""
        parts = dict(part.split(b"=", 1) for part in challenge.split(b",") if b"=" in part)
        try:
            nonce, salt, rounds = parts[b"r"], base64.b64decode(parts[b"s"], validate=True), int(parts[b"i"])
        except (KeyError, ValueError):
            raise ProtocolError(Side.TARGET, "its SCRAM challenge cannot be read") from None
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ProtocolError(Side.TARGET, "its SCRAM challenge does not answer ours")
        if not 1 <= rounds <= MAX_SCRAM_ROUNDS:
            raise ProtocolError(Side.TARGET, f"its SCRAM challenge asks for {rounds} rounds")
        salted = hashlib.pbkdf2_hmac("sha256", self._secret, salt, rounds)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = b"c=biws,r=" + nonce
        message = b",".join((self._bare, challenge, without_proof))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return without_proof + b",p=" + base64.b64encode(proof)

    def check(self, final: bytes) -> None:
        """See that the target knows the secret too. ProtocolError when it does not."""
        wanted = b"v=" + base64.b64encode(self._signature)
        if not self._signature or not hmac.compare_digest(final, wanted):
            raise ProtocolError(Side.TARGET, "it does not know the secret that it asked us for")
        self.proved = True
