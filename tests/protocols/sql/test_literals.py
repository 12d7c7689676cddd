"""No literal survives `redact`; texts of one shape read the same; `inner_text` cuts where the parser would."""

from __future__ import annotations

import json

import pgparse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.protocols.sql.literals import WITHHELD, Untokenised, inner_text, redact, shape, tokens
from muniment.protocols.sql.postgres import read

CANARY = "kanari"
NUMBER = "8675309"

# Every way in which a value can stand in a statement.
LITERALS = st.sampled_from(
    [
        f"'{CANARY}'",
        f"'it''s {CANARY}'",
        f"E'\\'{CANARY}'",
        f"e'{CANARY}\\\\'",
        f"N'{CANARY}'",
        f"U&'{CANARY}'",
        f"u&'{CANARY}' UESCAPE '!'",
        f"$${CANARY}$$",
        f"$tag$ $$ {CANARY} $tag$",
        f"$t$'{CANARY}$t$",
        NUMBER,
        f"1.{NUMBER}",
        f"{NUMBER}e-{NUMBER}",
        f".{NUMBER}",
        f"-{NUMBER}",
        f"b'{NUMBER}'",
        f"X'{NUMBER}'",
        f"'a'\n  '{CANARY}'",
        f"E'a' -- x\n '\\'{CANARY}'",
        f"'a'\r\t'{CANARY}'",
        f"'--{CANARY}'",
        f"'/*{CANARY}'",
        f"-- {CANARY}\n1",
        f"/* {CANARY} /* {CANARY} */ {CANARY} */ 1",
        f"'\\' || '{CANARY}'",
        f"'é{CANARY}'",
        f"DATE '{CANARY}'",
        f"interval '{NUMBER} days'",
        f'"{NUMBER}"',
        "0x8675309",
        "8_675_309",
        f"'{CANARY}'::text",
    ]
)
FRAMES = st.sampled_from(
    ["SELECT {}", "{}+{}", "INSERT INTO t VALUES ({}, {})", "x = {}", 'f({}, "a", $1)', " {} ", "a.b>{}"]
)


@st.composite
def statements(draw: st.DrawFn) -> str:
    pieces = [draw(FRAMES) for _ in range(draw(st.integers(1, 5)))]
    return ";\n".join(piece.replace("{}", "\0") for piece in pieces)


@given(statements(), st.data())
def test_no_literal_survives(frame: str, data: st.DataObject) -> None:
    text = frame
    while "\0" in text:
        text = text.replace("\0", data.draw(LITERALS), 1)
    shown = redact(text)
    assert CANARY not in shown
    assert NUMBER not in shown.replace("_", "")
    assert shown != WITHHELD


@given(st.text(alphabet="'\"$\\eEuU&tag-*/;1.x \n", max_size=60))
def test_redact_is_total_and_what_it_shows_holds_no_quote_with_something_in_it(text: str) -> None:
    shown = redact(text)
    if shown != WITHHELD:
        strings = [shown[start:end] for kind, start, end in tokens(shown) if kind in ("string", "escape", "dollar")]
        assert set(strings) <= {"'?'"}


@given(st.text(max_size=80))
def test_tokens_cover_the_text_without_a_gap(text: str) -> None:
    try:
        found = list(tokens(text))
    except Untokenised:
        return
    assert "".join(text[start:end] for _, start, end in found) == text
    assert all(start < end for _, start, end in found)


HOSTILE = [
    "'",
    "''",
    "' \n",
    "'a'\n   ",
    "--",
    "-- -",
    "/*",
    "$",
    "$a$",
    '"',
    '""',
    "\\",
    "E'\\",
    "1",
    "1.",
    "1e",
    "a",
    "é",
    " ",
    "'x' -- c\n",
    "0x",
    "$1",
    "(",
    "a.",
    "U&'",
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("start", ["", "SELECT 'x' ", "SELECT 'x'\n", "SELECT $$ "])
def test_no_text_makes_the_patterns_try_again_and_again(piece: str, start: str) -> None:
    """64 KB take milliseconds; a pattern that goes back would take hours."""
    text = start + piece * (60_000 // len(piece))
    for found in (redact(text), redact(text + "!"), shape(text), inner_text(text, "as", 2)):
        assert found is None or len(found) <= len(text) * 3 + 50


@pytest.mark.parametrize("text", ["'open", 'select "open', "$a$ open $b$", "/* open /* */", "E'\\'", "a\0b", "U&'x"])
def test_what_cannot_be_tokenised_is_withheld(text: str) -> None:
    assert redact(f"SELECT 1, {text}") == WITHHELD


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT * FROM t WHERE a = 'x' AND b = 3", "SELECT * FROM t WHERE a = '?' AND b = ?"),
        ('SELECT a1, "b".c FROM t2 -- note', 'SELECT a1, "b".c FROM t2  '),
        ("UPDATE t SET a = $1, b = $2", "UPDATE t SET a = $1, b = $2"),
        ('SELECT "4111111111111111"', 'SELECT "?"'),
    ],
)
def test_names_and_parameters_stay(text: str, shown: str) -> None:
    assert redact(text) == shown


