"""Collects what one statement touches while its tree is walked. Every node must be known; nothing is stepped over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muniment.protocols.sql.nodes import BARE, OPERATORS, PLAIN, Node, strings
from muniment.protocols.sql.reading import How, Mode, Out, Part, Refer, Rows, Use

Found = frozenset[str | int]
"""What lies beneath an expression: column names ("*": a star or whole row) and the indexes of functions in it."""

NOTHING: Found = frozenset()
STAR: Found = frozenset({"*"})

Columns = tuple[tuple[str | None, Found], ...]
"""Names and contents of a derived table's columns, in order; None: a name that the server makes up."""


@dataclass(slots=True)
class Range:
    """One entry of a FROM clause, or a common table expression.

    name: how columns refer to it; relation: (schema, name) of a plain relation; columns: of a derived table, None:
    not known; whole: everything that occurs in a derived table; renamed: a plain relation with column aliases.
    """

    name: str
    relation: tuple[str, str] | None = None
    columns: Columns | None = None
    whole: Found = NOTHING
    renamed: bool = False

    @property
    def row(self) -> Found:
        """What a reference to the whole row is made of."""
        return STAR if self.relation else self.whole

    def column(self, name: str) -> Found | None:
        """What a column of that name is made of; None: it has none."""
        if self.relation:
            return STAR if self.renamed else frozenset({name})
        if self.columns is None:
            return self.whole | {name}
        hits = [found for column, found in self.columns if column is None or column == name]
        return frozenset().union(*hits) if hits else None

    def has(self, name: str) -> bool:
        """Whether it is certain that a derived table has a column of that name."""
        return self.columns is not None and any(column == name for column, _ in self.columns)


