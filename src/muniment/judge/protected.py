"""Which columns of a database are protected: patterns of people, resolved over its catalogue.

Every question has a closed answer: what is not known to be harmless is protected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from muniment.model.exchange import ANYTHING, Action, Catalog, Relation, Touch

Rules = tuple[tuple[str, tuple[str, ...]], ...]  # class -> globs over schema.table.column

WHOLE_ROW = 0  # the attribute number of a relation as a whole
VIEWS = frozenset("vm")
SYSTEM_SCHEMAS = ("pg_catalog.", "information_schema.")  # not pg_toast: long values of every table are in it
# Where the server keeps samples of column values, or pages of large objects, under names that no pattern has.
SAMPLES = frozenset(
    {"pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic", "pg_statistic_ext_data", "pg_largeobject"}
)
# Functions that read a relation which is named in a string, so that the reading shows nothing beneath.
READERS = frozenset(
    {"query_to_xml", "query_to_xml_and_xmlschema", "table_to_xml", "table_to_xml_and_xmlschema", "cursor_to_xml"}
    | {"schema_to_xml", "schema_to_xml_and_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema"}
    | {"ts_stat", "ts_rewrite", "dblink", "dblink_exec", "dblink_open", "dblink_fetch", "dblink_send_query"}
    | {"dblink_get_result", "crosstab", "crosstab2", "crosstab3", "crosstab4", "connectby", "xpath_table"}
    | {"pg_read_file", "pg_read_binary_file", "lo_get", "lo_export", "loread", "get_raw_page", "heap_page_items"}
    | {"pg_logical_slot_get_changes", "pg_logical_slot_peek_changes", "pg_logical_slot_get_binary_changes"}
    | {"pg_logical_slot_peek_binary_changes", "brin_page_items", "bt_page_items", "hash_page_items"}
)
UNRESOLVED = "unresolved"  # the class under which values are counted whose origin could not be told
_CALLED = ("function", "procedure", "aggregate", "operator")
WRITES_ONLY = frozenset({"insert", "create"})  # verbs by which a relation is written to and not read from


@dataclass(frozen=True, slots=True)
class Rule:
    """A column's class, and how it is shown; mode empty: as the masks show that class."""

    name: str
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """The names of columns that the rules give: exact ones, and patterns."""

    exact: dict[str, Rule]
    patterns: tuple[tuple[re.Pattern[str], Rule], ...]

    @staticmethod
    def of(rules: Rules) -> Words:
        """The last parts of the rules' globs. A bare `*` names nothing: its columns are known by their relations."""
        exact: dict[str, Rule] = {}
        patterns: list[tuple[re.Pattern[str], Rule]] = []
        for name, globs in rules:
            for glob in globs:
                word = glob.rpartition(".")[2]
                if not _wild(word):
                    exact.setdefault(word, Rule(name))
                elif word.strip("*?"):
                    patterns.append((_pattern((word,)), Rule(name)))
        return Words(exact, tuple(patterns))

    def rule(self, word: str) -> Rule | None:
        """The rule for a column of this name."""
        rule = self.exact.get(word)
        if rule is None:
            for pattern, candidate in self.patterns:
                if pattern.fullmatch(word):
                    return candidate
        return rule


