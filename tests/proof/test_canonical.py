"""Canonical lines: the bytes of RFC 8785 inside the profile, and nothing outside of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.proof.canonical import MAX_BYTES, CanonicalError, decode, encode

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "jcs.json").read_text())

keys = st.text(st.characters(max_codepoint=127), max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
integers = st.integers(-(2**53) + 1, 2**53 - 1)
values = st.recursive(
    texts | integers | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=6)


@pytest.mark.parametrize("vector", VECTORS["accepted"], ids=lambda vector: vector["from"])
def test_the_public_vectors_give_their_bytes(vector: dict[str, Any]) -> None:
    assert encode(vector["value"]) == vector["bytes"].encode()
    assert rfc8785.dumps(vector["value"]) == vector["bytes"].encode()


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["from"])
def test_what_the_profile_leaves_out_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(CanonicalError):
        encode(vector["value"])


@settings(max_examples=200)
@given(objects)
def test_the_bytes_are_those_of_a_general_rfc_8785_library(value: dict[str, Any]) -> None:
    try:
        line = encode(value)
    except CanonicalError as error:
        assert "nested deeper" in str(error)
        return
    assert line == rfc8785.dumps(value)
    assert b"\n" not in line
    assert decode(line) == value


@settings(max_examples=200)
@given(st.binary(max_size=60) | texts.map(str.encode) | objects.map(lambda value: json.dumps(value).encode()))
def test_reading_garbage_gives_a_canonical_error_or_the_very_same_bytes(line: bytes) -> None:
    try:
        value = decode(line)
    except CanonicalError:
        return
    assert encode(value) == line


@pytest.mark.parametrize(
    "value",
    [
        {"a": None},
        {"a": 1.0},
        {"a": 2**53},
        {"a": -(2**53)},
        {"a": (1, 2)},
        {"a": b"x"},
        {1: "a"},
        {"\u00e9": 1},
        {"a": "\ud800"},
        {"a": {"b": [None]}},
        {"a": "x" * MAX_BYTES},
        [],
        "text",
    ],
    ids=repr,
)
def test_everything_else_is_refused(value: Any) -> None:
    with pytest.raises(CanonicalError):
        encode(value)


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CanonicalError, match="nested deeper"):
        encode({"a": deep})
    with pytest.raises(CanonicalError):
        decode(b'{"a":' + b"[" * 16_000 + b"]" * 16_000 + b"}")


@pytest.mark.parametrize(
    "line",
    [b'{"a":1,"a":2}', b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1.0}', b'{"a":"\\u0041"}', b'{"a":1}\n', b"[]", b"1"],
)
def test_one_meaning_has_one_form(line: bytes) -> None:
    with pytest.raises(CanonicalError):
        decode(line)
