"""Resource patterns: `*` is any text, dots too; `?` is one character; case counts; nothing else is special.

Never SQL's LIKE, where `_` would match anything and let over-reach pass (EVIDENCE section 5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

UNRESOLVED = "?."  # how the name of something begins whose schema could not be told


@lru_cache(maxsize=4096)
def matcher(glob: str) -> Callable[[str], object]:
    """A function that says whether a name fits. Linear time on any name: each star but the last gives nothing back."""
    return re.compile(_expression(glob), re.DOTALL).match


def matches(glob: str, name: str) -> bool:
    """Whether the name fits the pattern."""
    return matcher(glob)(name) is not None


def any_matcher(globs: Iterable[str]) -> Callable[[str], object] | None:
    """One function for several patterns; None when there are none."""
    expressions = [_expression(glob) for glob in globs]
    return re.compile("|".join(expressions), re.DOTALL).match if expressions else None


def is_plain(glob: str) -> bool:
    """Whether it fits exactly one name: itself."""
    return "*" not in glob and "?" not in glob


def may_match(glob: str, name: str) -> bool:
    """Whether the pattern could fit a name, whatever the schema is where that could not be told.

    For rules that narrow: `public.salaries` may match `?.salaries`. Some end of the pattern has to fit `.salaries`.
    """
    if not name.startswith(UNRESOLVED):
        return matches(glob, name)
    rest = name[1:]
    return any(matches(glob[start:], rest) for start in range(len(glob)))


def inside(inner: str, outer: str) -> bool:
    """Whether every name that fits `inner` fits `outer`. May say no where it is so, never yes where it is not."""
    if outer == "*":
        return True
    # A star of `inner` is a character that only a star of `outer` takes; a `?` of it only a `?` or a star.
    expression = _expression(outer, one=r"[^\x00]")
    return re.match(expression, inner.replace("*", "\0"), re.DOTALL) is not None


def _expression(glob: str, one: str = ".") -> str:
    parts = re.sub(r"\*+", "*", glob).split("*")
    fixed = ["".join(one if c == "?" else re.escape(c) for c in part) for part in parts]
    if len(fixed) == 1:
        return fixed[0] + r"\Z"
    middle = "".join(f"(?>.*?{part})" for part in fixed[1:-1])
    return f"{fixed[0]}{middle}.*{fixed[-1]}\\Z"
