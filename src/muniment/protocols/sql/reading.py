"""What a text of SQL says by itself, before any name in it is resolved. `meaning` turns it into an Action."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any


class How(Enum):
    """How the name of a `Use` finds its object at the target."""

    RELATION = "relation"  # an existing relation: temporary ones, then the search path
    FUNCTION = "function"  # unqualified: it may be that of any schema of the path
    PERHAPS = "perhaps"  # the same, but only where a schema that is not the server's own has one
    CREATE = "create"  # a new object: the first schema of the path that can hold one
    OBJECT = "object"  # an existing object of a kind that the catalog does not hold: any schema of the path
    FIXED = "fixed"  # the name stands for itself: settings, roles, databases, schemas, files ...
    CHILD = "child"  # `sub` of that relation: triggers, rules, columns ...
    BESIDE = "beside"  # `sub` in the schema of that relation: indexes, the new name of a rename
    DATABASE = "database"  # the database of the session


class Rows(Enum):
    """Whether a statement answers with rows."""

    NO = "no"
    YES = "yes"
    MAYBE = "maybe"  # only the server knows, so which later result belongs to which statement is unknown too


class Mode(Enum):
    """What a statement takes over from the prepared statement or cursor that it names."""

    RUN = "run"  # everything: EXECUTE
    ROWS = "rows"  # touches and rows: FETCH
    TOUCHES = "touches"  # touches only: MOVE, EXPLAIN EXECUTE, CREATE TABLE AS EXECUTE


@dataclass(frozen=True, slots=True)
class Use:
    """One object as the text names it. catalog, schema: empty where the text has none; sub: see `How`."""

    kind: str
    verb: str
    name: str
    schema: str = ""
    catalog: str = ""
    how: How = How.FIXED
    sub: str = ""


@dataclass(frozen=True, slots=True)
class Refer:
    """A reference to a prepared statement or a cursor. kind: "prepared" | "cursor"."""

    kind: str
    name: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class Out:
    """What one output column is made of. columns: names beneath, None: unknown; calls: indexes into `Part.uses` of the
    functions whose result is in it."""

    columns: frozenset[str] | None
    calls: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One statement of a text. why: empty, or why it cannot be said with certainty what it does.

    fields: (schema, relation, name) of every `relation.name` in it, which the server reads as a function call where
    the relation has no such column; relation is empty where it is not a plain one.
    by_shape: the reading does not depend on what the literals hold.
    """

    uses: tuple[Use, ...] = ()
    rows: Rows = Rows.NO
    outputs: tuple[Out, ...] | None = None
    traits: frozenset[str] = frozenset()
    why: str = ""
    reads_only: bool = False
    changes_names: bool = False
    copies_rows: bool = False
    defines: tuple[tuple[str, str, str], ...] = ()
    forgets: tuple[tuple[str, str], ...] = ()
    refers: tuple[Refer, ...] = ()
    columns: frozenset[str] = frozenset()
    fields: tuple[tuple[str, str, str], ...] = ()
    by_shape: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A whole text. why: empty, or why nothing of it could be read; then there are no parts."""

    parts: tuple[Part, ...] = ()
    why: str = ""

    @property
    def by_shape(self) -> bool:
        """Whether every text of the same shape (literals aside) has this same reading."""
        return bool(self.parts) and not self.why and all(part.by_shape for part in self.parts)

    def to_json(self) -> str:
        """One line of JSON, for the pipe to and from the helper process."""
        return json.dumps([self.why, [_flat(part) for part in self.parts]], separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> Reading:
        """The inverse of `to_json`. Raises ValueError on anything else."""
        try:
            why, parts = json.loads(line)
            return cls(tuple(_part(part) for part in parts), str(why))
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError("not a reading") from error


def _flat(part: Part) -> list[Any]:
    """A part as lists in the order of its fields."""
    uses = [[u.kind, u.verb, u.name, u.schema, u.catalog, u.how.value, u.sub] for u in part.uses]
    outputs = None
    if part.outputs is not None:
        outputs = [[None if out.columns is None else sorted(out.columns), out.calls] for out in part.outputs]
    return [
        uses,
        part.rows.value,
        outputs,
        sorted(part.traits),
        part.why,
        part.reads_only,
        part.changes_names,
        part.copies_rows,
        part.defines,
        part.forgets,
        [[refer.kind, refer.name, refer.mode.value] for refer in part.refers],
        sorted(part.columns),
        part.fields,
        part.by_shape,
    ]


def _part(flat: Sequence[Any]) -> Part:
    """The inverse of `_flat`."""
    if len(flat) != len(fields(Part)):
        raise ValueError("not a part of a reading")
    uses, rows, outputs, traits, why, reads, changes, copies, defines, forgets, refers, columns, names, shape = flat
    outs = None
    if outputs is not None:
        outs = tuple(Out(None if cols is None else frozenset(cols), tuple(calls)) for cols, calls in outputs)
    return Part(
        uses=tuple(Use(u[0], u[1], u[2], u[3], u[4], How(u[5]), u[6]) for u in uses),
        rows=Rows(rows),
        outputs=outs,
        traits=frozenset(traits),
        why=str(why),
        reads_only=bool(reads),
        changes_names=bool(changes),
        copies_rows=bool(copies),
        defines=tuple((d[0], d[1], d[2]) for d in defines),
        forgets=tuple((f[0], f[1]) for f in forgets),
        refers=tuple(Refer(r[0], r[1], Mode(r[2])) for r in refers),
        columns=frozenset(columns),
        fields=tuple((f[0], f[1], f[2]) for f in names),
        by_shape=bool(shape),
    )