@dataclass(slots=True)
class Scope:
    """What names mean at one level of a query. ctes: visible here; ranges: of this level's FROM."""

    outer: Scope | None = None
    ctes: dict[str, Range] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)

    def levels(self) -> Iterable[Scope]:
        """This level, then each one around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def cte(self, name: str) -> Range | None:
        """The innermost visible common table expression of that name."""
        return next((scope.ctes[name] for scope in self.levels() if name in scope.ctes), None)


Walker = Callable[["Gather", Node, Scope], Found]
Handler = Callable[["Gather", Node], None]


class Gather:
    """A `Part` in the making.

    text: of the statement; same(text, node): whether a text alone parses to that node.
    loose: (kind, verb) of a relation that occurs where no walker expects one, in definitions above all.
    """

    def __init__(
        self,
        text: str,
        walkers: Mapping[str, Walker],
        handlers: Mapping[str, Handler],
        same: Callable[[str, Node], bool],
    ) -> None:
        self.text = text
        self.same = same
        self.walkers = walkers
        self.handlers = handlers
        self.uses: dict[Use, int] = {}
        self.traits: set[str] = set()
        self.columns: set[str] = set()
        self.fields: dict[tuple[str, str, str], None] = {}
        self.why = ""
        self.rows = Rows.NO
        self.outputs: tuple[Out, ...] | None = None
        self.reads_only = False
        self.changes_names = False
        self.copies_rows = False
        self.by_shape = False
        self.defines: list[tuple[str, str, str]] = []
        self.forgets: list[tuple[str, str]] = []
        self.refers: list[Refer] = []
        self.loose = ("relation", "select")
        self.read = 0  # how often a relation is read

    def part(self) -> Part:
        """The finished part."""
        return Part(
            uses=tuple(self.uses),
            rows=self.rows,
            outputs=self.outputs,
            traits=frozenset(self.traits),
            why=self.why,
            reads_only=self.reads_only and not self.why,
            changes_names=self.changes_names,
            copies_rows=self.copies_rows,
            defines=tuple(self.defines),
            forgets=tuple(self.forgets),
            refers=tuple(self.refers),
            columns=frozenset(self.columns),
            fields=tuple(self.fields),
            by_shape=self.by_shape and not self.why,
        )

    # recording

    def refuse(self, why: str) -> None:
        """Say that it is not certain what the statement does; the first reason counts."""
        self.why = self.why or why

    def opaque(self, why: str) -> None:
        """It runs something that its text does not show."""
        self.traits.add("opaque")
        self.changes_names = True
        self.refuse(why)

    def use(self, kind: str, verb: str, name: str, *, how: How = How.FIXED, **rest: str) -> int:
        """Record a use. Returns its index."""
        return self.uses.setdefault(Use(kind, verb, name, how=how, **rest), len(self.uses))

    def relation(self, kind: str, verb: str, var: Node, *, how: How = How.RELATION, sub: str = "") -> int:
        """Record the use of a relation, given its RangeVar. Temporary ones are created in pg_temp."""
        schema = var.get("schemaname", "")
        if how is How.CREATE and not schema and var.get("relpersistence") == "t":
            schema = "pg_temp"
        name, catalog = var.get("relname", ""), var.get("catalogname", "")
        return self.use(kind, verb, name, how=how, schema=schema, catalog=catalog, sub=sub)

    def named(self, kind: str, verb: str, names: list[str], *, how: How = How.OBJECT, sub: str = "") -> int:
        """Record the use of an object, given its name's parts: [[catalog,] schema,] name."""
        if not 0 < len(names) <= 3:
            self.refuse("a name with too many parts")
            return 0
        catalog, schema, name = ["", "", *names][-3:]
        return self.use(kind, verb, name, how=how, schema=schema, catalog=catalog, sub=sub)

    def call(self, names: list[str]) -> Found:
        """Record the call of a function."""
        return frozenset({self.named("function", "call", names, how=How.FUNCTION)})

    def operator(self, nodes: list[Node] | None) -> Found:
        """Record an operator where it is not one of the server's own."""
        names = strings(nodes)
        if not names or names[0] == "pg_catalog" or (len(names) == 1 and names[0] in OPERATORS):
            return NOTHING
        self.traits.add("custom-operator")
        return frozenset({self.named("operator", "call", names)})

    def refer(self, kind: str, name: str, mode: Mode) -> None:
        """Record that a prepared statement or cursor is used."""
        self.refers.append(Refer(kind, name, mode))

    def answers(self, columns: Columns | None) -> None:
        """The statement answers with these columns; None: their number is not known."""
        self.rows = Rows.YES
        self.outputs = None if columns is None else tuple(out(found) for _, found in columns)

    # walking

    def statement(self, node: Node) -> None:
        """Read a whole statement."""
        for kind, body in node.items():
            handler = self.handlers.get(kind)
            if handler is None:
                self.refuse(f"statements of the kind {kind} are not read")
            else:
                handler(self, body)

    def walk(self, node: Any, scope: Scope) -> Found:
        """Read an expression, or a list of them. Returns all that lies beneath."""
        if isinstance(node, list):
            return self.all(node, scope)
        if not isinstance(node, dict):
            return NOTHING
        found = NOTHING
        for kind, body in node.items():
            found |= self.node(kind, body, scope)
        return found

    def all(self, nodes: Iterable[Any], scope: Scope) -> Found:
        """Read several."""
        found = NOTHING
        for node in nodes:
            found |= self.walk(node, scope)
        return found

    def node(self, kind: str, body: Node, scope: Scope) -> Found:
        """Read one node."""
        walker = self.walkers.get(kind)
        if walker is not None:
            return walker(self, body, scope)
        if kind not in PLAIN:
            self.refuse(f"{kind} is not read here")
            return NOTHING
        return self.rest(body, scope)

    def rest(self, body: Node, scope: Scope, *handled: str) -> Found:
        """Read every field of a node but those handled already."""
        found = NOTHING
        for name, value in body.items():
            if name in handled or not isinstance(value, dict | list):
                continue
            if isinstance(value, list) or is_wrapped(value):
                found |= self.walk(value, scope)
            elif name in BARE:
                found |= self.node(BARE[name], value, scope)
            else:
                self.refuse(f"the field {name} is not read")
        return found


def is_wrapped(value: Node) -> bool:
    """Whether a node stands under its name."""
    return len(value) == 1 and next(iter(value))[0].isupper()


def out(found: Found) -> Out:
    """An output column made of what was found."""
    names = frozenset(item for item in found if isinstance(item, str))
    return Out(names, tuple(sorted(item for item in found if isinstance(item, int))))
