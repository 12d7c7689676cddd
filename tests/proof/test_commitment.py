"""Commitments: they bind, and they hide."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.proof.commitment import LABEL, CommitmentError, commit, salt, verify

SECRET = bytes(range(32))
names = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=8)


def test_a_commitment_is_the_hmac_that_is_documented() -> None:
    made = hmac.new(SECRET, b"muniment/v1/statement\0select 1", hashlib.sha256).hexdigest()
    assert commit(SECRET, LABEL, "statement", b"select 1") == made


@given(names, st.binary(max_size=40), st.binary(max_size=40))
def test_a_disclosed_field_holds_for_its_own_value_only(name: str, value: bytes, other: bytes) -> None:
    one = salt(SECRET, name)
    made = commit(one, LABEL, name, value)
    verify(made, one, LABEL, name, value)
    if other != value:
        with pytest.raises(CommitmentError):
            verify(made, one, LABEL, name, other)
    with pytest.raises(CommitmentError):
        verify(made, one, LABEL, name + "x", value)


@given(names, names)
def test_the_salt_of_one_field_tells_nothing_of_another(name: str, other: str) -> None:
    assert (salt(SECRET, name) == salt(SECRET, other)) == (name == other)
    assert SECRET not in salt(SECRET, name)


def test_a_short_secret_is_our_bug() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        salt(b"short", "statement")


@pytest.mark.parametrize("text", ["", "zz", "\u00e9" * 64])
def test_a_malformed_commitment_is_refused(text: str) -> None:
    with pytest.raises(CommitmentError):
        verify(text, SECRET, LABEL, "a", b"")
