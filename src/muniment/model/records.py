"""A quicker frozen dataclass, for nouns of which several are made for every exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def record(cls: type[_Class]) -> type[_Class]:
    """As `@dataclass(frozen=True, slots=True)`, except that only the type checker enforces that it is frozen.

    The run time's own check sets each field by `object.__setattr__`, which makes an object cost three times as much.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
