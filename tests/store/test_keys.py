from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muniment.model.errors import ConfigError, Unavailable
from muniment.store.keys import Keys, cipher, new_key

FILES = ("log.key", "kek.key", "pseudonym.key")


def test_keys_are_made_once_and_are_the_same_ever_after(tmp_path: Path) -> None:
    first = Keys.open(tmp_path / "data" / "keys")
    again = Keys.open(tmp_path / "data" / "keys")
    assert (again.public, again.kek_id, again.pseudonym_key()) == (first.public, first.kek_id, first.pseudonym_key())
    key = new_key()
    assert again.unwrap(first.wrap(key, b"here"), b"here") == key


def test_only_our_user_can_reach_the_keys(tmp_path: Path) -> None:
    Keys.open(tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for name in FILES:
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys"], "no half-made directory is left beside"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
@pytest.mark.parametrize("name", FILES)
def test_a_key_file_that_others_can_reach_is_refused_with_its_mend(tmp_path: Path, name: str, mode: int) -> None:
    Keys.open(tmp_path / "keys")
    (tmp_path / "keys" / name).chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 0600 .*{name}"):
        Keys.open(tmp_path / "keys")


def test_a_directory_that_others_can_reach_is_refused_and_every_problem_is_told_at_once(tmp_path: Path) -> None:
    Keys.open(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o755)
    (tmp_path / "keys" / "kek.key").chmod(0o644)
    (tmp_path / "keys" / "log.key").unlink()
    with pytest.raises(ConfigError) as caught:
        Keys.open(tmp_path / "keys")
    assert len(caught.value.problems) == 3
    assert "chmod 0700" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_key_that_is_missing_among_others_is_never_made_anew(tmp_path: Path, name: str) -> None:
    Keys.open(tmp_path / "keys")
    (tmp_path / "keys" / name).unlink()
    with pytest.raises(ConfigError, match="restore it"):
        Keys.open(tmp_path / "keys")
    assert not (tmp_path / "keys" / name).exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", [b"", b"zz" * 32, b"00" * 31, b"-----BEGIN PRIVATE KEY-----\n", b"\xff" * 9000])
def test_a_malformed_key_file_is_a_problem_that_names_the_file_and_not_its_content(
    tmp_path: Path, name: str, text: bytes
) -> None:
    Keys.open(tmp_path / "keys")
    (tmp_path / "keys" / name).write_bytes(text)
    with pytest.raises(ConfigError, match=name) as caught:
        Keys.open(tmp_path / "keys")
    assert "zzzz" not in str(caught.value)


def test_a_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    Keys.open(tmp_path / "keys")
    (tmp_path / "keys" / "kek.key").rename(tmp_path / "elsewhere")
    (tmp_path / "keys" / "kek.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"kek\.key"):
        Keys.open(tmp_path / "keys")


def test_a_directory_that_cannot_be_made_is_a_problem_with_a_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot make"):
        Keys.open(tmp_path / "file" / "keys")


def test_what_was_sealed_with_another_key_says_so(tmp_path: Path) -> None:
    ours, theirs = Keys.open(tmp_path / "ours"), Keys.open(tmp_path / "theirs")
    with pytest.raises(Unavailable, match=f"sealed with key {theirs.kek_id.hex()}"):
        ours.unwrap(theirs.wrap(new_key()))


def test_a_wrapped_key_opens_only_for_what_it_was_made(keys: Keys) -> None:
    with pytest.raises(Unavailable, match="another file"):
        keys.unwrap(keys.wrap(new_key(), b"one"), b"other")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_or_cut_wrapped_key_never_opens(keys: Keys, data: st.DataObject) -> None:
    wrapped = bytearray(keys.wrap(new_key()))
    at = data.draw(st.integers(0, len(wrapped) - 1))
    if data.draw(st.booleans()):
        wrapped[at] ^= data.draw(st.integers(1, 255))
    else:
        del wrapped[at:]
    with pytest.raises(Unavailable):
        keys.unwrap(bytes(wrapped))


def test_the_log_signer_makes_ed25519_signatures(keys: Keys) -> None:
    sign, public = keys.log_signer()
    Ed25519PublicKey.from_public_bytes(public).verify(sign(b"text"), b"text")
    assert len(sign(b"text")) == 64


def test_keys_do_not_show_in_a_representation(keys: Keys) -> None:
    secret = (keys.directory / "kek.key").read_text().strip()
    assert secret not in repr(keys)
    assert keys.pseudonym_key().hex() not in repr(keys)


def test_two_data_keys_and_two_wraps_of_one_are_never_the_same(keys: Keys) -> None:
    key = new_key()
    assert new_key() != key
    assert keys.wrap(key) != keys.wrap(key)


def test_the_cipher_is_aes_256_gcm() -> None:
    # NIST's GCM test case 14 (256-bit key of zeros, one block of zeros).
    sealed = cipher(bytes(32)).encrypt(bytes(12), bytes(16), None)
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    Keys.open(tmp_path / "keys")
    os.chown(tmp_path / "keys" / "kek.key", 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        Keys.open(tmp_path / "keys")