@dataclass(frozen=True, slots=True)
class Protected:
    """What is protected in one database.

    exists: whether there are column rules at all. by_column: (relation oid, column number) -> rule, views' columns and
    whole rows included. known: every relation of the catalogue, with the number of its last column.
    relations: the protected ones, as `schema.name`, with their columns by name; names: every relation's. words: names
    of columns that the rules themselves give, as they stand there or as patterns: they are protected wherever their
    origin is not known. shipped: functions of extensions.
    """

    exists: bool
    words: Words
    by_column: dict[tuple[int, int], Rule] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)
    relations: dict[str, dict[str, Rule]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    shipped: frozenset[str] = frozenset()

    @staticmethod
    def find(rules: Rules, catalog: Catalog | None, earlier: Protected | None) -> Protected:
        """Resolve the rules. earlier: what was protected before this catalogue, under the same rules; it stays so."""
        words = Words.of(rules)
        if catalog is None:
            return Protected(bool(rules), words, earlier.by_column if earlier is not None else {})
        by_column = _direct(rules, catalog)
        if earlier is not None:
            for column, rule in earlier.by_column.items():
                if column[0] in catalog.by_oid:
                    by_column.setdefault(column, rule)
        _inherit(by_column, catalog)
        _spread(by_column, words, catalog)
        relations: dict[str, dict[str, Rule]] = {}
        for oid in {oid for oid, _ in by_column}:
            by_column.setdefault((oid, WHOLE_ROW), Rule(_first(by_column, oid).name, "redact"))
            relation = catalog.by_oid[oid]
            relations[_name(relation)] = {
                column: by_column[oid, number] for number, column in relation.columns if (oid, number) in by_column
            }
        names = frozenset(_name(relation) for relation in catalog.by_oid.values())
        known = {
            oid: max((number for number, _ in relation.columns), default=0) for oid, relation in catalog.by_oid.items()
        }
        return Protected(bool(rules), words, by_column, known, relations, names, catalog.shipped)

    def named(self, action: Action | None) -> Callable[[str], Rule | None]:
        """What tells the rule for a column's name in a statement, where its origin is not known."""
        local: dict[str, Rule] = {}
        for touch in action.touches if action is not None else ():
            local |= self.relations.get(touch.name, {})
        return lambda word: local.get(word) or self.words.rule(word)

    def unknown(self, action: Action) -> bool:
        """Whether an action touches a relation of which nobody knows what is in it."""
        return any(touch.name not in self.relations and self._why(touch) for touch in action.touches)

    def concerns(self, action: Action) -> bool:
        """Whether an action touches a protected relation, one that cannot be resolved, or names a protected column."""
        if not self.exists:
            return False
        if not action.complete or any(self._why(touch) for touch in action.touches):
            return True
        return any(self.words.rule(word) is not None for word in action.columns)

    def closed(self, action: Action) -> str:
        """Why an action would take protected values where no mask sees them; empty when it would not."""
        if not self.exists:
            return ""
        for touch in action.touches:
            base = touch.name.rpartition(".")[2]
            if touch.kind == "function" and base in READERS:
                return f"{base} can read protected columns where no mask sees them"
            if base in SAMPLES and _is_relation(touch):
                return f"{base} holds values of protected columns"
        taken = self._takes(action)
        if not taken:
            return ""
        if not action.complete:
            return f"{taken}, and what it reads cannot be told"
        for touch in action.touches:
            if touch.verb not in WRITES_ONLY and (why := self._why(touch)):
                return f"{taken}, and {why}"
        if self.calls(action):
            return f"{taken}, and what a function of the database's own gives back may be protected"
        return ""

    def calls(self, action: Action) -> bool:
        """Whether it calls something that is neither the server's own nor an extension's, and may read any relation."""
        return self.exists and any(touch.name not in self.shipped for touch in calls_out(action))

    def _takes(self, action: Action) -> str:
        """How an action carries rows to where no mask is; empty when it does not."""
        if copies_out(action):
            return "COPY sends rows that are not masked"
        if "cursor" in action.traits or any(kind == "cursor" for kind, _, _ in action.defines):
            return "a cursor's rows are not masked"
        if self._keeps_calls(action):
            return "it keeps values that no mask would find again"
        if (action.copies_rows or self._moves(action)) and not self._own_columns_only(action):
            return "it keeps a copy of rows that no mask would find again"
        for touch in action.touches:
            if touch.verb == "notify" or (touch.kind == "function" and touch.name.rpartition(".")[2] == "pg_notify"):
                return "a notification's text is not masked"
        return ""

    def _keeps_calls(self, action: Action) -> bool:
        """Whether what a function gives back may be stored. A trigger's own function is not called by making it."""
        if not self.calls(action):
            return False
        verbs = {touch.verb for touch in action.touches if _is_relation(touch)}
        triggers = any(touch.kind in ("trigger", "event-trigger") for touch in action.touches)
        return bool(verbs & {"insert", "update", "merge", "create"}) or ("alter" in verbs and not triggers)

    def _mentions(self, action: Action) -> bool:
        """Whether a protected column may be read anywhere in the text, by name or with its row."""
        rule = self.named(action)
        return "*" in action.columns or any(rule(word) is not None for word in action.columns)

    def _own_columns_only(self, action: Action) -> bool:
        """Whether it is an UPDATE that reads nothing but columns of its own table, none of them protected."""
        own = all(touch.verb == "update" for touch in action.touches if _is_relation(touch))
        return own and not self._mentions(action)

    def _moves(self, action: Action) -> bool:
        """Whether protected values may go from where they are to another relation, row or column."""
        touches = [touch for touch in action.touches if _is_relation(touch)]
        written = {touch.name for touch in touches if touch.verb in ("insert", "update", "merge", "create")}
        taken = {touch.name for touch in touches if touch.verb not in WRITES_ONLY and self._why(touch)}
        again = {touch.name for touch in touches if touch.verb == "delete"} & taken & written
        altered = any(touch.verb == "alter" and self._why(touch) for touch in touches)
        if not (altered or again or any(one != other for one in written for other in taken)):
            return False
        return self._mentions(action)

    def _why(self, touch: Touch) -> str:
        """Why a touch is of a protected relation; empty when it is not."""
        if not _is_relation(touch):
            return ""
        name = touch.name
        if name in self.relations:
            return f"{name} has protected columns"
        if name in self.names or name.startswith(SYSTEM_SCHEMAS):
            return ""
        if touch.verb == "create":  # it does not exist yet
            return ""
        return f"{name.removeprefix('?.')} is not known to have no protected columns"


def copies_out(action: Action) -> bool:
    """Whether rows leave by COPY, to the client or to a file or program of the target."""
    return "copy-out" in action.traits or ("copy" in action.verbs and "copy-in" not in action.traits)


def calls_out(action: Action) -> list[Touch]:
    """The functions and operators that it calls and that are not the server's own, which may read any relation."""
    return [
        touch
        for touch in action.touches
        if touch.verb == "call" and touch.kind in _CALLED and not touch.name.startswith("pg_catalog.")
    ]


def _is_relation(touch: Touch) -> bool:
    return touch.kind in ("relation", "table", "view", "materialized-view", "materialized view", "foreign-table")


def _direct(rules: Rules, catalog: Catalog) -> dict[tuple[int, int], Rule]:
    """The columns whose own names match."""
    found: dict[tuple[int, int], Rule] = {}
    compiled = [(Rule(name), _pattern(globs)) for name, globs in rules]
    for relation in catalog.by_oid.values():
        prefix = _name(relation) + "."
        for number, column in relation.columns:
            for rule, pattern in compiled:
                if pattern.fullmatch(prefix + column):
                    found.setdefault((relation.oid, number), rule)
    return found


def _inherit(by_column: dict[tuple[int, int], Rule], catalog: Catalog) -> None:
    """A partition or child and its parent show each other's rows: their columns are protected together."""
    pairs = [(child, parent) for child, parents in catalog.inherits.items() for parent in parents]
    pairs += [(parent, child) for child, parent in pairs]
    changed = bool(by_column) and bool(pairs)
    while changed:
        changed = False
        for one, other in pairs:
            from_, to = catalog.by_oid.get(one), catalog.by_oid.get(other)
            if from_ is None or to is None:
                continue
            rules = {name: by_column[one, n] for n, name in from_.columns if (one, n) in by_column}
            for number, name in to.columns:
                if name in rules and (other, number) not in by_column:
                    by_column[other, number] = rules[name]
                    changed = True


def _spread(by_column: dict[tuple[int, int], Rule], words: Words, catalog: Catalog) -> None:
    """Protect each view that reaches a protected column: all its columns, since nobody says which of them holds it."""
    touched = {oid for oid, _ in by_column}
    for oid, reached in catalog.depends.items():
        relation = catalog.by_oid.get(oid)
        if relation is None or relation.kind not in VIEWS:
            continue
        beneath = min((c for c in reached if c in by_column or (c[1] == WHOLE_ROW and c[0] in touched)), default=None)
        if beneath is None and ANYTHING not in reached:
            continue
        rule = Rule(_first(by_column, beneath[0]).name if beneath is not None else UNRESOLVED, "redact")
        for number, column in relation.columns:
            by_column.setdefault((oid, number), words.rule(column) or rule)


def _first(by_column: dict[tuple[int, int], Rule], oid: int) -> Rule:
    """The rule of a relation's first protected column."""
    return by_column[min(column for column in by_column if column[0] == oid)]


def _name(relation: Relation) -> str:
    return f"{relation.schema}.{relation.name}"


def _wild(glob: str) -> bool:
    return "*" in glob or "?" in glob


def _pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """One pattern for several globs: `*` and `?` only, both match dots, case counts."""
    parts = ("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in glob) for glob in globs)
    return re.compile("|".join(f"(?:{part})" for part in parts), re.DOTALL)
