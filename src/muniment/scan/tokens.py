# cython: annotation_typing=False, wraparound=True
"""API secrets in text: tokens with a known prefix, JWTs, PEM private keys, credentials in URLs, `secret = value`.

A token stands inside one run of token characters, so only long runs are looked at, and of those only the ones that are
no hash, UUID, number or time. Every pattern is bounded or has one start per run: hostile text costs linear time.
"""

from __future__ import annotations

import re
from math import log2

SHORTEST_TOKEN = 15  # of the tokens with a prefix: Slack's
SHORTEST_VALUE = 12  # of the values assigned to a secret's name; every other hit holds a run as long

TOKEN_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_.~!@#$%^&*:?|-"
_RUNS = bytes(120 if byte in TOKEN_BYTES else 32 for byte in range(256))
_VALUE_RUN = b"x" * SHORTEST_VALUE
DULL = b"0123456789abcdefABCDEF-:.+TZ/"  # all that hashes, UUIDs, numbers and times are made of
# Letters and digits of a name before = or :, what may stand between left out: where this finds nothing, there is no
# assignment. Digits alone before a colon are a time.
_ASSIGNS = bytes(
    97 if chr(byte).isascii() and chr(byte).isalpha() else 61 if byte in b"=:" else 32 for byte in range(256)
)
BETWEEN = b" \t\\\"']0123456789_.-"

_UNDERSCORE = re.compile(
    rb"(?:gh[pousr]_[A-Za-z0-9]{30,}"  # GitHub
    rb"|github_pat_[A-Za-z0-9_]{22,}"
    rb"|[sr]k_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{24,}"  # Stripe
    rb"|npm_[A-Za-z0-9]{30,}"
    rb"|hf_[A-Za-z0-9]{30,}"  # Hugging Face
    rb"|do[opr]_v1_[a-f0-9]{64}"  # DigitalOcean
    rb"|shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}"  # Shopify
    rb"|dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}"
    rb"|glsa_[A-Za-z0-9_]{32,}|glc_[A-Za-z0-9+/=]{32,}"  # Grafana
    rb"|lin_api_[A-Za-z0-9]{32,}|(?<![A-Za-z0-9])mk_[a-z0-9]{4,32}_[A-Za-z0-9_-]{16,})"
)
_OTHERS = re.compile(
    rb"(?:(?<![A-Za-z0-9])A(?:KI|SI|BI|CC)A[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    rb"|gl(?:pat|rt|ptt|dt|cbt|ft|oas|soat|imt|agent)-[A-Za-z0-9_.-]{20,}"  # GitLab
    rb"|xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{16,}"  # Slack
    rb"|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}"
    rb"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}"  # Google
    rb"|pypi-A[A-Za-z0-9_-]{31,}"
    rb"|(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,}"  # SendGrid
    rb"|(?<![A-Za-z0-9])hv[sbr]\.[A-Za-z0-9_-]{24,}"  # Vault
    rb"|dapi[a-f0-9]{32}"  # Databricks
    rb"|AGE-SECRET-KEY-1[A-Z0-9]{58}"
    rb"|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){2,4})"  # JWS and JWE
)
_SK = re.compile(rb"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,}")  # OpenAI, Anthropic and others after them
_PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----", re.IGNORECASE)
_PEM_END = re.compile(rb"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----", re.IGNORECASE)
_URL = re.compile(rb"://[^\s/@:\"']{0,128}:([^\s/@\"']{3,4096})@")
_ASSIGNED = re.compile(
    rb"(?:bearer[ \t]{1,4}"
    rb"|(?:secret|token|pass(?:wor[dt]|wd|phrase|code)?|pwd|credentials?|bearer|auth(?:orization)?"
    rb"|(?:api|access|private|auth|signing|encryption|account|master|shared|session|client|app|hmac)[_. -]?key)"
    rb"(?:[_.-]?(?:key|base|token|secret|value|string|id|hash|prod|live|test|dev|[0-9]{1,4})){0,3}"
    rb"[\\\"'\]]{0,4}[ \t]{0,4}(?::=|=>|==|=|:)[ \t]{0,4}(?:(?:bearer|basic|token)[ \t]{1,4})?[\\\"']{0,4})"
    rb"([A-Za-z0-9+/=_.~!@#$%^&*:?|-]{12,}+)",
    re.IGNORECASE,
)
_NOT_A_VALUE = re.compile(
    rb"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|https?://|[.~]{0,2}/(?:[A-Za-z0-9_.-]+/)|\$|[0-9.:+-]+\Z)", re.IGNORECASE
)

