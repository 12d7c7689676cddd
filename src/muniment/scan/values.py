# cython: annotation_typing=False, wraparound=True
"""Values that must not be shown, found by what they look like: card numbers, SSNs, e-mail addresses, API secrets.

`find` is exact and runs on one value; `quick.may_hit` runs on the raw bytes of many rows. Both work on bytes: ASCII is
the same in UTF-8, LATIN* and SQL_ASCII, and other bytes count as letters. `values.pxd` holds the types for the compiled
twin.
"""

from __future__ import annotations

import re

from muniment.scan import tokens

CARD = 1
SSN = 2
EMAIL = 4
SECRET = 8
ALL = 15

SHORTEST = 6  # bytes of the shortest value that can be any of them: a@b.cd

_DIGITS = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_DIGITS_DASHES = bytes(48 if 48 <= byte <= 57 else 45 if byte == 45 else 32 for byte in range(256))
_SEPARATORS = b" -"
_THIRTEEN = b"0" * 13  # the shortest card number
_SSN_SHAPE = b"000-00-0000"

# A run of digits with single separators; possessive, so that a megabyte of digits costs one pass.
_RUN = re.compile(rb"[0-9](?:[ -]?[0-9]){12,}+")
_GROUP = re.compile(rb"[0-9]+")
_PAIRS = re.compile(rb"(?:[0-9]{2}[ -])+[0-9]{2}")  # a machine's address, not a card
UUID = re.compile(rb"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
_SSN = re.compile(rb"(?<![0-9])(?<![0-9][-.])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9])(?!-[0-9])")
# How cards are written: the window that is looked for inside a longer run of groups.
_GROUPINGS = frozenset(
    {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 1), (4, 3, 3, 3)}
    | {(size,) for size in range(13, 20)}
)
_LONGEST_GROUPING = 5

_ALNUM = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LOCAL = _ALNUM + b"_.+%&'~-" + bytes(range(128, 256))  # of an e-mail address, before the @
_LONGEST_LOCAL = 64  # RFC 5321, 4.5.3.1.1
_DOMAIN = re.compile(rb"(?:[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff_-]{0,62})\.){1,8}+", re.DOTALL)
_TOP = re.compile(rb"(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z\x80-\xff]{2,63})(?![A-Za-z0-9\x80-\xff_])")
_NOT_TOP = frozenset(
    {b"png", b"jpg", b"jpeg", b"gif", b"webp", b"svg", b"ico", b"service", b"socket", b"timer", b"mount", b"slice"}
)


def may_hold_card(data: bytes) -> bool:
    """Whether there are as many digits in a row as the shortest card number has, separators left out."""
    return _THIRTEEN in data.translate(_DIGITS, _SEPARATORS)


def may_hold_ssn(data: bytes) -> bool:
    """Whether anything is written like an SSN."""
    return _SSN_SHAPE in data.translate(_DIGITS_DASHES)


def find(value: bytes, kinds: int = ALL) -> list[tuple[int, int, int]]:
    """The hits in one value, as (start, end, kind), in order and apart from each other. Empty for most values."""
    hits: list[tuple[int, int, int]] = []
    size = len(value)
    if size < SHORTEST:
        return hits
    if kinds & SECRET and size >= tokens.SHORTEST_VALUE:
        hits += [(start, end, SECRET) for start, end in tokens.find(value)]
    if kinds & EMAIL and b"@" in value:
        hits += [(start, end, EMAIL) for start, end in _emails(value)]
    if kinds & CARD and size >= 13 and may_hold_card(value):
        hits += [(start, end, CARD) for start, end in cards(value)]
    if kinds & SSN and size >= 11 and may_hold_ssn(value):
        hits += [(match.start(), match.end(), SSN) for match in _SSN.finditer(value)]
    return _apart(hits) if len(hits) > 1 else hits


