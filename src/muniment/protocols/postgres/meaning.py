"""What a statement means at this target: names resolved as the server resolves them, prepared statements followed.

Source: PostgreSQL manual, 5.10.3 "The Schema Search Path" and 8.16.5 "Using Composite Types in Queries" (a field that
is no column is a function call).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from muniment.model.exchange import Action, Beneath, Catalog, Relation, Touch
from muniment.protocols.sql.nodes import words
from muniment.protocols.sql.reading import How, Mode, Part, Reading, Refer, Rows, Use
from muniment.protocols.sql.settings import CODECS

MAX_FOLLOWED = 4  # EXECUTE of a statement that is an EXECUTE ...; nobody writes more, and a ring must end

_SYSTEM = ("pg_catalog.", "information_schema.")

_RULED = frozenset({"insert", "update", "delete"})

SYSTEM_COLUMNS = frozenset({"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax", "oid"})

# Built-in functions by name or prefix that do more than compute from what they are given.
_ACTING = frozenset({"nextval", "setval", "lowrite", "ts_stat", "ts_rewrite", "dblink", "set_config"})
_ACTING_PREFIXES = ("lo_", "pg_", "brin_", "gin_", "query_to_", "table_to_", "schema_to_", "database_to_", "cursor_to_")
_LOOKING_PREFIXES = tuple(
    words(
        """
        pg_backend_pid pg_char_to_encoding pg_client_encoding pg_collation_for pg_column_size pg_conf_load_time
        pg_current_ pg_database_size pg_describe_object pg_encoding_to_char pg_get_ pg_has_role
        pg_identify_object pg_index_ pg_indexam_ pg_indexes_size pg_is_in_recovery pg_is_other_temp_schema
        pg_my_temp_schema pg_options_ pg_postmaster_start_time pg_relation_ pg_size_ pg_table_ pg_tablespace_
        pg_total_ pg_typeof
        """
    )
)
_LOOKING_SUFFIX = "_is_visible"


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """How names are resolved for a statement. Equal when `key` is equal.

    catalog: None: unknown; path: effective schemas in order, as `current_schemas(true)` gives them (pg_catalog and
    pg_temp_N included), None: unknown; temporary: the session's temporary relations; prepared, cursors: name -> text
    of the statement (protocol-level statements and portals too: they share the server's name spaces).
    codec: how the session's texts are read.
    key: of everything but `prepared` and `cursors`, which matter only to the few texts that `needs` something; made
    from the catalog's version, the path and the temporary relations where none is given.
    """

    catalog: Catalog | None
    path: tuple[str, ...] | None
    temporary: frozenset[str] = frozenset()
    prepared: Mapping[str, str] = field(default_factory=dict)
    cursors: Mapping[str, str] = field(default_factory=dict)
    codec: str = "utf-8"
    key: Hashable = None

    def __post_init__(self) -> None:
        if self.key is None:
            version = self.catalog.version if self.catalog else None
            object.__setattr__(self, "key", (version, self.path, self.temporary, self.codec))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def replaced(self, **changes: Any) -> Names:
        """The same with some fields changed, and the key made anew."""
        return replace(self, key=None, **changes)


def needs(reading: Reading, names: Names | None) -> tuple[str, ...]:
    """The texts of the prepared statements and cursors that it refers to: what `resolve` wants in `others`.

    Call it again on the reading of each such text: it may refer to a further one.
    """
    known = _Known(names)
    texts: dict[str, None] = {}
    for part in reading.parts:
        for refer in part.refers:
            text = known.text(refer)
            if text is not None:
                texts[text] = None
        known.follow(part)
    return tuple(texts)


def resolve(reading: Reading, names: Names | None, others: Mapping[str, Reading]) -> Action:
    """The Action of a text under these names. Total; what cannot be resolved makes it `complete=False`.

    others: the readings of the texts that `needs` gave. None for names: only qualified names are resolved.
    """
    if reading.why:
        return Action((), complete=False, why=reading.why, changes_names=True, traits=frozenset({"opaque"}))
    work = _Work(names, others)
    for part in reading.parts:
        work.add(part, Mode.RUN)
    return work.action(len(reading.parts))


def opaque(why: str) -> Action:
    """The Action of what could not be read at all."""
    return resolve(Reading(why=why), None, {})


class _Known:
    """Prepared statements and cursors as they stand while a text is gone through."""

    def __init__(self, names: Names | None) -> None:
        self._names = names
        self._here: dict[tuple[str, str], str | None] = {}
        self._gone: set[str] = set()

    def text(self, refer: Refer) -> str | None:
        """The text behind a name, None where there is none."""
        key = (refer.kind, refer.name)
        if key in self._here:
            return self._here[key]
        if refer.kind in self._gone or self._names is None:
            return None
        known = self._names.prepared if refer.kind == "prepared" else self._names.cursors
        return known.get(refer.name)

    def follow(self, part: Part) -> None:
        """Apply what a statement forgets and defines."""
        for kind, name in part.forgets:
            if name == "*":
                self._gone.add(kind)
                self._here = {key: text for key, text in self._here.items() if key[0] != kind}
            else:
                self._here[kind, name] = None
        for kind, name, text in part.defines:
            self._here[kind, name] = text


class _Work:
    """An Action in the making."""

    def __init__(self, names: Names | None, others: Mapping[str, Reading]) -> None:
        self._catalog = names.catalog if names else None
        self._path = _searched(names)
        self._codec = names.codec if names else ""
        self._temporary = names.temporary if names else frozenset[str]()
        self._others = others
        self._known = _Known(names)
        self._touches: dict[Touch, None] = {}
        self._outputs: list[tuple[Beneath, ...] | None] = []
        self._traits: set[str] = set()
        self._columns: set[str] = set()
        self._defines: dict[tuple[str, str], str] = {}
        self._forgets: dict[tuple[str, str], None] = {}
        self._why = ""
        self._reads_only = True
        self._changes_names = False
        self._copies_rows = False
        self._counted = True  # False once nobody can say which result a later statement's rows are
        self._ruled = False  # True when a rule may answer with rows of its own
        self._blind = False  # True after a statement of this text that may change what names mean
        self._depth = 0

    def action(self, parts: int) -> Action:
        """What has been gathered."""
        if parts > 1:
            self._traits.add("several-statements")
        return Action(
            touches=tuple(self._touches),
            outputs=tuple(self._outputs),
            traits=frozenset(self._traits),
            complete=not self._why,
            why=self._why,
            reads_only=self._reads_only and not self._why,
            changes_names=self._changes_names or bool(self._why),
            defines=tuple((kind, name, text) for (kind, name), text in self._defines.items()),
            forgets=tuple(self._forgets),
            copies_rows=self._copies_rows,
            columns=frozenset(self._columns),
            counted=parts == 1 or not self._ruled,
        )

    def add(self, part: Part, mode: Mode) -> None:
        """Take in one statement, as far as `mode` says."""
        if part.why:
            self._refuse(part.why)
        called: list[bool] = [self._use(use) for use in part.uses]
        foreign, acts, row = self._fields(part)
        foreign = foreign or any(called)
        self._traits |= part.traits
        self._columns |= part.columns
        if row:
            self._columns.add("*")
        self._reads_only &= part.reads_only and not foreign and not acts and not self._acts(part)
        self._copies_rows |= part.copies_rows
        before = len(self._outputs)
        for refer in part.refers:
            self._follow(refer)
        if mode is not Mode.TOUCHES and len(self._outputs) == before:
            self._rows(part, called, row)
        self._ruled = self._ruled or any(self._has_rules(use) for use in part.uses if use.verb in _RULED)
        if part.rows is Rows.NO and any(use.verb in _RULED for use in part.uses):
            self._counted = False  # a rule of the target can make it answer with rows all the same
        if mode is Mode.RUN:
            self._remember(part)
        if part.changes_names or foreign:
            self._changes_names = self._blind = True
        if "transaction-end" in part.traits:
            self._blind = True  # what was SET LOCAL in an earlier text is undone

    def _refuse(self, why: str) -> None:
        self._why = self._why or why

    def _rows(self, part: Part, called: list[bool], row: bool) -> None:
        """Add the outputs of a statement that answers with rows."""
        if part.rows is Rows.NO:
            return
        if part.rows is Rows.MAYBE:
            self._counted = False
        if part.outputs is None or not self._counted:
            self._outputs.append(None)
            return
        outs: list[Beneath] = []
        for out in part.outputs:
            if out.columns is None or any(called[call] for call in out.calls):
                outs.append(None)  # nobody knows what a function of the target's own gives back
            else:
                outs.append(out.columns | {"*"} if row else out.columns)
        self._outputs.append(tuple(outs))

    def _remember(self, part: Part) -> None:
        """Keep the sum of what is defined and forgotten: forgets first, then defines, gives the state after it all."""
        self._known.follow(part)
        for kind, name in part.forgets:
            self._forgets[kind, name] = None
            gone = [key for key in self._defines if key[0] == kind and name in ("*", key[1])]
            for key in gone:
                del self._defines[key]
        for kind, name, text in part.defines:
            self._defines[kind, name] = text

    def _follow(self, refer: Refer) -> None:
        """Take in the prepared statement or cursor that is referred to."""
        self._traits.add("by-name")
        text = self._known.text(refer)
        inner = self._others.get(text) if text is not None else None
        what = "prepared statement" if refer.kind == "prepared" else "cursor"
        if inner is None or inner.why or len(inner.parts) != 1 or self._depth >= MAX_FOLLOWED:
            self._refuse(f"the {what} that it names is not known")
            self._counted = False
            self._outputs.append(None)
            return
        self._depth += 1
        self.add(inner.parts[0], refer.mode)
        self._depth -= 1

    def _acts(self, part: Part) -> bool:
        """Whether a built-in function in it does more than compute."""
        return any(use.kind == "function" and use.verb == "call" and _acting(use.name) for use in part.uses)

    # names

    def _use(self, use: Use) -> bool:
        """Add the touches of a use. True: it calls a function that is not the server's own."""
        if use.catalog and (self._catalog is None or use.catalog != self._catalog.database):
            self._refuse("it names another database")
        if use.how is not How.FIXED and any("." in piece for piece in (use.schema, use.name, use.sub)):
            self._refuse("a name with a dot in it cannot be told apart from a name in a schema")
        if (use.kind, use.verb, use.name) == ("setting", "set", "client_encoding") and CODECS.get(
            use.sub
        ) != self._codec:
            self._refuse("client_encoding stays as it was when the session was opened")
        names = self._resolved(use)
        for name in names:
            self._touches[Touch(use.kind, name, use.verb)] = None
        if use.verb != "call" or use.kind not in ("function", "operator"):
            return False
        return not all(name.startswith(_SYSTEM) for name in names)

    def _has_rules(self, use: Use) -> bool:
        """Whether a rule may make something else of a change to this relation."""
        return self._catalog is None or any(name in self._catalog.ruled for name in self._resolved(use))

    def _resolved(self, use: Use) -> tuple[str, ...]:
        """The full names that a use may mean; all of them must be permitted."""
        if use.how is How.FIXED:
            return (use.name,)
        if use.how is How.DATABASE:
            return (self._catalog.database if self._catalog else "?.database",)
        if use.schema:
            schema = use.schema
        elif self._blind or self._path is None or self._catalog is None:
            self._refuse("names without a schema cannot be resolved here")
            schema = "?"
        elif use.how is How.FUNCTION:
            return self._functions(use.name, self._path)
        elif use.how is How.PERHAPS:
            return tuple(
                name for name in self._functions(use.name, self._path) if not name.startswith((*_SYSTEM, "?."))
            )
        elif use.how is How.CREATE:
            schema = next(iter(_own(self._path)), "?")
        elif use.how is How.OBJECT:
            return tuple(f"{schema}.{use.name}" for schema in _own(self._path)) or (f"?.{use.name}",)
        else:
            schema = self._schema(use.name)
        if use.how is How.CHILD:
            return (f"{schema}.{use.name}.{use.sub}",)
        return (f"{schema}.{use.sub if use.how is How.BESIDE else use.name}",)

    def _schema(self, name: str) -> str:
        """The schema of an unqualified relation, "?" where there is none."""
        assert self._path is not None and self._catalog is not None
        for schema in self._path:
            if schema.startswith("pg_temp"):
                if name in self._temporary:
                    return "pg_temp"
            elif (schema, name) in self._catalog.relations:
                return schema
        return "?"

    def _functions(self, name: str, path: Iterable[str]) -> tuple[str, ...]:
        """Every schema of the path that has a function of that name."""
        having = self._catalog.functions.get(name, frozenset()) if self._catalog else frozenset()
        return tuple(f"{schema}.{name}" for schema in path if schema in having) or (f"?.{name}",)

    def _fields(self, part: Part) -> tuple[bool, bool, bool]:
        """Add a call for every `x.name` that may be one: of any function, the server's own too, where x has no such
        column. Returns whether one is not the server's own, whether one acts, whether one is given a whole row."""
        foreign = acts = row = False
        for home, relation, name in part.fields:
            if self._blind or self._path is None or self._catalog is None:
                self._refuse("whether a field is a column cannot be known here")
                continue
            known = self._relation(home, relation) if relation else None
            if name in SYSTEM_COLUMNS or (known and any(column == name for _, column in known.columns)):
                continue
            having = self._catalog.functions.get(name, frozenset())
            called = [f"{schema}.{name}" for schema in self._path if schema in having]
            if known and not called:
                called = [f"?.{name}"]  # neither column nor function, as far as the catalog knows
            for full in called:
                self._touches[Touch("function", full, "call")] = None
            foreign = foreign or not all(full.startswith(_SYSTEM) for full in called)
            row = row or bool(called and relation)
            acts = acts or _acting(name)
        return foreign, acts, row

    def _relation(self, schema: str, name: str) -> Relation | None:
        """A relation of the catalog; None for temporary and unknown ones."""
        assert self._catalog is not None
        return self._catalog.relations.get((schema or self._schema(name), name))


def _searched(names: Names | None) -> tuple[str, ...] | None:
    """The path with what the server searches even if the path does not say so: temporary relations, pg_catalog."""
    if names is None or names.path is None:
        return None
    path = names.path
    if "pg_catalog" not in path:
        path = ("pg_catalog", *path)
    if not any(schema.startswith("pg_temp") for schema in path):
        path = ("pg_temp", *path)
    return path


def _own(path: Iterable[str]) -> list[str]:
    """The schemas of a path in which things that are not the server's own can be."""
    return [schema for schema in path if not schema.startswith("pg_") and schema != "information_schema"]


def _acting(name: str) -> bool:
    """Whether a built-in function may write, signal, wait or read files. Names only; errs to True."""
    if name in _ACTING:
        return True
    if not name.startswith(_ACTING_PREFIXES):
        return False
    return not (name.startswith(_LOOKING_PREFIXES) or name.endswith(_LOOKING_SUFFIX))
