"""PostgreSQL's tokens: texts without their literals, and the shape that texts share when only literals differ.

Only for `standard_conforming_strings = on`, which is pinned. Source: PostgreSQL manual, 4.1 "Lexical Structure", and
its scan.l for what may stand between the pieces of a string.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WITHHELD = "[statement withheld]"

_NAME = r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*"
_TAG = r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*"
_TOKEN = re.compile(
    rf"""
      (?P<space>[ \t\n\r\f\v]+)
    | (?P<line>--[^\n\r]*)
    | (?P<block>/\*)
    | (?P<escape>[eE]')
    | (?P<string>(?:[bBxXnN]|[uU]&)?')
    | (?P<quoted>(?:[uU]&)?"(?:[^"]++|"")*+")
    | (?P<dollar>\$(?:{_TAG})?\$)
    | (?P<param>\$[0-9]+)
    | (?P<number>0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:[0-9][0-9_]*(?:\.(?!\.)[0-9_]*)?|\.[0-9][0-9_]*)
                 (?:[eE][+-]?[0-9][0-9_]*)?)
    | (?P<name>{_NAME})
    | (?P<other>[^"'])
    """,
    re.VERBOSE | re.DOTALL,
)
# Everything that repeats is possessive: hostile text must not make a pattern try again.
_PLAIN_END = re.compile(r"(?:[^']++|'')*+'")
_ESCAPE_END = re.compile(r"(?:[^'\\]++|''|\\.)*+'", re.DOTALL)
# Between the pieces of one string: white space with a newline in it, comments to the end of a line too.
_CONTINUES = re.compile(r"(?:[ \t\f\v]++|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*+[\n\r])*+'")
_BLOCK_EDGE = re.compile(r"/\*|\*/")
_LITERALS = frozenset({"escape", "string", "dollar", "number"})
_SPACE = frozenset({"space", "line", "block"})

Token = tuple[str, int, int]
"""(kind, start, end)."""


class Untokenised(ValueError):
    """A string, a name or a comment does not end, or there is a NUL."""


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, comments and white space included. Raises `Untokenised`."""
    if "\0" in text:
        raise Untokenised
    pos = 0
    while pos < len(text):
        match = _TOKEN.match(text, pos)
        if match is None or match.lastgroup is None:
            raise Untokenised
        kind, end = match.lastgroup, match.end()
        if kind == "block":
            end = _block_end(text, end)
        elif kind in ("escape", "string"):
            end = _string_end(text, end, _ESCAPE_END if kind == "escape" else _PLAIN_END)
        elif kind == "dollar":
            close = text.find(match.group(), end)
            if close < 0:
                raise Untokenised
            end = close + len(match.group())
        yield kind, pos, end
        pos = end


def _block_end(text: str, pos: int) -> int:
    depth = 1
    while depth:
        edge = _BLOCK_EDGE.search(text, pos)
        if edge is None:
            raise Untokenised
        depth += 1 if edge.group() == "/*" else -1
        pos = edge.end()
    return pos


def _string_end(text: str, pos: int, piece: re.Pattern[str]) -> int:
    while True:
        match = piece.match(text, pos)
        if match is None:
            raise Untokenised
        more = _CONTINUES.match(text, match.end())
        if more is None:
            return match.end()
        pos = more.end()


def redact(text: str) -> str:
    """The text with every literal replaced by '?' or ?, and comments dropped. Total.

    Quoted names with four digits or more are replaced too: a value in the wrong quotes is still a value.
    """
    shown: list[str] = []
    try:
        for kind, start, end in tokens(text):
            if kind in ("line", "block"):
                shown.append(" ")
            elif kind == "number":
                shown.append("?")
            elif kind in _LITERALS:
                shown.append("'?'")
            elif kind == "quoted" and sum(char.isdigit() for char in text[start:end]) > 3:
                shown.append('"?"')
            else:
                shown.append(text[start:end])
    except Untokenised:
        return WITHHELD
    return "".join(shown)


def inner_text(text: str, word: str, skip: int) -> str | None:
    """What follows the first bare `word` of a PREPARE (AS) or DECLARE (FOR) behind `skip` tokens; None: not found.

    Tokens in parentheses are passed over.
    """
    depth = seen = 0
    try:
        for kind, start, end in tokens(text):
            if kind in _SPACE:
                continue
            piece = text[start:end]
            depth += (piece == "(") - (piece == ")")
            if seen >= skip and depth == 0 and kind == "name" and piece.lower() == word:
                return text[end:].strip()
            seen += 1
    except Untokenised:
        pass
    return None


# Texts made of plain things only: names, numbers, '...' and common operators. What is not in here is told apart by its
# exact text: comments, backslashes, dollar signs, prefixed strings, quoted names, anything that is not ASCII.
_PLAIN_TEXT = re.compile(
    r"""(?:
      [ \t\n\r.,;()*=<>+\[\]:%|]++
    | [A-Za-z_][A-Za-z0-9_]*+(?!['"$])
    | [0-9]{1,9}+(?:\.[0-9]++)?+(?![\w.'$])
    | '(?:[^'\\\0]++|'')*+'(?![\w'$])
    | -(?!-)
    | /(?!\*)
    )*+""",
    re.VERBOSE,
)
_LITERAL = re.compile(r"'(?:[^']++|'')*+'|(?<![A-Za-z0-9_])[0-9]++(?:\.[0-9]++)?+")


def shape(text: str) -> str | None:
    """The text with its literals taken out, the same for texts that differ in nothing else; None: take it exactly.

    Two texts of one shape give the same parse tree but for the literals' values. Cost: a few microseconds.
    """
    if not text.isascii() or _PLAIN_TEXT.fullmatch(text) is None:
        return None
    return _LITERAL.sub(_placeholder, text)


def _placeholder(match: re.Match[str]) -> str:
    piece = match.group()
    if piece[0] == "'":
        return "''"
    return "0.0" if "." in piece else "0"
