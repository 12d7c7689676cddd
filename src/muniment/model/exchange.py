"""What a client asks for, in words that every protocol shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from muniment.model.records import record


@dataclass(frozen=True, slots=True)
class Touch:
    """One (verb, resource) that an exchange uses.

    kind: "relation" for reading and writing rows; for definitions the object's own kind: "table", "view", "index",
    "sequence", "schema", "database", "function", "role", "type", "extension" ...; "function" with verb "call";
    "setting" with verbs "set", "show", "reset"; "transaction" with verbs "begin", "commit" ...; "file", "program",
    "large-object", "channel".
    name: as the target resolves it, `schema.name` where it has a schema; "?.name" where it cannot be resolved.
    verb: select insert update delete merge truncate drop alter create grant revoke copy call set show reset begin
    commit rollback savepoint lock comment vacuum analyze explain listen notify ...
    """

    kind: str
    name: str
    verb: str


Beneath = frozenset[str] | None
"""Column names that an output is computed from, lower or exact as written after folding; "*" for a star or a whole
row; None: UNKNOWN, treat as anything."""


@dataclass(frozen=True, slots=True)
class Action:
    """What one statement does, as read by the named reader.

    touches: every (kind, name, verb), at any depth of the text. outputs: one tuple per statement of the text that can
    return rows, in order; each holds one `Beneath` per output column; None: unknown number. traits: "no-where",
    "several-statements", "opaque", "pinned-setting", "copy-in", "copy-out", "cursor", "constant-where" ...
    complete: False when we cannot say with certainty all that it does; such an action is never inside a grant.
    why: where complete is False, the reason for people.
    reads_only: nothing but plain reads: no write, definition, opaque call or copy.
    changes_names: after it, names or settings may mean something else (SET search_path, DDL, opaque call ...).
    defines: (kind "prepared" | "cursor", name, text of the inner statement) that it creates; forgets: the same kinds
    that it drops, name "*" for all.
    copies_rows: it stores or keeps rows read from relations (INSERT ... SELECT, CREATE TABLE AS, DECLARE CURSOR,
    COPY ... ), so that a mask by column could be evaded later.
    columns: every column name that occurs anywhere in the text ("*" for a star or whole row).
    counted: False when the target may answer with results that are not in `outputs`, by a rule on a relation.
    """

    touches: tuple[Touch, ...]
    outputs: tuple[tuple[Beneath, ...] | None, ...] = ()
    traits: frozenset[str] = frozenset()
    complete: bool = True
    why: str = ""
    reads_only: bool = False
    changes_names: bool = False
    defines: tuple[tuple[str, str, str], ...] = ()
    forgets: tuple[tuple[str, str], ...] = ()
    copies_rows: bool = False
    columns: frozenset[str] = frozenset()
    counted: bool = True

    @property
    def verbs(self) -> frozenset[str]:
        """The verbs of all touches."""
        return frozenset(touch.verb for touch in self.touches)


@record
class Parameter:
    """One bound value. type: the type's id at the target, 0 unknown; binary: its format; value: None for NULL."""

    type: int
    binary: bool
    value: bytes | None


class Phase(Enum):
    """Where in its life a statement is judged."""

    PREPARE = "prepare"  # by its text alone; runs nothing: Deny refuses it, Allow and Hold let it through
    EXECUTE = "execute"  # with its parameters; opens the exchange


@record
class Statement:
    """A statement as it is about to be judged.

    names: how names are resolved for it (a protocol's own frozen object, e.g. `protocols.postgres.meaning.Names`);
    hashable and compared by identity or version; None: unknown, so unqualified names are not resolved.
    may_wait: False when a hold could not wait here (inside a transaction, or behind released work).
    """

    text: str
    parameters: tuple[Parameter, ...] = ()
    names: Any = None
    phase: Phase = Phase.EXECUTE
    may_wait: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """One output column of a result. origin: (relation id, column number) at the target, None for an expression."""

    name: str
    origin: tuple[int, int] | None
    type: int
    binary: bool


@record
class Outcome:
    """How an exchange ended. code: the target's own error code, empty on success; masked: hits per class."""

    status: str  # "ok" | "error" | "refused" | "withdrawn" | "cancelled" | "unknown"
    rows: int = 0
    bytes: int = 0
    code: str = ""
    tag: str = ""
    masked: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view, materialized view, sequence or foreign table. columns: (number, name), dropped ones left out."""

    oid: int
    schema: str
    name: str
    kind: str  # the target's own letter: r v m p f S
    columns: tuple[tuple[int, str], ...]


ANYTHING = (0, 0)  # in `Catalog.depends`, in the place of a column


@dataclass(frozen=True, slots=True)
class Catalog:
    """The names of one database as they stood at `loaded_at_us`. Shared by its sessions, replaced whole.

    relations: by (schema, name); functions: name -> schemas that have one of that name; depends: view's oid -> the
    (relation oid, column number) that it is built from, at any depth, number 0 for a whole row; inherits: the oid of a
    partition or child -> its direct parents; shipped: functions, as schema.name, that belong to extensions;
    ruled: relations, as schema.name, with rules that a view alone does not make;
    version: grows with every load. A view that uses a function or operator of the database's own, which may read
    anything, depends on ANYTHING.
    """

    database: str
    version: int
    loaded_at_us: int
    relations: dict[tuple[str, str], Relation] = field(default_factory=dict)
    by_oid: dict[int, Relation] = field(default_factory=dict)
    functions: dict[str, frozenset[str]] = field(default_factory=dict)
    depends: dict[int, frozenset[tuple[int, int]]] = field(default_factory=dict)
    inherits: dict[int, frozenset[int]] = field(default_factory=dict)
    shipped: frozenset[str] = frozenset()
    ruled: frozenset[str] = frozenset()
