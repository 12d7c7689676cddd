"""Texts that people write (YAML or JSON) as trees of text with line numbers; every problem at once.

Home of PyYAML, of which only the event stream is used: no tag, no implicit type and no object is ever made. A value is
the text as written, so that `repository_id: 0123` stays `0123`; what a field makes of it is `judge.fields`' business.
Hostile input is bounded: characters, depth, nodes (an alias counts with all that is beneath it).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import yaml

from muniment.model.errors import ConfigError, Problem

MAX_CHARS = 4 << 20  # of one file; a document is about a kilobyte
MAX_NODES = 200_000  # of one file, aliases expanded: what an alias bomb is stopped by
MAX_DEPTH = 16  # the deepest document has 7
MAX_ALIASES = 200  # of one file
MAX_SCALAR_CHARS = 8 << 10  # the longest honest value is an RSA public key of about 3,000
MAX_KEY_CHARS = 256
MAX_PROBLEMS = 200  # that are shown; nobody mends more in one go

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there; same events
_START = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]")


class Text(str):
    """A scalar as written. line: where it stands, from 1."""

    line: int = 0


class Map(dict[str, "Node"]):
    """A mapping. line: where it begins; lines: where each key stands."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class List(list["Node"]):
    """A list. line: where it begins."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


Node = Text | Map | List


@dataclass(frozen=True, slots=True)
class Document:
    """One document of an apply. text: its canonical JSON, from which the same document can be read again;
    digest: hex SHA-256 of it; file, line: where it was written; node: its tree.
    """

    kind: str
    name: str
    text: str
    digest: str
    file: str
    line: int
    node: Map = field(compare=False, repr=False)

    def line_of(self, *path: str | int) -> int:
        """The line of what stands at this path, or of the nearest thing above it."""
        return line_of(self.node, path)


class Problems:
    """Collects what a person must mend. incomplete: a text could not be read at all, so that names may be missing."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, str], Problem] = {}
        self.incomplete = False

    def add(self, file: str, line: int, what: str, mend: str) -> None:
        """One problem at a place; the same one twice counts once."""
        self._found.setdefault((file, line, what), Problem(f"{file}:{line}" if line else file, what, mend))

    def __bool__(self) -> bool:
        return bool(self._found)

    def sorted(self) -> tuple[Problem, ...]:
        """By file and line, at most MAX_PROBLEMS and then how many more there are."""
        found = [self._found[key] for key in sorted(self._found)]
        if len(found) > MAX_PROBLEMS:
            more = Problem("...", f"{len(found) - MAX_PROBLEMS} more problems", "mend these first")
            found = [*found[:MAX_PROBLEMS], more]
        return tuple(found)

    def stop(self) -> None:
        """Raise ConfigError with all of them, if there are any."""
        if self._found:
            raise ConfigError(*self.sorted())


def line_of(node: Node, path: Sequence[str | int]) -> int:
    """The line of what stands at `path` under `node`, or of the nearest thing above it."""
    line = node.line
    for step in path:
        if isinstance(node, Map) and isinstance(step, str) and step in node:
            line, node = node.lines[step], node[step]
        elif isinstance(node, List) and isinstance(step, int) and step < len(node):
            node = node[step]
            line = node.line
        else:
            break
    return line


