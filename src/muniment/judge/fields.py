"""What a field of a document may be, and the checking of a tree against a shape; every problem at once.

Home of pydantic. A shape is a class of fields; `check` makes an instance from a tree, or reports each unknown, missing
and wrong field with its line and its mend. No message repeats a value where a secret could have been written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel

from muniment.judge.documents import List, Map, Node, Problems, Text, line_of, meant

__all__ = ["BeforeValidator", "Field", "Shape", "Wrong", "check"]

MAX_DURATION_S = 20 * 366 * 86400
NOT_IN_FORCE = "not in force in this release"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+ -]{0,127}\Z")
_GLOB_STRANGE = re.compile(r"[|,\x00-\x1f]")  # they part the fields of a `declared` line in the evidence
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Wrong(ValueError):
    """A value that a field cannot be. mend: what to write instead."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


class _Context:
    """What a check carries along: where problems go."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.file, self.problems = file, problems
        self.bad = False

    def add(self, line: int, what: str, mend: str) -> None:
        self.bad = True
        self.problems.add(self.file, line, what, mend)


class Shape(BaseModel):
    """A mapping with these fields and no other. LATER: names that a later release will know."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=False, validate_by_alias=True)
    LATER: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any, info: ValidationInfo) -> Any:
        """Report unknown and missing fields here, where the class and the lines are both known."""
        context = info.context
        if not isinstance(data, Map) or not isinstance(context, _Context):
            return data
        known = _known(cls)
        for key in data:
            if key in cls.LATER:
                context.add(data.lines[key], f"`{key}` is {NOT_IN_FORCE}", "take it away")
            elif key == "<<":
                context.add(data.lines[key], "merging with `<<` is not read", "write the fields out")
            elif key not in known:
                mend = meant(key, known, "known here: " + ", ".join(sorted(known)))
                context.add(data.lines[key], f"unknown field `{key[:64]}`", mend)
        for name, example in known.items():
            if example is not None and name not in data:
                context.add(data.line, f"`{name}` is missing", f"add `{name}: {example}`")
        return data


@cache
def _known(shape: type[Shape]) -> dict[str, str | None]:
    """The names of a shape's fields -> an example where the field must be there, else None."""
    found: dict[str, str | None] = {}
    for name, info in shape.model_fields.items():
        example = str((info.examples or ["..."])[0]) if info.is_required() else None
        found[info.alias or name] = example
    return found


S = TypeVar("S", bound=Shape)


def check(shape: type[S], node: Node, file: str, problems: Problems) -> S | None:
    """The tree as an instance of the shape, or None and every problem that it has."""
    context = _Context(file, problems)
    try:
        made = shape.model_validate(node, context=context)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            if one["type"] != "missing":  # told by Shape._names already
                what, mend = _say(one["type"], (one.get("ctx") or {}).get("error"), one["loc"])
                problems.add(file, line_of(node, one["loc"]), what, mend)
        return None
    return None if context.bad else made


def _say(kind: str, error: object, path: tuple[str | int, ...]) -> tuple[str, str]:
    """A problem of pydantic's in words. Its own message is not used: it may quote the value."""
    names = [str(step) for step in path if isinstance(step, str) and step != "[key]"]
    name = names[-1] if names else "the document"
    if isinstance(error, Wrong):
        return f"`{name}` {error.what}", error.mend
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"`{name}` has fields of its own", f"write `{name}: {{field: value}}`"
    if kind in ("list_type", "tuple_type"):
        return f"`{name}` is a list", f"write `{name}: [first, second]`"
    return f"`{name}` cannot be this", "see docs/reference/manifests.md"


def _text(value: object) -> str:
    if isinstance(value, Map | List):
        raise Wrong("is a single value, not fields or a list", "write one value")
    if not isinstance(value, str) or not value.strip():
        raise Wrong("is empty", "write a value")
    return str(value)


def _sentence(value: object) -> str:
    text = _text(value).strip()
    if len(text) > 500:
        raise Wrong("is longer than 500 characters", "say it shorter")
    return text


def _word(value: object) -> str:
    text = _text(value)
    if any(not c.isprintable() for c in text) or text != text.strip():
        raise Wrong("holds characters that cannot be seen", "write it without spaces around it and on one line")
    return text


def _name(value: object) -> str:
    text = _text(value)
    if not _LABEL.match(text):
        mend = "use lower-case letters, digits and dashes, at most 63, with a letter or digit at both ends"
        raise Wrong("is not a DNS label", mend)
    return text


