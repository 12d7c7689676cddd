"""Secrets are read where the manifest says, and what goes wrong never shows a word of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muniment.model.errors import Unavailable
from muniment.model.rules import SecretRef
from muniment.services.secrets import MAX_BYTES, resolve


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNIMENT_TEST_SECRET", "s3cret\n")
    assert resolve(SecretRef("env", "MUNIMENT_TEST_SECRET")) == "s3cret"


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b"s3cret\n\n", "s3cret\n"),
        (b" s3 cret \n", " s3 cret "),
        (b"s3cret\r", "s3cret\r"),
        ("p\u00e4ss".encode(), "p\u00e4ss"),
    ],
)
def test_one_line_end_is_taken_off_and_nothing_else(content: bytes, secret: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert resolve(SecretRef("file", str(path))) == secret


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1))
def test_any_text_with_a_line_end_comes_back_as_it_was(text: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(text.encode() + b"\n")
    assert resolve(SecretRef("file", str(path))) == text


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"canary\xff", b"canary\0canary", b"canary" * MAX_BYTES])
def test_a_file_that_holds_no_one_secret_is_refused_without_its_content(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(Unavailable) as refusal:
        resolve(SecretRef("file", str(path)))
    assert str(path) in refusal.value.what and refusal.value.mend
    chain: BaseException | None = refusal.value
    seen = ""
    while chain is not None:
        seen += repr(chain)
        chain = None if chain.__suppress_context__ else chain.__context__
    assert "canary" not in seen


def test_what_is_not_a_regular_file_is_refused_and_never_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path / "fifo", tmp_path, tmp_path / "missing", Path("/dev/zero"), tmp_path / "a\0b"):
        with pytest.raises(Unavailable) as refusal:
            resolve(SecretRef("file", str(place)))
        assert refusal.value.mend


@pytest.mark.parametrize(
    "secret", [SecretRef("env", "MUNIMENT_NOT_SET"), SecretRef("vault", "x"), SecretRef("env", "")]
)
def test_a_secret_that_is_nowhere_says_what_to_do(secret: SecretRef) -> None:
    with pytest.raises(Unavailable) as refusal:
        resolve(secret)
    assert refusal.value.mend


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("s3cret\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")  # how Kubernetes mounts secrets
    assert resolve(SecretRef("file", str(tmp_path / "link"))) == "s3cret"
