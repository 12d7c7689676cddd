"""How a protected value is shown: redacted, by its last four, by first six and last four, by a pseudonym, as NULL.

Works on text in any encoding that holds ASCII. A shape never shows more than its name says: a value that is too short
for it is redacted.
"""

from __future__ import annotations

import hmac
import json
import re
from bisect import bisect_left
from collections.abc import Callable

REDACTED = b"[masked]"
# From the one that shows least to the one that shows most: where two masks disagree on a class, the first wins.
MODES = ("null", "redact", "pseudonym", "last4", "first6-last4")

_DIGIT_CLASSES = frozenset({"card_number", "us_ssn"})
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")  # no digits, so that no detector hits in it
_STARS = bytes(42 if 48 <= byte <= 57 else byte for byte in range(256))
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_ESCAPES = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)
_NUMBER_BYTES = b"0123456789+-.eE"

Show = Callable[[bytes], bytes]


def shape(mode: str, name: str, key: bytes) -> Show:
    """The function that shows a value of class `name` in a mode (not "null", which is no text). key: for pseudonyms."""
    if mode == "last4":
        return last4
    if mode == "first6-last4":
        return first6_last4
    if mode == "pseudonym":
        return lambda value: pseudonym(value, name, key)
    return redact


def redact(value: bytes) -> bytes:
    """Nothing of the value."""
    return REDACTED


def last4(value: bytes) -> bytes:
    """Stars but for the last four letters or digits; redacted when there are fewer than nine."""
    text = value.decode("utf-8", "surrogateescape")
    places = [index for index, char in enumerate(text) if char.isalnum()]
    if len(places) < 9:
        return REDACTED
    kept = set(places[-4:])
    shown = "".join(c if index in kept or c in " -" else "*" for index, c in enumerate(text))
    return shown.encode("utf-8", "surrogateescape")


def first6_last4(value: bytes) -> bytes:
    """Stars but for the first six and last four digits, as PCI DSS 3.4.1 lets a card be shown; else redacted."""
    digits = value.translate(None, b" -")
    if not digits.isdigit() or len(digits) < 13:
        return REDACTED
    start, end = 6, len(value) - 4
    if len(digits) < len(value):
        start = _behind(value, range(len(value)), 6)
        end = len(value) - _behind(value, range(len(value) - 1, -1, -1), 4)
    return value[:start] + value[start:end].translate(_STARS) + value[end:]


def _behind(value: bytes, places: range, count: int) -> int:
    """How many bytes hold the first `count` digits, in the order of the places."""
    for step, place in enumerate(places, 1):
        count -= value[place] not in b" -"
        if not count:
            return step
    return len(value)


def pseudonym(value: bytes, name: str, key: bytes) -> bytes:
    """The same word for the same value of a class, however it is written; nothing leads back without the key."""
    if name in _DIGIT_CLASSES:
        value = bytes(byte for byte in value if 48 <= byte <= 57) or value
    elif name == "email":
        value = value.strip().lower()
    digest = hmac.digest(key, b"muniment/v1/pseudonym/" + name.encode() + b"\x00" + value, "sha256")
    return b"masked-" + digest[:10].hex().translate(_LETTERS).encode()


def in_text(value: bytes, spans: list[tuple[int, int, Show]]) -> bytes:
    """The text with each span shown as its function says."""
    pieces: list[bytes] = []
    kept = 0
    for start, end, show in spans:
        pieces += (value[kept:start], show(value[start:end]))
        kept = end
    pieces.append(value[kept:])
    return b"".join(pieces)


def in_json(value: bytes, spans: list[tuple[int, int, Show]]) -> bytes:
    """The same for a JSON text, which stays JSON: a number becomes a string, an escape sequence is taken whole.

    What would not be JSON afterwards is redacted as a whole.
    """
    strings = [match.span() for match in _STRINGS.finditer(value)]
    escapes = [match.span() for match in _ESCAPES.finditer(value)] if b"\\" in value else []
    pieces: list[bytes] = []
    kept = 0
    index = 0
    for start, end, show in spans:
        while index < len(strings) and strings[index][1] <= start:
            index += 1
        if index < len(strings) and strings[index][0] < start and end < strings[index][1]:
            shown = json_string(show(value[start:end]))[1:-1]
            start, end = _whole_escapes(escapes, start, end)
        else:
            shown = json_string(show(value[start:end]))
            while start > kept and value[start - 1] in _NUMBER_BYTES:
                start -= 1
            while end < len(value) and value[end] in _NUMBER_BYTES:
                end += 1
        if start < kept:
            return json_string(REDACTED)
        pieces += (value[kept:start], shown)
        kept = end
    pieces.append(value[kept:])
    result = b"".join(pieces)
    try:
        json.loads(result)
    except (ValueError, RecursionError):
        return json_string(REDACTED)
    return result


def _whole_escapes(escapes: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """A span inside a JSON string, widened so that it cuts no escape sequence. escapes: all of the text's, in order."""
    before = bisect_left(escapes, (start, 0)) - 1
    if before >= 0 and escapes[before][1] > start:
        start = escapes[before][0]
    before = bisect_left(escapes, (end, 0)) - 1
    if before >= 0 and escapes[before][1] > end:
        end = escapes[before][1]
    return start, end


def json_string(value: bytes) -> bytes:
    """A shown text as a JSON string."""
    return json.dumps(value.decode("utf-8", "replace")).encode()
