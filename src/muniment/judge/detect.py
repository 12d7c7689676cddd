"""What a value looks like: the classes that detectors know, in text, in numbers and in the binary formats.

The scanning itself is `scan.values`; here its kinds get their names, and the formats that are not text are opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from muniment.scan import values
from muniment.scan.values import find, is_card

KINDS = {"card_number": values.CARD, "us_ssn": values.SSN, "email": values.EMAIL, "api_secret": values.SECRET}
CLASSES = frozenset(KINDS)  # what a Mask's `detect` may list
NAME_OF = {kind: name for name, kind in KINDS.items()}

INT4, INT8, NUMERIC = 23, 20, 1700
_SSN_NAME = re.compile(r"(?:^|[^a-z])(?:ssn|social_?sec(?:urity)?)(?:[^a-z]|$|no$|num$|number)", re.IGNORECASE)
_SSN_TEXT = re.compile(rb"\s*([0-9]{3})[ .-]?([0-9]{2})[ .-]?([0-9]{4})\s*\Z")
_MAX_NUMERIC_DIGITS = 64  # base-10000 digits that are looked at; a card number has at most five


def kinds(names: Iterable[str]) -> int:
    """The detectors of these classes as one set of bits. Raises ValueError for a class without a detector."""
    bits = 0
    for name in names:
        if name not in KINDS:
            raise ValueError(f"no detector finds {name!r}")
        bits |= KINDS[name]
    return bits


def names_ssn(column: str) -> bool:
    """Whether a column is called so that nine bare digits in it are an SSN."""
    return _SSN_NAME.search(column) is not None


def is_ssn(digits: bytes) -> bool:
    """Whether nine ASCII digits are an SSN that can have been issued (area, group and serial in range)."""
    area = digits[:3]
    return area not in (b"000", b"666") and area < b"900" and digits[3:5] != b"00" and digits[5:] != b"0000"


def bare_ssn(value: bytes) -> bool:
    """Whether a whole text value is an SSN, with or without separators."""
    match = _SSN_TEXT.match(value)
    return match is not None and is_ssn(b"".join(match.groups()))


def whole_number(value: bytes, type_id: int) -> int | None:
    """The integer in a binary int4, int8 or numeric; None for NaN, infinities and fractions.

    Raises ValueError when the bytes are not such a value. Source: PostgreSQL, `numeric_send`.
    """
    if type_id in (INT4, INT8):
        if len(value) != (4 if type_id == INT4 else 8):
            raise ValueError("an integer of the wrong length")
        return int.from_bytes(value, "big", signed=True)
    if len(value) < 8 or len(value) & 1:
        raise ValueError("a numeric of the wrong length")
    count = int.from_bytes(value[:2], "big")
    weight = int.from_bytes(value[2:4], "big", signed=True)
    sign = int.from_bytes(value[4:6], "big")
    if len(value) != 8 + 2 * count:
        raise ValueError("a numeric of the wrong length")
    if sign not in (0, 0x4000) or count > _MAX_NUMERIC_DIGITS or weight > _MAX_NUMERIC_DIGITS:
        return None
    number = 0
    for index in range(max(count, weight + 1)):
        digit = int.from_bytes(value[8 + 2 * index : 10 + 2 * index], "big") if index < count else 0
        if digit > 9999:
            raise ValueError("a numeric with a digit out of range")
        if index <= weight:
            number = number * 10000 + digit
        elif digit:
            return None
    return -number if sign else number


def number_class(number: int | None, bits: int, ssn: bool) -> str:
    """The class of a number, empty for none. ssn: its column is named as one."""
    if number is None:
        return ""
    number = abs(number)
    if bits & values.CARD and 10**12 <= number < 10**19 and is_card(b"%d" % number):
        return "card_number"
    if ssn and bits & values.SSN and number < 10**9 and is_ssn(b"%09d" % number):
        return "us_ssn"
    return ""


def binary_class(value: bytes, bits: int) -> str:
    """The class of the first hit in a binary value of any type, empty for none.

    Text inside stands there as it is; numbers are looked at where the value can be opened as an array or a record.
    """
    hits = find(value, bits)
    if hits:
        return NAME_OF[hits[0][2]]
    if bits & values.CARD:
        try:
            for type_id, item in _items(value):
                if type_id in (INT8, NUMERIC) and (found := number_class(whole_number(item, type_id), bits, False)):
                    return found
        except ValueError:
            return ""  # not an array or a record; as text it was looked at
    return ""


def _items(value: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, bytes) of a binary array's elements or a record's fields. Raises ValueError for anything else.

    Source: PostgreSQL, `array_send` and `record_send`.
    """
    if len(value) < 12:
        raise ValueError("neither an array nor a record")
    first = int.from_bytes(value[:4], "big")
    element = int.from_bytes(value[8:12], "big")
    if element in (INT8, NUMERIC) and 0 < first <= 6 and int.from_bytes(value[4:8], "big") <= 1:
        pos = 12 + 8 * first
        while pos < len(value):
            item, pos = _sized(value, pos)
            if item is not None:
                yield element, item
        return
    if first > 1664:  # the most columns that a record can have
        raise ValueError("neither an array nor a record")
    pos = 4
    for _ in range(first):
        type_id = int.from_bytes(value[pos : pos + 4], "big")
        item, pos = _sized(value, pos + 4)
        if item is not None:
            yield type_id, item


def _sized(value: bytes, pos: int) -> tuple[bytes | None, int]:
    """An int32 length at `pos` and that many bytes (None for -1), and the position behind them."""
    if pos + 4 > len(value):
        raise ValueError("an item without a length")
    size = int.from_bytes(value[pos : pos + 4], "big", signed=True)
    pos += 4
    if size == -1:
        return None, pos
    if size < 0 or size > len(value) - pos:
        raise ValueError("an item is longer than its value")
    return value[pos : pos + size], pos + size
