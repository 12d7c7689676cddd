"""How masked values look."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.judge import shapes
from muniment.scan.values import ALL, find

KEY = b"k" * 32
CARD = b"4111 1111 1111 1111"


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("redact", CARD, b"[masked]"),
        ("last4", CARD, b"**** **** **** 1111"),
        ("first6-last4", CARD, b"4111 11** **** 1111"),
        ("first6-last4", b"4111111111111111", b"411111******1111"),
        ("first6-last4", b"378282246310005", b"378282*****0005"),
        ("last4", b"123-45-6789", b"***-**-6789"),
        ("last4", b"12345678", b"[masked]"),  # half of it would show
        ("first6-last4", b"123-45-6789", b"[masked]"),
        ("first6-last4", b"ghp_abcdefghijklmnop", b"[masked]"),
        ("last4", "j\u00fcrgen@example.org".encode(), b"*" * 13 + b"e*org"),
        ("unheard-of", CARD, b"[masked]"),
    ],
)
def test_each_mode_shows_what_its_name_says(mode: str, value: bytes, expected: bytes) -> None:
    assert shapes.shape(mode, "card_number", KEY)(value) == expected


@given(st.binary(max_size=60), st.sampled_from(["redact", "last4", "first6-last4", "pseudonym"]))
def test_any_bytes_have_a_shape_in_which_no_detector_hits(value: bytes, mode: str) -> None:
    shown = shapes.shape(mode, "card_number", KEY)(value)
    assert not find(shown, ALL)
    if mode != "pseudonym":
        assert shapes.shape(mode, "card_number", KEY)(shown) in (shown, shapes.REDACTED)


@given(st.from_regex(rb"[0-9]{13,19}", fullmatch=True))
def test_no_more_digits_in_a_row_survive_than_the_mode_names(value: bytes) -> None:
    for mode, most in (("redact", 0), ("last4", 4), ("first6-last4", 6)):
        shown = shapes.shape(mode, "card_number", KEY)(value)
        assert max(map(len, re.findall(rb"[0-9]+", shown)), default=0) <= most


def test_a_pseudonym_is_the_same_however_a_value_is_written() -> None:
    one = shapes.pseudonym(CARD, "card_number", KEY)
    assert one == shapes.pseudonym(b"4111-1111-1111-1111", "card_number", KEY)
    assert one != shapes.pseudonym(b"4111-1111-1111-1112", "card_number", KEY)
    assert one != shapes.pseudonym(CARD, "us_ssn", KEY)
    assert one != shapes.pseudonym(CARD, "card_number", b"x" * 32)
    assert re.fullmatch(rb"masked-[a-p]{20}", one)
    assert shapes.pseudonym(b"Ada@Example.org", "email", KEY) == shapes.pseudonym(b"ada@example.org", "email", KEY)


documents = st.recursive(
    st.none() | st.booleans() | st.integers(0, 10**19) | st.sampled_from([4111111111111111, -4111111111111111])
    | st.text(max_size=12)
    | st.sampled_from(["4111 1111 1111 1111", "x\nada@example.org", "\u0001ada@example.org\\"])
    | st.sampled_from(['123-45-6789"', "\u00e4@b.org", "\u00e4da@example.org"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(documents, st.booleans(), st.sampled_from([None, 1]))
def test_json_stays_json_and_nothing_that_hits_is_left(document: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    hits = find(text, ALL)
    spans = [(start, end, shapes.shape("redact", "card_number", KEY)) for start, end, _ in hits]
    shown = shapes.in_json(text, spans)
    if not hits:
        assert shown == text or shown == b'"[masked]"'
        return
    json.loads(shown)
    assert not find(shown, ALL)


def test_json_by_hand() -> None:
    def masked(text: str) -> str:
        value = text.encode()
        spans = [(start, end, shapes.shape("redact", "x", KEY)) for start, end, _ in find(value, ALL)]
        return shapes.in_json(value, spans).decode()

    assert masked('{"card": 4111111111111111, "n": 1}') == '{"card": "[masked]", "n": 1}'
    assert masked('{"card": "4111111111111111"}') == '{"card": "[masked]"}'
    assert masked("[4111111111111111, 4111111111111111]") == '["[masked]", "[masked]"]'
    assert masked("-4111111111111111") == '"[masked]"'
    assert masked(r'{"a": "line\nada@example.org"}') == r'{"a": "line[masked]"}'
    assert masked(r'{"a": "\u00e4da@example.org!"}') == r'{"a": "[masked]!"}'
    assert masked("not json: 4111111111111111") == '"[masked]"'
