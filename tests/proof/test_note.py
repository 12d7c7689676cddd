"""Signed notes and checkpoints, against notes that others signed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.proof import note
from muniment.proof.note import Checkpoint, NoteError, VerifierKey

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "notes.json").read_text())
SECRET = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
PUBLIC = SECRET.public_key().public_bytes_raw()
NAME = "gw.example.org/evidence/2026"
VKEY = VerifierKey(NAME, PUBLIC)
HEAD = Checkpoint(NAME, 7, b"\2" * 32)

lines = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12).filter(
    lambda name: "+" not in name and not any(one.isspace() for one in name)
)


def whole(vector: dict[str, Any]) -> str:
    return vector["text"] + "\n" + "".join(line + "\n" for line in vector["signatures"])


@pytest.mark.parametrize("vector", VECTORS["signed"], ids=lambda vector: vector["vkey"].partition("+")[0])
def test_notes_that_others_signed_hold(vector: dict[str, Any]) -> None:
    vkey = note.parse_vkey(vector["vkey"])
    assert str(vkey) == vector["vkey"]
    assert note.verify(whole(vector), [vkey]) == vector["text"]
    assert str(note.parse(whole(vector))) == whole(vector)
    with pytest.raises(NoteError, match="is wrong"):
        note.verify("x" + whole(vector), [vkey])


@pytest.mark.parametrize("vector", VECTORS["parsed"], ids=lambda vector: vector["text"].split()[0])
def test_the_specifications_examples_are_read(vector: dict[str, Any]) -> None:
    parsed = note.parse(whole(vector))
    assert parsed.text == vector["text"], "an empty line may stand within the text"
    assert str(parsed) == whole(vector)


def test_a_checkpoint_of_the_go_checksum_database_is_read() -> None:
    head = note.parse_checkpoint(VECTORS["signed"][1]["text"])
    assert (head.origin, head.size) == ("go.sum database tree", 65_664_258)
    assert head.text == VECTORS["signed"][1]["text"]


@settings(max_examples=50)
@given(st.lists(lines, min_size=1, max_size=4), names)
def test_what_is_signed_is_verified_and_comes_back(body: list[str], name: str) -> None:
    text = "\n".join(body) + "\n"
    signed = note.sign(text, name, PUBLIC, SECRET.sign)
    assert note.verify(signed, [VerifierKey(name, PUBLIC)]) == text
    with pytest.raises(NoteError, match="no known key"):
        note.verify(signed, [VerifierKey(name, b"\3" * 32)])


@settings(max_examples=100)
@given(st.data())
def test_no_flipped_character_passes(data: st.DataObject) -> None:
    signed = note.sign(HEAD.text, NAME, PUBLIC, SECRET.sign)
    at = data.draw(st.integers(0, len(signed) - 1))
    other = data.draw(st.characters(exclude_categories=["Cs"]).filter(lambda one: one != signed[at]))
    with pytest.raises(NoteError):
        note.verify(signed[:at] + other + signed[at + 1 :], [VKEY])


def test_signatures_of_unknown_keys_are_passed_over_and_bad_ones_of_known_keys_are_not() -> None:
    signed = note.sign(HEAD.text, NAME, PUBLIC, SECRET.sign)
    witness = note.sign(HEAD.text, "witness.example", PUBLIC, SECRET.sign).rpartition("\n\n")[2]
    assert note.verify(signed + witness, [VKEY]) == HEAD.text
    broken = note.sign(HEAD.text, "witness.example", PUBLIC, lambda _: b"\0" * 64).rpartition("\n\n")[2]
    assert note.verify(signed + broken, [VKEY]) == HEAD.text
    with pytest.raises(NoteError, match="is wrong"):
        note.verify(signed + broken, [VKEY, VerifierKey("witness.example", PUBLIC)])


@settings(max_examples=200)
@given(
    st.text(max_size=80)
    | st.builds(lambda text, tail: f"{text}\n\n\u2014 {tail}\n", lines, lines)
    | st.text(st.sampled_from("a\n\u2014 +=1"), max_size=30)
)
def test_reading_a_garbage_note_raises_nothing_but_note_errors(text: str) -> None:
    for read in (note.parse, note.parse_checkpoint, note.parse_vkey, lambda one: note.verify(one, [VKEY])):
        try:
            found = read(text)
        except NoteError:
            continue
        assert (found.text if isinstance(found, Checkpoint) else str(found)) in (text, text.strip())


@given(names, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(lines.filter(bool), max_size=2))
def test_checkpoints_come_back(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    head = Checkpoint(origin, size, root, tuple(extensions))
    assert note.parse_checkpoint(head.text) == head


ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    "text",
    [
        "", "o\n1\n", f"o\n01\n{ROOT}\n", f"o\n-1\n{ROOT}\n", f"o\n+1\n{ROOT}\n", f"o\n1 \n{ROOT}\n", f"\n1\n{ROOT}\n",
        f"o\n1\n{ROOT}", f"o\n1\n{ROOT[:-4]}\n", f"o\n1\n{ROOT}\n\n", f"o\n\u0661\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        f"o\n1\n{ROOT[:-2]}J=\n", f"o\t\n1\n{ROOT}\n", f"o\n{2**63}\n{ROOT}\n",
    ],
)  # fmt: skip
def test_nothing_but_the_one_form_is_a_checkpoint(text: str) -> None:
    with pytest.raises(NoteError):
        note.parse_checkpoint(text)


@pytest.mark.parametrize(
    "line",
    ["", "a", "a+b", f"{NAME}+00000000+{str(VKEY).rpartition('+')[2]}", f"{VKEY}x", str(VKEY).replace("gw", "g w")],
)
def test_nothing_but_the_one_form_is_a_key(line: str) -> None:
    with pytest.raises(NoteError):
        note.parse_vkey(line)


@pytest.mark.parametrize(
    ("text", "name"),
    [("no newline", NAME), ("tab\t\n", NAME), ("x\n", "a b"), ("x\n", "a+b"), ("x\n", ""), ("\ud800\n", NAME)],
)
def test_what_could_not_be_read_back_is_not_signed(text: str, name: str) -> None:
    with pytest.raises(NoteError):
        note.sign(text, name, PUBLIC, SECRET.sign)


@pytest.mark.parametrize(
    "head", [Checkpoint("o", -1, b"\0" * 32), Checkpoint("o", 1, b""), Checkpoint("a\nb", 1, b"\0" * 32)]
)
def test_a_malformed_checkpoint_has_no_text(head: Checkpoint) -> None:
    with pytest.raises(NoteError):
        _ = head.text


def test_a_note_that_is_too_long_is_not_read() -> None:
    with pytest.raises(NoteError, match="too long"):
        note.parse("x" * (note.MAX_NOTE_BYTES + 1))