def canonical(node: Node) -> str:
    """The one text of a tree: JSON, keys sorted, no spaces, every scalar a string."""
    return json.dumps(node, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(text: str) -> str:
    """Hex SHA-256 of a canonical text."""
    return hashlib.sha256(text.encode()).hexdigest()


def suggest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or empty."""
    choices = {one.lower(): one for one in known}
    close = difflib.get_close_matches(word.lower()[:64], choices, n=1, cutoff=0.6)
    return choices[close[0]] if close else ""


def meant(word: str, known: Iterable[str], otherwise: str) -> str:
    """A mend: "did you mean `x`?" or what `otherwise` says."""
    close = suggest(word, known)
    return f"did you mean `{close}`?" if close else otherwise


class _Stop(Exception):
    """This part of a file cannot be read further."""

    def __init__(self, line: int, what: str, mend: str) -> None:
        super().__init__(what)
        self.line, self.what, self.mend = line, what, mend


def read(file: str, text: str, problems: Problems) -> Iterator[Map]:
    """The documents of one text as trees. What cannot be read is a problem and is left out; the rest is still read."""
    if len(text) > MAX_CHARS:
        problems.incomplete = True
        problems.add(file, 1, "the file is too long", f"at most {MAX_CHARS >> 20} million characters; split it")
        return
    budget = _Budget()
    for first, part in _parts(text):
        reader = _Reader(file, first, budget, problems)
        try:
            strange = _CONTROL.search(part)
            if strange:
                line = first + part.count("\n", 0, strange.start())
                what = f"the character U+{ord(strange[0]):04X} does not belong in a document"
                raise _Stop(line, what, "take it away; keep the file in UTF-8 without a byte order mark")
            yield from reader.documents(part)
        except _Stop as stop:
            problems.incomplete = True
            problems.add(file, stop.line, stop.what, stop.mend)


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of each document, so that a mistake in one leaves the others readable. YAML allows no line
    that begins with `---` inside a document, not even in quotes (YAML 1.2, section 9.1.2)."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    starts = [0, *(match.start() for match in _START.finditer(text) if match.start())]
    line = 1
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        if part.strip():
            yield line, part
        line += part.count("\n")


class _Budget:
    """What one file may still use."""

    def __init__(self) -> None:
        self.nodes = MAX_NODES
        self.aliases = MAX_ALIASES


class _Reader:
    """Builds trees from YAML's events."""

    def __init__(self, file: str, first: int, budget: _Budget, problems: Problems) -> None:
        self.file, self.first, self.budget, self.problems = file, first, budget, problems
        self.anchors: dict[str, tuple[Node, int]] = {}

    def documents(self, part: str) -> Iterator[Map]:
        if part.startswith("%"):
            raise _Stop(self.first, "a % directive is not read", "take the line away")
        self.events = self._events(part)
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors.clear()
                if event.version or event.tags:
                    raise _Stop(self.line(event), "a % directive is not read", "take the line away")
                root = next(self.events)
                node, _ = self.node(root, 0)
                if isinstance(node, Map):
                    yield node
                elif node is not None:
                    what = "a document is fields with values, not a single value or a list"
                    self.problems.add(self.file, self.line(root), what, "begin with `apiVersion: muniment/v1`")

    def _events(self, part: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(part, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = self.first + (mark.line if mark else 0)
            what = f"this is not YAML: {error.problem or error.context}"
            at = part.splitlines()[mark.line : mark.line + 1] if mark else []
            if at and "\t" in at[0][: len(at[0]) - len(at[0].lstrip())]:
                raise _Stop(line, "a tab cannot indent a line in YAML", "indent with spaces") from None
            raise _Stop(line, what, "check indentation, quotes and brackets at this line and the one above") from None
        except (yaml.YAMLError, UnicodeError):
            raise _Stop(self.first, "this is not YAML", "keep the file in UTF-8") from None

    def line(self, event: yaml.Event) -> int:
        return self.first + (event.start_mark.line if event.start_mark else 0)

    def node(self, event: yaml.Event, depth: int) -> tuple[Node | None, int]:
        """One value and how many nodes it has, aliases expanded. None: there is no value."""
        line = self.line(event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, line)
        if getattr(event, "tag", None):
            raise _Stop(line, "a tag is not read", "take away the word that begins with `!`")
        if depth >= MAX_DEPTH:
            raise _Stop(line, f"nested deeper than {MAX_DEPTH}", "no document needs that")
        self.spend(1, line)
        node: Node | None
        if isinstance(event, yaml.ScalarEvent):
            node, size = self.scalar(event, line), 1
        elif isinstance(event, yaml.MappingStartEvent):
            node, size = self.mapping(line, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node, size = self.sequence(line, depth)
        else:
            raise _Stop(line, "this is not YAML", "check the lines above")
        if event.anchor and node is not None:
            self.anchors[event.anchor] = (node, size)
        return node, size

    def spend(self, nodes: int, line: int) -> None:
        self.budget.nodes -= nodes
        if self.budget.nodes < 0:
            raise _Stop(line, f"the file has more than {MAX_NODES} values, aliases expanded", "split it")

    def alias(self, name: str | None, line: int) -> tuple[Node, int]:
        self.budget.aliases -= 1
        if self.budget.aliases < 0:
            raise _Stop(line, f"the file has more than {MAX_ALIASES} aliases", "write the values out")
        if name is None or name not in self.anchors:
            raise _Stop(line, f"the alias *{(name or '')[:64]} has no finished anchor before it", "write the value out")
        self.spend(self.anchors[name][1], line)
        return self.anchors[name]

    def scalar(self, event: yaml.ScalarEvent, line: int) -> Text | None:
        if len(event.value) > MAX_SCALAR_CHARS:
            raise _Stop(line, f"a value is longer than {MAX_SCALAR_CHARS} characters", "no field needs that")
        if event.value == "" and not event.style:  # plain, so not even quotes
            return None
        text = Text(event.value)
        text.line = line
        return text

    def sequence(self, line: int, depth: int) -> tuple[List, int]:
        found, size = List(line), 1
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item, count = self.node(event, depth + 1)
            size += count
            if item is None:
                self.problems.add(self.file, self.line(event), "an item of the list is empty", "take the `-` away")
            else:
                found.append(item)
        return found, size

    def mapping(self, line: int, depth: int) -> tuple[Map, int]:
        found, size = Map(line), 1
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            at = self.line(event)
            key, _ = self.node(event, depth + 1)
            value, count = self.node(next(self.events), depth + 1)
            size += count + 1
            if not isinstance(key, Text) or not key or len(key) > MAX_KEY_CHARS:
                raise _Stop(at, "the name of a field is not a plain word", "write `name: value`")
            if key in found:
                mend = "keep one of the two"
                self.problems.add(self.file, at, f"`{key}` occurs twice, first in line {found.lines[key]}", mend)
            elif value is None:
                self.problems.add(self.file, at, f"`{key}` has no value", "write one, or take the line away")
            else:
                found[str(key)] = value
                found.lines[str(key)] = at
        return found, size
