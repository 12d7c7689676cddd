"""SSH signatures: what ssh-keygen makes is accepted, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.proof import sshsig
from muniment.proof.sshsig import SignatureError, verify

NAMESPACE = "muniment-approval@v1"
MESSAGE = b'{"approval":"A-7K2M-4QXD","decision":"approve"}'


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _integer(value: int) -> bytes:
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _armour(key: bytes, inner: bytes, *, namespace: bytes = NAMESPACE.encode(), algorithm: bytes = b"sha512") -> str:
    blob = b"SSHSIG" + (1).to_bytes(4, "big") + b"".join(map(_string, (key, namespace, b"", algorithm, inner)))
    return f"{sshsig.BEGIN}\n{base64.b64encode(blob).decode()}\n{sshsig.END}\n"


def _signed(message: bytes) -> bytes:
    digest = hashlib.sha512(message).digest()
    return b"SSHSIG" + b"".join(map(_string, (NAMESPACE.encode(), b"", b"sha512", digest)))


def _line(kind: bytes, key: bytes) -> str:
    return f"{kind.decode()} {base64.b64encode(key).decode()} somebody@example.org"


def _ed25519() -> tuple[str, str]:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key = _string(b"ssh-ed25519") + _string(raw)
    value = _string(b"ssh-ed25519") + _string(private.sign(_signed(MESSAGE)))
    return _line(b"ssh-ed25519", key), _armour(key, value)


def _security_key(flags: int, *, ecdsa: bool) -> tuple[str, str]:
    """What a security key would answer, by its specification (none is at hand to tape)."""
    tail = bytes([flags]) + (7).to_bytes(4, "big")
    touched = hashlib.sha256(b"ssh:").digest() + tail + hashlib.sha256(_signed(MESSAGE)).digest()
    if ecdsa:
        private = ec.derive_private_key(4711, ec.SECP256R1())
        point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        kind = b"sk-ecdsa-sha2-nistp256@openssh.com"
        key = _string(kind) + _string(b"nistp256") + _string(point) + _string(b"ssh:")
        r, s = decode_dss_signature(private.sign(touched, ec.ECDSA(hashes.SHA256())))
        value = _integer(r) + _integer(s)
    else:
        other = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
        kind = b"sk-ssh-ed25519@openssh.com"
        raw = other.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        key = _string(kind) + _string(raw) + _string(b"ssh:")
        value = other.sign(touched)
    return _line(kind, key), _armour(key, _string(kind) + _string(value) + tail)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
@pytest.mark.parametrize("kind", [["ed25519"], ["ecdsa", "-b", "256"], ["ecdsa", "-b", "384"], ["rsa", "-b", "2048"]])
def test_what_ssh_keygen_signs_is_accepted_and_bound_to_message_namespace_and_key(
    kind: list[str], tmp_path: Path
) -> None:
    for name in ("mine", "other"):
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", str(tmp_path / name), "-t", *kind], check=True)
    command = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(tmp_path / "mine")]
    signature = subprocess.run(command, input=MESSAGE, capture_output=True, check=True).stdout.decode()
    mine, other = ((tmp_path / f"{name}.pub").read_text() for name in ("mine", "other"))
    assert verify(signature, MESSAGE, NAMESPACE, [other, mine]) == mine
    with pytest.raises(SignatureError, match="does not fit"):
        verify(signature, MESSAGE + b" ", NAMESPACE, [mine])
    with pytest.raises(SignatureError, match="made for"):
        verify(signature, MESSAGE, "git", [mine])
    with pytest.raises(SignatureError, match="not one of"):
        verify(signature, MESSAGE, NAMESPACE, [other])
    printed = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "mine.pub")], capture_output=True, check=True).stdout
    assert sshsig.fingerprint(mine) in printed.decode()


@pytest.mark.parametrize("ecdsa", [False, True])
def test_a_security_key_counts_only_when_it_was_touched(ecdsa: bool) -> None:
    line, armour = _security_key(0x01, ecdsa=ecdsa)
    assert verify(armour, MESSAGE, NAMESPACE, [line]) == line
    line, armour = _security_key(0x00, ecdsa=ecdsa)
    with pytest.raises(SignatureError, match="touched"):
        verify(armour, MESSAGE, NAMESPACE, [line])


@settings(max_examples=200, deadline=None)
@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_flipped_bit_is_accepted(at: int, bit: int) -> None:
    line, armour = _ed25519()
    blob = bytearray(base64.b64decode(armour.splitlines()[1]))
    blob[at % len(blob)] ^= 1 << bit
    changed = f"{sshsig.BEGIN}\n{base64.b64encode(blob).decode()}\n{sshsig.END}"
    with pytest.raises(SignatureError):
        verify(changed, MESSAGE, NAMESPACE, [line])


@settings(max_examples=200, deadline=None)
@given(blob=st.binary(max_size=300))
def test_garbage_is_a_signature_error_and_nothing_else(blob: bytes) -> None:
    for body in (blob, b"SSHSIG\0\0\0\1" + blob):
        armour = f"{sshsig.BEGIN}\n{base64.b64encode(body).decode()}\n{sshsig.END}"
        with pytest.raises(SignatureError):
            verify(armour, MESSAGE, NAMESPACE, [_ed25519()[0]])


@settings(max_examples=200, deadline=None)
@given(key=st.binary(max_size=120), value=st.binary(max_size=120), kind=st.sampled_from(
    [b"ssh-ed25519", b"ssh-rsa", b"ecdsa-sha2-nistp256", b"sk-ssh-ed25519@openssh.com", b"ssh-dss"]
))  # fmt: skip
def test_a_registered_key_of_garbage_accepts_nothing(key: bytes, value: bytes, kind: bytes) -> None:
    blob = _string(kind) + key
    for algorithm in (kind, b"rsa-sha2-512"):
        with pytest.raises(SignatureError):
            verify(_armour(blob, _string(algorithm) + _string(value)), MESSAGE, NAMESPACE, [_line(kind, blob)])


def test_weak_rsa_and_sha1_are_refused() -> None:
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    key = _string(b"ssh-rsa") + _integer(numbers.e) + _integer(numbers.n)
    with pytest.raises(SignatureError, match="bits"):
        verify(_armour(key, _string(b"rsa-sha2-512") + _string(b"x")), MESSAGE, NAMESPACE, [_line(b"ssh-rsa", key)])
    with pytest.raises(SignatureError, match="not accepted"):
        verify(_armour(key, _string(b"ssh-rsa") + _string(b"x")), MESSAGE, NAMESPACE, [_line(b"ssh-rsa", key)])
    line, _ = _ed25519()
    inner = _string(b"ssh-ed25519") + _string(bytes(64))
    with pytest.raises(SignatureError, match="hash"):
        verify(_armour(sshsig.key_blob(line), inner, algorithm=b"sha1"), MESSAGE, NAMESPACE, [line])
