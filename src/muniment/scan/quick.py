# cython: annotation_typing=False
"""The quick test on the raw bytes of many rows: could any value in them be one of those that `values.find` finds?

`bytes.translate` and `in` run at C speed anywhere; byte by byte is faster for cards and secrets, but only compiled. A
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

_STRIDE = 12  # a card number is 13 bytes at least, so of two neighbours at every twelfth byte one is a digit of it


def may_hit(block: bytes, kinds: int = values.ALL) -> bool:
    """Whether `values.find` could find one of the kinds in any part of the block. False is certain; True is not."""
    if kinds & values.EMAIL and b"@" in block:
        return True
    if kinds & values.CARD and (card_by_byte(block) if COMPILED else values.may_hold_card(block)):
        return True
    if kinds & values.SSN and values.may_hold_ssn(block):
        return True
    if kinds & values.SECRET:
        return secret_by_byte(block) if COMPILED else tokens.seen(block)
    return False


def card_by_byte(block: bytes) -> bool:
    """As `values.may_hold_card`: most bytes are jumped over."""
    end = len(block)
    data = block  # compiled: a typed view, whose items cost a bounds check and no call
    at = 0
    while at + 1 < end:
        if not (48 <= data[at] <= 57 or 48 <= data[at + 1] <= 57):
            at += _STRIDE
            continue
        digits = 0
        left = at
        while left >= 0 and (48 <= data[left] <= 57 or data[left] == 32 or data[left] == 45):
            digits += data[left] >= 48
            left -= 1
        at += 1
        while at < end and (48 <= data[at] <= 57 or data[at] == 32 or data[at] == 45):
            digits += data[at] >= 48
            at += 1
        if digits >= 13:
            return True
    return False


def secret_by_byte(block: bytes) -> bool:
    """As `tokens.seen`, which decides where something is assigned."""
    if tokens.marked(block):
        return True
    data = block
    classes = CLASSES
    run = 0  # token bytes in a row
    lively = 0  # of them, those that hashes, UUIDs, numbers and times do not have
    letter = False  # whether the last byte that can end a name is a letter
    assigns = False
    value = False  # whether a run is long enough to be a value that is assigned
    end = len(block)
    for at in range(end):
        byte = data[at]
        kind = classes[byte]
        if kind & _TOKEN:
            run += 1
            if kind & _LIVELY:
                lively += 1
        else:
            if run >= 12:
                value = True
                if run >= 15 and lively > 1 and tokens.prefixed(block, at - run, at):
                    return True
            run = 0
            lively = 0
        if kind & _LETTER:
            letter = True
            if byte | 32 == 114 and at >= 5 and data[at - 1] | 32 == 101 and block[at - 5 : at].lower() == b"beare":
                assigns = True
        elif not kind & _BETWEEN:
            if kind & _ASSIGN and letter:
                assigns = True
            letter = False
    if run >= 12:
        value = True
        if run >= 15 and lively > 1 and tokens.prefixed(block, end - run, end):
            return True
    return assigns and value and tokens.seen(block)