# the lexer is the parser's


@given(statements(), st.data())
def test_strings_end_where_postgres_says_that_they_end(frame: str, data: st.DataObject) -> None:
    """What the tokeniser takes for one string is one constant to PostgreSQL's own parser."""
    literal = data.draw(LITERALS)
    try:
        parsed = json.dumps(pgparse.parse(f"SELECT {literal} AS the_end"))
    except pgparse.PGQueryError:
        return
    kinds = [kind for kind, _, _ in tokens(f"SELECT {literal} AS the_end")]
    assert parsed.count('"sval": {') + parsed.count('"bsval": {') == sum(
        kind in ("string", "escape", "dollar") for kind in kinds
    ) - literal.lower().count("uescape")


# shapes


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = 22", True),
        ("SELECT a FROM t WHERE n = 'x'", "SELECT a FROM t WHERE n = 'it''s'", True),
        ("SELECT a FROM t WHERE n = 'x'", "SELECT a FROM t WHERE n = 1", False),
        ("SELECT 1", "SELECT 1.5", False),
        ("SELECT a1 FROM t", "SELECT a2 FROM t", False),
        ("SELECT 't.a' FROM t", "SELECT 't.b' FROM t", True),
        ("SELECT a FROM t1", "SELECT a FROM t2", False),
    ],
)
def test_texts_have_one_shape_only_if_nothing_but_literals_differs(one: str, two: str, same: bool) -> None:
    assert shape(one) is not None
    assert (shape(one) == shape(two)) is same


@pytest.mark.parametrize(
    "text",
    [
        "SELECT E'a'",
        "SELECT $1",
        "SELECT $$a$$",
        "SELECT 'a\\'",
        "SELECT 1 -- x",
        "SELECT 1 /* x */",
        "SELECT 'é'",
        'SELECT "a"',
        "SELECT N'a'",
        "SELECT b'1'",
        "SELECT U&'a'",
        "SELECT 'a' 'b",
        "SELECT 1a",
        "SELECT 12345678901",
        "SELECT 'a'b",
        "SELECT 0x1F",
        "SELECT 1_000",
        "SELECT 1e5",
        "SELECT a'b'",
    ],
)
def test_texts_with_anything_unusual_are_taken_exactly(text: str) -> None:
    assert shape(text) is None


VALUES = st.one_of(
    st.integers(0, 999_999_999).map(str),
    st.text(alphabet="ab'1 ;,()-*/.", max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.decimals(0, 1000, places=2).map(str),
)
TEMPLATES = st.sampled_from(
    [
        "SELECT id, {0} FROM customers WHERE a = {1} OR {0} = {1}",
        "UPDATE customers SET a = {0}, b = {1} WHERE id = {0}",
        "UPDATE customers SET a = {0} WHERE {0} = {1}",
        "DELETE FROM customers WHERE {0} < {1}",
        "INSERT INTO customers VALUES ({0}, {1}), ({1}, {0}) RETURNING {0}, id",
        "SELECT set_config({0}, {1}, false)",
        "SELECT nextval({0}), lo_get({1})",
        "SELECT f({0}) FROM g({1}) LIMIT {0}",
    ]
)


@given(TEMPLATES, VALUES, VALUES, VALUES, VALUES)
def test_texts_of_one_shape_read_the_same_where_the_reading_says_so(text: str, a: str, b: str, c: str, d: str) -> None:
    one, two = text.format(a, b), text.format(c, d)
    first, second = read(one), read(two)
    if shape(one) is not None and shape(one) == shape(two) and first.by_shape:
        assert first == second


def test_a_reading_that_depends_on_a_value_is_never_shared_by_shape() -> None:
    for text in ("SELECT set_config('jit', 'off', false)", "SELECT nextval('a')", "SET jit = 'off'", "SHOW jit"):
        assert not read(text).by_shape
    assert read("SELECT 1").by_shape


# inner texts


@pytest.mark.parametrize(
    ("text", "word", "skip", "inner"),
    [
        ("PREPARE a AS SELECT 1 AS as_", "as", 2, "SELECT 1 AS as_"),
        ("PREPARE \"as\" (int, numeric(3,2)) AS SELECT 'as'", "as", 2, "SELECT 'as'"),
        ("PREPARE /* as */ a -- as\n AS SELECT 1", "as", 2, "SELECT 1"),
        ("DECLARE c CURSOR FOR SELECT 1 FOR UPDATE", "for", 3, "SELECT 1 FOR UPDATE"),
        ('DECLARE "for" NO SCROLL CURSOR WITH HOLD FOR SELECT 1', "for", 3, "SELECT 1"),
    ],
)
def test_the_inner_text_is_what_stands_behind_the_word(text: str, word: str, skip: int, inner: str) -> None:
    assert inner_text(text, word, skip) == inner