# One of these in every token above, without what stands before or behind it: in a block a length byte may stand there.
_PREFIX = re.compile(
    rb"A(?:KI|SI|BI|CC)A|gh[pousr]_|github_pat_|[sr]k_(?:live|test|prod)_|whsec_|npm_|hf_|do[opr]_v1_"
    rb"|shp(?:at|ca|pa|ss)_|dckr_|glsa_|glc_|lin_api_|mk_|gl(?:pat|rt|ptt|dt|cbt|ft|oas|soat|imt|agent)-|xox|xapp-"
    rb"|hooks\.slack\.com|AIza|ya29\.|GOCSPX-|pypi-A|SG\.|hv[sbr]\.|dapi|AGE-SECRET-KEY-1|eyJ|sk-"
)
_NAMES = re.compile(rb"secret|token|pass|pwd|credential|bearer|auth|key", re.IGNORECASE)
NAME_REACH = 96  # bytes from the beginning of the longest name to its value


def seen(block: bytes) -> bool:
    """Whether `find` could find anything in the block or in any part of it; False is certain, True is not."""
    shape = block.translate(_RUNS)
    at = shape.find(_VALUE_RUN)
    if at < 0:
        return False
    if marked(block):
        return True
    while at >= 0:
        end = shape.find(b" ", at + SHORTEST_VALUE)
        if end < 0:
            end = len(shape)
        # A hash, UUID, number or time is not looked at any closer
        if end - at >= SHORTEST_TOKEN and len(block[at:end].translate(None, DULL)) > 1 and prefixed(block, at, end):
            return True
        before = max(0, at - NAME_REACH)
        if _assigns(block[before:end]) and names_secret(block, before, end):
            return True
        at = shape.find(_VALUE_RUN, end)
    return False


def _assigns(window: bytes) -> bool:
    """Whether a word is followed by = or :, or is `bearer`."""
    if (b"=" in window or b":" in window) and b"a=" in window.translate(_ASSIGNS, BETWEEN):
        return True
    return b"bearer" in window.lower()


def names_secret(block: bytes, start: int, end: int) -> bool:
    """Whether anything there is called like a secret."""
    return _NAMES.search(block, start, end) is not None


def marked(block: bytes) -> bool:
    """Whether there may be what is no run of token bytes: a key in PEM, credentials in a URL."""
    return (b"-----" in block and _PEM.search(block) is not None) or (b"@" in block and b"://" in block)


def prefixed(block: bytes, start: int, end: int) -> bool:
    """Whether a run holds the beginning of a token."""
    return _PREFIX.search(block, start, end) is not None


def find(value: bytes) -> list[tuple[int, int]]:
    """The spans of the secrets in a text, in no order; they may overlap."""
    hits: list[tuple[int, int]] = []
    if not seen(value):
        return hits
    hits += [match.span() for match in _OTHERS.finditer(value)]
    hits += [match.span() for match in _UNDERSCORE.finditer(value)]
    hits += [match.span() for match in _SK.finditer(value) if looks_random(match.group()[3:])]
    for match in _PEM.finditer(value):
        stop = _PEM_END.search(value, match.end())
        hits.append((match.start(), stop.end() if stop else len(value)))
        if not stop:
            break
    hits += [match.span(1) for match in _URL.finditer(value)]
    for match in _ASSIGNED.finditer(value):
        assigned = match.group(1)
        if _NOT_A_VALUE.match(assigned) is None and looks_random(assigned):
            hits.append(match.span(1))
    return hits


def looks_random(value: bytes) -> bool:
    """Whether a value looks made by a machine: letters and digits mixed, and little repetition."""
    letters = digits = 0
    counts: dict[int, int] = {}
    for byte in value[:128]:
        counts[byte] = counts.get(byte, 0) + 1
        if 48 <= byte <= 57:
            digits += 1
        elif 65 <= byte <= 90 or 97 <= byte <= 122:
            letters += 1
    if not digits or not letters:
        return len(value) >= 20 and letters > 0 and _mixes_case(value)
    total = min(len(value), 128)
    bits = -sum(count / total * log2(count / total) for count in counts.values())
    return bits >= (3.0 if total < 24 else 3.2)


def _mixes_case(value: bytes) -> bool:
    """Whether upper and lower case change places as they do in base64, not as in CamelCase."""
    changes = 0
    previous = False
    for byte in value[:128]:
        upper = 65 <= byte <= 90
        changes += upper != previous
        previous = upper
    return changes * 3 >= min(len(value), 128)
