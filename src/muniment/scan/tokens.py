"""API secrets in text: tokens with a known prefix, JWTs, PEM private keys, credentials in URLs, `secret = value`.

Every pattern begins at a literal that `seen` looks for, so a block in which it sees none has no hit; and every pattern
is bounded or has one start per run of characters, so that hostile text costs linear time.
"""

from __future__ import annotations

import re
from math import log2

SHORTEST_RUN = 12  # an assigned value's least length; every other hit holds a run at least as long, or a PEM header

# What may stand in a token or in an assigned value: runs of these are what the quick test looks for.
TOKEN_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_.~!@#$%^&*:?|-"
_RUNS = bytes(120 if byte in TOKEN_BYTES else 32 for byte in range(256))
_RUN = b"x" * SHORTEST_RUN

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
    rb"(?:(?:bearer|basic)[ \t]{1,4}"
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

# Lower case, one of them in every hit; the first group only behind an underscore, which is quick to rule out.
WITH_UNDERSCORE = (
    *(b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_", b"k_live_", b"k_test_", b"k_prod_", b"whsec_"),
    *(b"npm_", b"hf_", b"_v1_", b"shpat_", b"shpca_", b"shppa_", b"shpss_", b"dckr_", b"glsa_", b"glc_", b"lin_api_"),
    b"mk_",
)
WITHOUT = (
    *(b"akia", b"asia", b"abia", b"acca", b"glpat-", b"glrt-", b"glptt-", b"gldt-", b"glcbt-", b"glft-", b"gloas-"),
    *(b"glsoat-", b"glimt-", b"glagent-", b"xox", b"xapp-", b"hooks.slack.com", b"aiza", b"ya29.", b"gocspx-"),
    *(b"pypi-", b"sg.", b"hvs.", b"hvb.", b"hvr.", b"dapi", b"age-secret-key", b"eyj", b"sk-"),
)
NAMES = (b"secret", b"token", b"pass", b"pwd", b"credential", b"bearer", b"auth", b"key")


def seen(block: bytes) -> bool:
    """Whether `find` could find anything in the block or in any part of it; False is certain, True is not."""
    if b"-----" in block and _PEM.search(block) is not None:
        return True
    if b"://" in block and b"@" in block:
        return True
    if _RUN not in block.translate(_RUNS):
        return False
    lower = block.lower()
    if any(literal in lower for literal in NAMES) or any(literal in lower for literal in WITHOUT):
        return True
    return b"_" in lower and any(literal in lower for literal in WITH_UNDERSCORE)


def find(value: bytes) -> list[tuple[int, int]]:
    """The spans of the secrets in a text, in no order; they may overlap."""
    hits = [match.span() for match in _OTHERS.finditer(value)]
    if b"_" in value:
        hits += [match.span() for match in _UNDERSCORE.finditer(value)]
    hits += [match.span() for match in _SK.finditer(value) if looks_random(match.group()[3:])]
    for match in _PEM.finditer(value):
        end = _PEM_END.search(value, match.end())
        hits.append((match.start(), end.end() if end else len(value)))
        if not end:
            break
    if b"@" in value:
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
