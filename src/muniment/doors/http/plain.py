"""Our nouns as plain JSON values, and a request's JSON as checked values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


class BadRequest(Exception):
    """The request is not what this address takes. what: the fault; mend: what to send."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


def plain(value: object) -> Any:
    """A value as JSON has it: dataclasses become objects, tuples arrays, sets sorted arrays, bytes hex."""
    if isinstance(value, enum.Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, bytes):
        return value.hex()
    return value


class Body:
    """A request's JSON object: every field is taken once, by type, and none may be left over."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise BadRequest("the body is not a JSON object", "send one")
        self._left: dict[str, object] = dict(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A text field."""
        value = self._left.pop(name, default)
        if not isinstance(value, str) or not _is_text(value):
            raise BadRequest(f"{name!r} is not a text", f'send "{name}": "..."')
        return value

    def flag(self, name: str) -> bool:
        """A boolean, false when it is left out."""
        value = self._left.pop(name, False)
        if not isinstance(value, bool):
            raise BadRequest(f"{name!r} is neither true nor false", f'send "{name}": true')
        return value

    def number(self, name: str, default: int) -> int:
        """An integer."""
        value = self._left.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
            raise BadRequest(f"{name!r} is not a whole number", f'send "{name}": 0')
        return value

    def files(self, name: str) -> list[tuple[str, str]]:
        """A list of {"name", "text"}."""
        value = self._left.pop(name, None)
        mend = f'send "{name}": [{{"name": "a.yaml", "text": "..."}}]'
        if not isinstance(value, list):
            raise BadRequest(f"{name!r} is not a list of files", mend)
        found = []
        for one in value:
            if not isinstance(one, dict) or one.keys() != {"name", "text"}:
                raise BadRequest(f"{name!r} holds something that is not a file", mend)
            if not all(isinstance(part, str) and _is_text(part) for part in one.values()):
                raise BadRequest(f"{name!r} holds a file whose name or text is not text", mend)
            found.append((one["name"], one["text"]))
        return found

    def end(self) -> None:
        """Nothing may be left: a field that is not known is a mistake, not a wish."""
        if self._left:
            raise BadRequest(f"unknown fields: {', '.join(sorted(self._left))}", "leave them out")


class Query:
    """The address's parameters, in the same manner."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._left = dict(values)

    def text(self, name: str) -> str:
        """A text, empty when it is left out."""
        return self._left.pop(name, "")

    def number(self, name: str, default: int, most: int = (1 << 62) - 1) -> int:
        """A number from 0 to `most`."""
        text = self._left.pop(name, str(default))
        if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > most:
            raise BadRequest(f"{name!r} is not a number from 0 to {most}", f"?{name}={default}")
        return int(text)

    def end(self) -> None:
        """Nothing may be left."""
        if self._left:
            raise BadRequest(f"unknown parameters: {', '.join(sorted(self._left))}", "leave them out")


def _is_text(value: str) -> bool:
    """Whether it can be written: JSON may hold halves of characters."""
    return value.isascii() or value.encode("utf-8", "replace").decode() == value