def _group(value: object) -> str:
    text = _text(value)
    if not _GROUP.match(text) or text.endswith(" "):
        raise Wrong("is not a group's name", "use letters, digits, spaces and . _ : / @ + -, at most 128")
    return text


def _duration(value: object) -> int:
    text = _text(value)
    match = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    if not match or not 0 < int(match[1]) * _UNITS_S[match[2]] <= MAX_DURATION_S:
        raise Wrong("is not a duration", "write it like 15s, 30m, 4h or 90d; at most 20 years")
    return int(match[1]) * _UNITS_S[match[2]]


def _size(value: object) -> int:
    match = re.fullmatch(r"(\d{1,9}) ?(B|KB|MB|GB|KiB|MiB|GiB)", _text(value), re.ASCII)
    if not match or not int(match[1]):
        raise Wrong("is not a size", "write it like 500MB or 2GB")
    return int(match[1]) * _UNITS_BYTES[match[2]]


def _moment(value: object) -> int:
    """Microseconds UTC at which it is over: a date counts to its end, UTC."""
    text = _text(value)
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            over = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC) + timedelta(days=1)
        elif re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)", text, re.ASCII):
            over = datetime.fromisoformat(text.replace("Z", "+00:00"))
        else:
            raise ValueError
        since = (over - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        mend = "write it like 2027-06-30 (to the end of that day, UTC) or 2027-06-30T18:00:00Z"
        raise Wrong("is not a date", mend) from None
    if since <= 0:
        raise Wrong("is before 1970", "write a date to come")
    return since


def _flag(value: object) -> bool:
    text = _text(value)
    if text not in ("true", "false"):
        raise Wrong("is yes or no", "write true or false")
    return text == "true"


def _glob(value: object) -> str:
    text = _word(value)
    if len(text) > 256 or text.count("*") > 8:
        raise Wrong("is longer than 256 characters or has more than 8 stars", "split it into several")
    if _GLOB_STRANGE.search(text):
        raise Wrong("holds `|` or `,`, which part fields in the evidence", "write `?` in its place")
    if "%" in text:
        raise Wrong("holds `%`: a pattern is a glob, not SQL LIKE", "write `*` for any text and `?` for one character")
    return text


def whole(low: int, high: int) -> Callable[[object], int]:
    """A check for a whole number in this range."""

    def number(value: object) -> int:
        text = _text(value)
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not low <= int(text) <= high:
            raise Wrong("is not a number in its range", f"write a whole number from {low} to {high}")
        return int(text)

    return number


def one_of(*words: str, later: tuple[str, ...] = ()) -> Callable[[object], str]:
    """A check for one of these words. later: words that a later release will know."""

    def choice(value: object) -> str:
        text = _text(value)
        if text in later:
            raise Wrong(f"`{text}` is {NOT_IN_FORCE}", "write one of " + ", ".join(words))
        if text not in words:
            raise Wrong(f"cannot be `{text[:64]}`", meant(text, words, "write one of " + ", ".join(words)))
        return text

    return choice


def lift(field: str) -> Callable[[object], object]:
    """Lets a single value stand for a mapping with this one field: `target: billing` for `target: {name: billing}`."""

    def lifted(value: object) -> object:
        if isinstance(value, Text):
            made = Map(value.line)
            made[field], made.lines[field] = value, value.line
            return made
        return value

    return lifted


def filled(value: object) -> object:
    """A list or mapping that must not be empty."""
    if isinstance(value, Map | List) and not value:
        raise Wrong("is empty", "write at least one, or take the field away")
    return value


Sentence = Annotated[str, BeforeValidator(_sentence)]
Word = Annotated[str, BeforeValidator(_word)]
Name = Annotated[str, BeforeValidator(_name)]
Group = Annotated[str, BeforeValidator(_group)]
Duration = Annotated[int, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(_size)]
Moment = Annotated[int, BeforeValidator(_moment)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Glob = Annotated[str, BeforeValidator(_glob)]
Port = Annotated[int, BeforeValidator(whole(1, 65535))]
Words = Annotated[tuple[Word, ...], BeforeValidator(filled)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(filled)]
Groups = Annotated[tuple[Group, ...], BeforeValidator(filled)]
Labels = Annotated[dict[Word, Word], BeforeValidator(filled)]
