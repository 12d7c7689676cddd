"""The protected values of `billing.sql`, and every form in which one might slip past a mask."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

CARDS = ("4111111111111111", "5555555555554444", "3782 822463 10005", "6011-1111-1111-1117", "4111 1111 1111 1111")
SSNS = ("219-09-9999", "457-55-5462", "078-05-1120", "536-90-4399")
FOUND = ("anna@example.org", "ben@example.org", "chloe@example.org", "dan@example.org", "eva@example.org")
TRANSLATED = str.maketrans("0123456789", "abcdefghij")


def _forms(value: str) -> Iterator[str]:
    digits = "".join(letter for letter in value if letter.isdigit())
    for text in {value, digits}:
        yield from (text, text[::-1], text.translate(TRANSLATED), text[1:], text[:-1])
        yield from (
            text.encode().hex(),
            base64.b64encode(text.encode()).decode(),
            hashlib.md5(text.encode()).hexdigest(),
        )


FORMS = frozenset(form for value in (*CARDS, *SSNS) for form in _forms(value)) | frozenset(FOUND)


def leaks(text: str) -> list[str]:
    """The forms of protected values that stand in a text."""
    return sorted(form for form in FORMS if form in text)
