# cython: annotation_typing=False
"""The quick test on the raw bytes of many rows: could any value in them be one of those that `values.find` finds?

`bytes.translate` and `find` run at C speed anywhere; byte by byte is faster for cards and secrets, but only compiled. A
length byte before a value may look like a digit or a letter: it only ever makes a run longer, and nothing is missed.
"""

from __future__ import annotations

from muniment.scan import tokens, values

COMPILED = not __file__.endswith(".py")

# What a byte is, as bits
_TOKEN, _LIVELY, _LETTER, _ASSIGN, _BETWEEN = 1, 2, 4, 8, 16
CLASSES = bytes(
    (byte in tokens.TOKEN_BYTES) * _TOKEN
    + (byte not in tokens.DULL) * _LIVELY
    + (65 <= byte <= 90 or 97 <= byte <= 122) * _LETTER
    + (byte in b"=:") * _ASSIGN
    + (byte in tokens.BETWEEN) * _BETWEEN
    for byte in range(256)
)

SHORTEST_CARD = 13
_CARD_BYTES = bytes(120 if byte in b"0123456789 -" else 32 for byte in range(256))
_CARD_RUN = b"x" * SHORTEST_CARD
_UUID_LENGTH = b"\x00\x00\x00\x24"

# Both are as long as the shortest thing that is looked for, so that every such thing lies under one step.
_CARD_STRIDE = 12  # 13 bytes at least, and of two neighbours in them one is a digit
_RUN_STRIDE = 12  # tokens.SHORTEST_VALUE


def may_hit(block: bytes, kinds: int = values.ALL) -> bool:
    """Whether `values.find` could find one of the kinds in any part of the block. False is certain; True is not."""
    if kinds & values.EMAIL and b"@" in block:
        return True
    if kinds & values.CARD and (card_by_byte(block) if COMPILED else card_by_runs(block)):
        return True
    if kinds & values.SSN and values.may_hold_ssn(block):
        return True
    if kinds & values.SECRET:
        return secret_by_byte(block) if COMPILED else tokens.seen(block)
    return False


def card_by_runs(block: bytes) -> bool:
    """Whether any run of digits and separators may be or hold a card number."""
    if not values.may_hold_card(block):
        return False
    shape = block.translate(_CARD_BYTES)
    at = shape.find(_CARD_RUN)
    while at >= 0:
        end = shape.find(b" ", at + SHORTEST_CARD)
        if end < 0:
            end = len(shape)
        if _holds_card(block, at, end):
            return True
        at = shape.find(_CARD_RUN, end)
    return False


def card_by_byte(block: bytes) -> bool:
    """The same: most bytes are jumped over."""
    end = len(block)
    data = block  # compiled: a typed view
    at = 0
    while at + 1 < end:
        if not (48 <= data[at] <= 57 or 48 <= data[at + 1] <= 57):
            at += _CARD_STRIDE
            continue
        digits = 0
        start = at
        while start >= 0 and (48 <= data[start] <= 57 or data[start] == 32 or data[start] == 45):
            digits += data[start] >= 48
            start -= 1
        start += 1
        at += 1
        while at < end and (48 <= data[at] <= 57 or data[at] == 32 or data[at] == 45):
            digits += data[at] >= 48
            at += 1
        if digits >= 13 and _holds_card(block, start, at):
            return True
    return False


def _holds_card(block: bytes, start: int, end: int) -> bool:
    """Whether a run may be or hold a card number, whatever stands around it.

    Its first bytes may be a length's: three of them, as a frame has at most 64 MB. A value that is a UUID has none.
    """
    run = block[start:end]
    if len(run.translate(None, b" -")) < SHORTEST_CARD:
        return False
    if not any([values.cards(run[junk:]) for junk in range(4)]):  # noqa: C419  (a list is quicker than a generator)
        return False
    at = block.rfind(_UUID_LENGTH, max(0, start - 40), start)
    return at < 0 or values.UUID.fullmatch(block, at + 4, at + 40) is None or end > at + 40


def secret_by_byte(block: bytes) -> bool:
    """As `tokens.seen`."""
    if tokens.marked(block):
        return True
    end = len(block)
    data = block
    classes = CLASSES
    at = _RUN_STRIDE - 1
    while at < end:
        if not classes[data[at]] & _TOKEN:
            at += _RUN_STRIDE
            continue
        start = at
        while start > 0 and classes[data[start - 1]] & _TOKEN:
            start -= 1
        at += 1
        while at < end and classes[data[at]] & _TOKEN:
            at += 1
        if at - start >= _RUN_STRIDE:
            if at - start >= tokens.SHORTEST_TOKEN:
                lively = 0
                for pos in range(start, at):
                    lively += classes[data[pos]] & _LIVELY
                if lively > _LIVELY and tokens.prefixed(block, start, at):
                    return True
            before = max(0, start - tokens.NAME_REACH)
            letter = False  # whether the last byte that can end a name is a letter
            for pos in range(before, at):
                kind = classes[data[pos]]
                if kind & _LETTER:
                    letter = True
                elif not kind & _BETWEEN:
                    if kind & _ASSIGN and letter:
                        break
                    letter = False
                elif pos >= 6 and data[pos - 1] | 32 == 114 and block[pos - 6 : pos].lower() == b"bearer":
                    break
            else:
                at += _RUN_STRIDE
                continue
            if tokens.names_secret(block, before, at):
                return True
        at += _RUN_STRIDE
    return False