def _apart(hits: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Hits that overlap become one over both; of their kinds the secret, then the address, is the one that is named."""
    hits.sort(key=lambda hit: (hit[0], -hit[1]))
    result = [hits[0]]
    for start, end, kind in hits[1:]:
        last_start, last_end, last_kind = result[-1]
        if start >= last_end:
            result.append((start, end, kind))
        else:
            result[-1] = (last_start, max(end, last_end), max(kind, last_kind))
    return result


def luhn(digits: bytes) -> bool:
    """Whether the check digit of a string of ASCII digits is right (ISO/IEC 7812-1, annex B)."""
    total = 0
    double = False
    for position in range(len(digits) - 1, -1, -1):
        digit = digits[position] - 48
        if double:
            digit += digit
            if digit > 9:
                digit -= 9
        double = not double
        total += digit
    return total % 10 == 0


def issued(digits: bytes) -> bool:
    """Whether a card network gives out numbers that begin like this and are this long (ISO/IEC 7812 ranges)."""
    size = len(digits)
    if size < 13 or size > 19:
        return False
    four = int(digits[:4])
    one = four // 1000
    two = four // 100
    if one == 4:
        return size in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return size == 16
    if two in (34, 37):
        return size == 15
    if two in (36, 38, 39) or 3000 <= four <= 3059 or four == 3095:
        return size in (14, 16)
    if four in (1800, 2131):
        return size == 15
    if four == 6011 or 6440 <= four <= 6499 or two in (62, 65) or 6360 <= four <= 6399:
        return size >= 16
    if 3528 <= four <= 3589 or 2200 <= four <= 2204:
        return size >= 16
    if four in (5019, 5061, 9792) or 5080 <= four <= 5089:
        return size == 16
    return four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)


def is_card(digits: bytes) -> bool:
    """Whether a string of ASCII digits is a card number."""
    return issued(digits) and luhn(digits)


def cards(value: bytes) -> list[tuple[int, int]]:
    """Card numbers, also several in one value and beside other numbers."""
    hits: list[tuple[int, int]] = []
    for match in _RUN.finditer(value):
        start, end = match.span()
        digits = match.group().translate(None, _SEPARATORS)
        if is_card(digits) and _PAIRS.fullmatch(value, start, end) is None:  # one card, however it is grouped
            if _stands_alone(value, start, end):
                hits.append((start, end))
            continue
        groups = [group.span() for group in _GROUP.finditer(value, start, end)]
        first = 0
        while first < len(groups):
            taken = 0
            sizes: tuple[int, ...] = ()
            for count in range(1, min(_LONGEST_GROUPING, len(groups) - first) + 1):
                begin, finish = groups[first + count - 1]
                sizes += (finish - begin,)
                if sizes in _GROUPINGS:
                    begin = groups[first][0]
                    if is_card(value[begin:finish].translate(None, _SEPARATORS)) and _stands_alone(
                        value, begin, finish
                    ):
                        taken = count
            if taken:
                hits.append((groups[first][0], groups[first + taken - 1][1]))
            first += taken or 1
    return hits


def _stands_alone(value: bytes, start: int, end: int) -> bool:
    """Whether digits are a number of their own, not part of a decimal, a telephone number or a hash."""
    before = value[max(0, start - 2) : start]
    if before.endswith(b"+"):
        return False
    if before.endswith(b".") and not before[:-1].isalpha():
        return False
    after = value[end : end + 2]
    if len(after) == 2 and after.startswith(b".") and after[1:].isdigit():
        fraction = value[end + 1 : end + 21]
        if fraction.lstrip(b"0")[:1].isdigit():
            return False
    if before[-1:].isalpha() or after[:1].isalpha():
        return not _in_hash(value, start, end)
    return not (before.endswith(b"-") or after.startswith(b"-")) or not _in_uuid(value, start, end)


def _in_uuid(value: bytes, start: int, end: int) -> bool:
    """Whether the span lies in a UUID."""
    for match in UUID.finditer(value, max(0, start - 36), end + 36):
        if match.start() <= start and end <= match.end():
            return True
    return False


def _in_hash(value: bytes, start: int, end: int) -> bool:
    """Whether the word around the span is a UUID or a long hexadecimal one."""
    if _in_uuid(value, start, end):
        return True
    left = value[max(0, start - 128) : start]
    right = value[end : end + 128]
    word = left[len(left.rstrip(_ALNUM)) :] + value[start:end] + right[: len(right) - len(right.lstrip(_ALNUM))]
    return len(word) >= 24 and not word.lower().strip(b"0123456789abcdef")


def _emails(value: bytes) -> list[tuple[int, int]]:
    """Addresses as people write them: local@domain.top. Cost: bounded for each @."""
    hits: list[tuple[int, int]] = []
    at = value.find(b"@")
    while at >= 0:
        left = value[max(0, at - _LONGEST_LOCAL) : at]
        local = left[len(left.rstrip(_LOCAL)) :].lstrip(b".'&-")
        domain = _DOMAIN.match(value, at + 1)
        if local and domain is not None:
            end = _end_of_domain(value, at + 1, domain.end())
            if end and not (local == b"git" and value[end : end + 1] == b":"):  # git@host:path is not an address
                hits.append((at - len(local), end))
        at = value.find(b"@", at + 1)
    return hits


def _end_of_domain(value: bytes, start: int, end: int) -> int:
    """Where a domain ends whose labels, each with its dot, are value[start:end]; 0 when there is no top label."""
    top = _TOP.match(value, end)
    if top is None:
        # "ada@example.org." or "ada@example.org.5": the last label before the dot is the top one
        end = value.rfind(b".", start, end - 1) + 1
        if end <= start:
            return 0
        top = _TOP.match(value, end)
        if top is None:
            return 0
    return 0 if top.group().lower() in _NOT_TOP else top.end()
