"""An exchange as a leaf of the log holds it: what fits into one, and in which words."""

from __future__ import annotations

from muniment.model.exchange import Action, Parameter
from muniment.services.decisions import parameters_json

MAX_TOUCHES, MAX_NAMES = 150, 8_000  # of one exchange, and characters of their names: a leaf holds all of them


def fits(action: Action) -> bool:
    """Whether a leaf can hold every touch: a leaf has at most 32 KiB of valid text, and never a part of the touches."""
    names = [touch.name for touch in action.touches]
    return len(names) <= MAX_TOUCHES and sum(map(len, names)) <= MAX_NAMES and all(map(_is_text, names))


def _is_text(name: str) -> bool:
    return name.isascii() or name.encode("utf-8", "replace").decode() == name


def touches(action: Action) -> tuple[str, ...]:
    """Every touch as "verb kind name"; of an action that does not fit, a sample in ASCII."""
    if not fits(action):  # it is refused: what stands in the leaf is a sample
        return tuple(ascii(f"{touch.verb} {touch.kind} {touch.name}")[1:200] for touch in action.touches[:20])
    return tuple(f"{touch.verb} {touch.kind} {touch.name}" for touch in action.touches)


def traits(action: Action) -> tuple[str, ...]:
    """The traits, sorted."""
    return tuple(sorted(action.traits))


def parameters(bound: tuple[Parameter, ...]) -> bytes:
    """The bound values as they are committed to; empty for none."""
    return parameters_json(bound).encode() if bound else b""
