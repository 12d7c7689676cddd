"""Proving a secret to a target: the standard's own example, and targets that do not know the secret or never ask."""

from __future__ import annotations

import base64
import hashlib

import pytest

from muniment.model.errors import ProtocolError
from muniment.protocols.postgres.credentials import MAX_SCRAM_ROUNDS, Scram, md5

# RFC 7677, section 3: user "user", password "pencil"
NONCE = "rOprNGfwEbeRWgbNEkqO"
CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
ANSWER = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
PROOF = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def scram(secret: str = "pencil") -> Scram:
    made = Scram(secret, base64.b64decode(NONCE))
    assert made.first() == b"n,,n=,r=" + NONCE.encode()  # PostgreSQL takes the user's name from the startup message
    made._bare = b"n=user,r=" + NONCE.encode()  # the example has one
    return made


def test_the_example_of_the_standard_is_answered_as_it_says() -> None:
    ours = scram()
    assert ours.final(CHALLENGE) == ANSWER
    assert not ours.proved
    ours.check(PROOF)
    assert ours.proved


@pytest.mark.parametrize("said", [b"", b"v=", PROOF[:-1], b"v=" + base64.b64encode(bytes(32)), b"e=other-error"])
def test_a_target_that_does_not_know_the_secret_is_found_out(said: bytes) -> None:
    ours = scram()
    ours.final(CHALLENGE)
    with pytest.raises(ProtocolError, match="does not know the secret"):
        ours.check(said)
    assert not ours.proved


def test_a_target_that_says_it_is_done_before_it_has_asked_has_proved_nothing() -> None:
    ours = scram()
    for said in (b"", b"v=", PROOF):
        with pytest.raises(ProtocolError):
            ours.check(said)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "cannot be read"),
        (CHALLENGE.replace(b"i=4096", b"i=many"), "cannot be read"),
        (CHALLENGE.replace(b"s=W22Z", b"s=W*2Z"), "cannot be read"),
        (CHALLENGE.replace(b"r=rOpr", b"r=other"), "does not answer ours"),
        (b"r=" + NONCE.encode() + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "does not answer ours"),
        (CHALLENGE.replace(b"i=4096", b"i=0"), "0 rounds"),
        (CHALLENGE.replace(b"i=4096", b"i=-1"), "-1 rounds"),
        (CHALLENGE.replace(b"i=4096", f"i={MAX_SCRAM_ROUNDS + 1}".encode()), "rounds"),
    ],
)
def test_a_challenge_that_is_none_or_would_burn_our_time_is_refused(said: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        scram().final(said)


def test_the_same_password_in_another_normal_form_is_the_same_password() -> None:
    assert scram("\u212b\uff11").final(CHALLENGE) == scram("\u00c51").final(CHALLENGE)


def test_md5_is_made_as_the_manual_says() -> None:
    inner = hashlib.md5(b"secret" + b"job").hexdigest()
    assert md5("job", "secret", b"salt") == b"md5" + hashlib.md5(inner.encode() + b"salt").hexdigest().encode()
    assert md5("job", "secret", b"tlas") != md5("job", "secret", b"salt")
