"""SSH signatures as `ssh-keygen -Y sign` makes them: read, and checked against public keys that are already trusted.

Kinds of key: Ed25519, ECDSA P-256 and P-384, RSA with SHA-2 (2048 bits or more), and the security-key forms of Ed25519
and P-256, for which a person must have touched the key. Anything else, and SHA-1 above all, is refused.

Source: OpenSSH's PROTOCOL.sshsig, PROTOCOL.u2f; RFC 4253 section 6.6, RFC 5656 section 3.1, RFC 8332, RFC 8709.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
MAGIC = b"SSHSIG"
MAX_ARMOUR = 16 << 10  # an RSA-8192 signature is under 4 KiB
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192  # above, one verification would cost milliseconds of a peer's choosing
USER_PRESENT = 0x01
_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "nistp384": (ec.SECP384R1(), hashes.SHA384()),
}
_RSA_HASH: dict[str, hashes.HashAlgorithm] = {"rsa-sha2-512": hashes.SHA512(), "rsa-sha2-256": hashes.SHA256()}


class SignatureError(Exception):
    """The signature does not hold; the text says why."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature's parts. key: the public key's blob; kind: the signature's algorithm; rest: what follows its value
    (a security key's flags and counter)."""

    key: bytes
    namespace: str
    hash: str
    kind: str
    value: bytes
    rest: bytes


class _Reader:
    """SSH wire data: every length is checked before it is used."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise SignatureError("it is cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        try:
            return self.string().decode("ascii")
        except UnicodeDecodeError:
            raise SignatureError("a name in it is not ASCII") from None

    def integer(self) -> int:
        """An mpint that must be positive and in its shortest form, so that one signature has one encoding."""
        raw = self.string()
        if not raw or raw[0] & 0x80 or (raw[0] == 0 and (len(raw) == 1 or not raw[1] & 0x80)):
            raise SignatureError("a number in it is negative, zero or padded")
        return int.from_bytes(raw, "big")

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        if self.at != len(self.data):
            raise SignatureError("something follows its end")


def parse(armoured: str) -> Signature:
    """The parts of an armoured signature. Raises SignatureError."""
    if len(armoured) > MAX_ARMOUR:
        raise SignatureError("it is too long")
    lines = armoured.strip().splitlines()
    if len(lines) < 3 or lines[0].strip() != BEGIN or lines[-1].strip() != END:
        raise SignatureError(f"it is not between {BEGIN} and {END}")
    try:
        blob = base64.b64decode("".join(line.strip() for line in lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("its armour is not base64") from None
    reader = _Reader(blob)
    if reader.take(len(MAGIC)) != MAGIC or reader.number() != 1:
        raise SignatureError("it is not an SSH signature of version 1")
    key, namespace = reader.string(), reader.text()
    reader.string()  # reserved: ignored, but signed
    algorithm, inner = reader.text(), _Reader(reader.string())
    reader.end()
    kind, value = inner.text(), inner.string()
    return Signature(key, namespace, algorithm, kind, value, inner.rest())


def key_blob(line: str) -> bytes:
    """The blob of a public key in OpenSSH's one-line form ("type base64 comment"). Raises SignatureError."""
    words = line.split()
    if len(words) < 2:
        raise SignatureError("the public key is not in OpenSSH's one-line form")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("the public key is not base64") from None
    if _Reader(blob).text() != words[0]:
        raise SignatureError("the public key's type is not the one that its line says")
    return blob


def fingerprint(line: str) -> str:
    """The key's fingerprint as OpenSSH prints it: "SHA256:..."."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key_blob(line)).digest()).decode().rstrip("=")


def verify(armoured: str, message: bytes, namespace: str, keys: Sequence[str]) -> str:
    """Check that one of `keys` (one-line form) signed `message` for `namespace`. Returns that key's line.

    Raises SignatureError. A key that the signature itself carries is only ever compared with the trusted ones. A
    trusted line that cannot be read is passed over: it can match nothing.
    """
    signature = parse(armoured)
    if signature.namespace != namespace:
        raise SignatureError(f"it was made for {signature.namespace!r}, not for {namespace!r}")
    if signature.hash not in ("sha256", "sha512"):
        raise SignatureError(f"its hash {signature.hash!r} is not accepted")
    for line in keys:
        try:
            known = key_blob(line)
        except SignatureError:
            continue
        if hmac.compare_digest(known, signature.key):
            signed = MAGIC + _string(namespace.encode()) + _string(b"") + _string(signature.hash.encode())
            signed += _string(hashlib.new(signature.hash, message).digest())
            _check(signature, signed)
            return line
    raise SignatureError("its key is not one of this person's keys")


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _check(signature: Signature, signed: bytes) -> None:
    key = _Reader(signature.key)
    kind = key.text()
    try:
        if kind == "ssh-rsa":
            _check_rsa(key, signature, signed)
        elif signature.kind != kind:
            raise SignatureError(f"its algorithm {signature.kind!r} is not that of its key, {kind!r}")
        elif kind == "ssh-ed25519":
            public = ed25519.Ed25519PublicKey.from_public_bytes(key.string())
            _nothing_follows(key, signature)
            public.verify(signature.value, signed)
        elif kind == "sk-ssh-ed25519@openssh.com":
            public = ed25519.Ed25519PublicKey.from_public_bytes(key.string())
            public.verify(signature.value, _touched(key, signature, signed))
        elif kind in ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"):
            point, curve = _point(key, kind.removeprefix("ecdsa-sha2-"))
            _nothing_follows(key, signature)
            point.verify(_der(signature.value), signed, ec.ECDSA(curve))
        elif kind == "sk-ecdsa-sha2-nistp256@openssh.com":
            point, curve = _point(key, "nistp256")
            point.verify(_der(signature.value), _touched(key, signature, signed), ec.ECDSA(curve))
        else:
            raise SignatureError(f"keys of type {kind!r} are not accepted")
    except InvalidSignature:
        raise SignatureError("it does not fit what was signed") from None
    except ValueError:
        raise SignatureError("its key cannot be read") from None


def _check_rsa(key: _Reader, signature: Signature, signed: bytes) -> None:
    if signature.kind not in _RSA_HASH:
        raise SignatureError(f"its algorithm {signature.kind!r} is not accepted")
    exponent, modulus = key.integer(), key.integer()
    _nothing_follows(key, signature)
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS or exponent.bit_length() > 32:
        raise SignatureError(f"its RSA key is not of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    # RFC 8332 section 3: leading zeros may have been left out
    value = signature.value.rjust((modulus.bit_length() + 7) // 8, b"\0")
    public.verify(value, signed, padding.PKCS1v15(), _RSA_HASH[signature.kind])


def _nothing_follows(key: _Reader, signature: Signature) -> None:
    key.end()
    if signature.rest:
        raise SignatureError("something follows its end")


def _point(key: _Reader, name: str) -> tuple[ec.EllipticCurvePublicKey, hashes.HashAlgorithm]:
    if key.text() != name:
        raise SignatureError("its key names another curve than its type")
    curve, algorithm = _CURVES[name]
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, key.string()), algorithm


def _der(value: bytes) -> bytes:
    reader = _Reader(value)
    r, s = reader.integer(), reader.integer()
    reader.end()
    return encode_dss_signature(r, s)


def _touched(key: _Reader, signature: Signature, signed: bytes) -> bytes:
    """What a security key signs: SHA-256 of its application, flags, counter, SHA-256 of the message."""
    application = key.string()
    key.end()
    if len(signature.rest) != 5:
        raise SignatureError("a security key's flags and counter are not there")
    if not signature.rest[0] & USER_PRESENT:
        raise SignatureError("nobody touched the security key")
    return hashlib.sha256(application).digest() + signature.rest + hashlib.sha256(signed).digest()
