"""Which columns of a database are protected: patterns of people, resolved over its catalogue.

Every question has a closed answer: what is not known to be harmless is protected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from muniment.model.exchange import Action, Catalog, Relation, Touch

Rules = tuple[tuple[str, tuple[str, ...]], ...]  # class -> globs over schema.table.column

WHOLE_ROW = 0  # the attribute number of a relation as a whole
VIEWS = frozenset("vm")
SYSTEM_SCHEMAS = ("pg_catalog.", "information_schema.", "pg_toast.")
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
WRITES_ONLY = frozenset({"insert", "create"})  # verbs by which a relation is written to and not read from


@dataclass(frozen=True, slots=True)
class Rule:
    """A column's class, and how it is shown; mode empty: as the masks show that class."""

    name: str
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Protected:
    """What is protected in one database.

    exists: whether there are column rules at all. by_column: (relation oid, column number) -> rule, views' columns and
    whole rows included. known: every relation of the catalogue. relations: their names as `schema.name`, the protected
    ones; names: every relation's; words: output names -> class; word_patterns: the same as patterns.
    """

    exists: bool
    by_column: dict[tuple[int, int], Rule]
    known: frozenset[int]
    relations: frozenset[str]
    names: frozenset[str]
    words: dict[str, Rule]
    word_patterns: tuple[tuple[re.Pattern[str], Rule], ...]

    @staticmethod
    def find(rules: Rules, catalog: Catalog | None, earlier: Protected | None) -> Protected:
        """Resolve the rules. earlier: what was protected before this catalogue, under the same rules; it stays so."""
        words: dict[str, Rule] = {}
        patterns: list[tuple[re.Pattern[str], Rule]] = []
        for name, globs in rules:
            for glob in globs:
                word = glob.rpartition(".")[2]
                if not _wild(word):
                    words.setdefault(word, Rule(name))
                elif word.strip("*?"):
                    patterns.append((_pattern((word,)), Rule(name)))
        by_column = _direct(rules, catalog)
        if catalog is None:
            if earlier is not None:
                by_column = earlier.by_column | by_column
            return Protected(bool(rules), by_column, frozenset(), frozenset(), frozenset(), words, tuple(patterns))
        if earlier is not None:
            for column, rule in earlier.by_column.items():
                if column[0] in catalog.by_oid:
                    by_column.setdefault(column, rule)
        for oid, number in list(by_column):
            named = dict(catalog.by_oid[oid].columns).get(number)
            if named is not None:
                words.setdefault(named, by_column[oid, number])
        _spread(by_column, words, catalog)
        for oid in {oid for oid, _ in by_column}:
            by_column.setdefault((oid, WHOLE_ROW), Rule(_first(by_column, oid).name, "redact"))
        relations = frozenset(_name(catalog.by_oid[oid]) for oid, _ in by_column)
        names = frozenset(_name(relation) for relation in catalog.by_oid.values())
        return Protected(bool(rules), by_column, frozenset(catalog.by_oid), relations, names, words, tuple(patterns))

    def by_name(self, word: str) -> Rule | None:
        """The rule for an output or a column of this name whose origin is unknown."""
        rule = self.words.get(word)
        if rule is None:
            for pattern, candidate in self.word_patterns:
                if pattern.fullmatch(word):
                    return candidate
        return rule

    def concerns(self, action: Action) -> bool:
        """Whether an action touches a protected relation, one that cannot be resolved, or names a protected column."""
        if not self.exists:
            return False
        if not action.complete or any(self._why(touch) for touch in action.touches):
            return True
        return any(self.by_name(word) is not None for word in action.columns)

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
        taken = _takes(action)
        if not taken:
            return ""
        if not action.complete:
            return f"{taken}, and what it reads cannot be told"
        for touch in action.touches:
            if touch.verb not in WRITES_ONLY and (why := self._why(touch)):
                return f"{taken}, and {why}"
        return ""

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


def _is_relation(touch: Touch) -> bool:
    return touch.kind in ("relation", "table", "view", "materialized-view", "materialized view", "foreign-table")


def _takes(action: Action) -> str:
    """How an action carries rows to where no mask is; empty when it does not."""
    if "copy-out" in action.traits or ("copy" in action.verbs and "copy-in" not in action.traits):
        return "COPY sends rows that are not masked"
    if "cursor" in action.traits or any(kind == "cursor" for kind, _, _ in action.defines):
        return "a cursor's rows are not masked"
    if action.copies_rows:
        return "it keeps a copy of rows that no mask would find again"
    for touch in action.touches:
        if touch.verb == "notify" or (touch.kind == "function" and touch.name.rpartition(".")[2] == "pg_notify"):
            return "a notification's text is not masked"
    return ""


def _direct(rules: Rules, catalog: Catalog | None) -> dict[tuple[int, int], Rule]:
    """The columns whose own names match."""
    found: dict[tuple[int, int], Rule] = {}
    if catalog is None:
        return found
    compiled = [(Rule(name), _pattern(globs)) for name, globs in rules]
    for relation in catalog.by_oid.values():
        prefix = _name(relation) + "."
        for number, column in relation.columns:
            for rule, pattern in compiled:
                if pattern.fullmatch(prefix + column):
                    found.setdefault((relation.oid, number), rule)
    return found


def _spread(by_column: dict[tuple[int, int], Rule], words: dict[str, Rule], catalog: Catalog) -> None:
    """Protect what is built from protected columns: a view as a whole, of a partition the columns of the same name."""
    touched = {oid for oid, _ in by_column}
    for oid, reached in catalog.depends.items():
        relation = catalog.by_oid.get(oid)
        if relation is None:
            continue
        beneath = sorted(c for c in reached if c in by_column or (c[1] == WHOLE_ROW and c[0] in touched))
        if not beneath:
            continue
        below = [(catalog.by_oid[o], number) for o, number in beneath if o in catalog.by_oid]
        wanted = {dict(r.columns).get(number) for r, number in below}
        for number, column in relation.columns:
            if relation.kind in VIEWS:
                rule = words.get(column) or Rule(_first(by_column, beneath[0][0]).name, "redact")
                by_column.setdefault((oid, number), rule)
            elif column in wanted:
                by_column.setdefault((oid, number), words.get(column) or Rule(_first(by_column, beneath[0][0]).name))


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
