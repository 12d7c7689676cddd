"""SELECT, VALUES and TABLE, at any depth: which relations they read, and what each output column is made of.

Names of columns are followed by name alone, as there is no catalog here: what lies beneath an output is never less than
the truth, and may be more. Source: PostgreSQL manual, SELECT; 7.8 "WITH Queries"; 8.16.5 "Using Composite Types".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

from muniment.protocols.sql import functions
from muniment.protocols.sql.gather import NOTHING, STAR, Columns, Found, Gather, Range, Scope
from muniment.protocols.sql.nodes import Node, strings
from muniment.protocols.sql.reading import How


@dataclass(frozen=True, slots=True)
class Derived:
    """The rows of a query. columns: None where their number or names are not known; whole: everything in it."""

    columns: Columns | None
    whole: Found
    into: bool = False


def select(p: Gather, body: Node, outer: Scope) -> Derived:
    """Read one SELECT, VALUES or set operation."""
    scope = Scope(outer)
    whole = with_clause(p, body.get("withClause"), scope)
    if body.get("op", "SETOP_NONE") != "SETOP_NONE":
        left = select(p, body.get("larg", {}), scope)
        right = select(p, body.get("rarg", {}), scope)
        columns, into = _both(left.columns, right.columns), left.into or right.into
        whole |= left.whole | right.whole
    elif "valuesLists" in body:
        columns, into = _values(p, body["valuesLists"], scope), False
        whole |= _whole(columns)
    else:
        for item in body.get("fromClause", ()):
            whole |= from_item(p, item, scope)
        windows = p.walk(body.get("windowClause", []), scope)
        columns = targets(p, body.get("targetList", []), scope, windows)
        whole |= windows | _whole(columns)
        if columns is None:
            whole |= STAR
        into = False
    whole |= p.rest(
        body, scope, "withClause", "larg", "rarg", "valuesLists", "fromClause", "targetList", "windowClause",
        "intoClause", "lockingClause",
    )  # fmt: skip
    if "intoClause" in body:
        into_clause(p, body["intoClause"], scope, "table")
        into = True
    for clause in body.get("lockingClause", ()):
        _lock(p, clause.get("LockingClause", {}), body, scope)
    return Derived(columns, whole, into)


def into_clause(p: Gather, into: Node, scope: Scope, kind: str) -> None:
    """The relation that SELECT INTO or CREATE TABLE AS makes."""
    p.relation(kind, "create", into.get("rel", {}), how=How.CREATE)
    p.rest(into, scope, "rel")
    p.reads_only = p.by_shape = False
    p.changes_names = True
    p.traits.add("into")
    p.copies_rows = p.copies_rows or p.read > 0


def _whole(columns: Columns | None) -> Found:
    return frozenset().union(*(found for _, found in columns)) if columns else NOTHING


def _both(left: Columns | None, right: Columns | None) -> Columns | None:
    """A set operation's columns: by position, with the left side's names."""
    if left is None or right is None or len(left) != len(right):
        return None
    return tuple((name, one | two) for (name, one), (_, two) in zip(left, right, strict=True))


def _values(p: Gather, lists: list[Node], scope: Scope) -> Columns | None:
    rows = [[p.walk(item, scope) for item in entry.get("List", {}).get("items", [])] for entry in lists]
    if len({len(row) for row in rows}) > 1:
        return None
    columns = zip_longest(*rows, fillvalue=NOTHING)
    return tuple((f"column{nth}", frozenset().union(*cells)) for nth, cells in enumerate(columns, 1))


def targets(p: Gather, nodes: list[Node], scope: Scope, also: Found = NOTHING) -> Columns | None:
    """The output columns of a select list or RETURNING. None: a star whose columns are not known here."""
    columns: list[tuple[str | None, Found]] = []
    known = True
    for node in nodes:
        target = node.get("ResTarget", {})
        value = target.get("val", {})
        starred = _star_of(value)
        if starred is None:
            columns.append((target.get("name") or _name_of(value), p.walk(value, scope) | also))
            p.rest(target, scope, "val")
            continue
        p.walk(value, scope)
        for source in _starred(starred, scope):
            if source.relation or source.columns is None or "ColumnRef" not in value:
                known = False
            else:
                columns.extend((name, found | also) for name, found in source.columns)
    return tuple(columns) if known else None


def _star_of(value: Node) -> list[str] | None:
    """The names before the star of `*`, `a.*`, `s.a.*`; None for anything else. `(expression).*` counts as `*`."""
    fields = value.get("ColumnRef", {}).get("fields", [])
    if fields and "A_Star" in fields[-1]:
        return strings(fields[:-1])
    steps = value.get("A_Indirection", {}).get("indirection", [])
    return [] if any("A_Star" in step for step in steps) else None


def _starred(names: list[str], scope: Scope) -> list[Range]:
    """The ranges that a star stands for. Unknown ones stand for a plain relation: their columns are not known."""
    if not names:
        return scope.ranges or [Range("", ("", ""))]
    for level in scope.levels():
        hits = [source for source in level.ranges if _is(source, names)]
        if hits:
            return hits
    return [Range("", ("", ""))]


def _is(source: Range, names: list[str]) -> bool:
    """Whether `a`, `s.a` or `db.s.a` is this range."""
    if len(names) == 1:
        return source.name == names[0]
    if source.relation is None or source.name != names[-1] or source.relation[1] != names[-1]:
        return False
    return source.relation[0] in ("", names[-2])  # without a schema it may be that of the path


def _name_of(value: Node) -> str | None:
    """The name that the server gives an output column, None where that is not certain."""
    if "ColumnRef" in value:
        return strings(value["ColumnRef"].get("fields"))[-1]
    if "FuncCall" in value:
        names = strings(value["FuncCall"].get("funcname"))
        return names[-1] if names else None
    if "TypeCast" in value:
        inner = value["TypeCast"].get("arg", {})
        return _name_of(inner) if "ColumnRef" in inner or "FuncCall" in inner else None
    return None


# WITH


def with_clause(p: Gather, clause: Node | None, scope: Scope) -> Found:
    """Make the common table expressions of a WITH visible in `scope`, each where the server sees it."""
    if not clause:
        return NOTHING
    entries = [node.get("CommonTableExpr", {}) for node in clause.get("ctes", ())]
    recursive = bool(clause.get("recursive"))
    if recursive:
        for entry in entries:  # a later one may be named by an earlier one: then anything may be in it
            scope.ctes[entry.get("ctename", "")] = Range(entry.get("ctename", ""), None, None, STAR)
    whole = NOTHING
    for entry in entries:
        name = entry.get("ctename", "")
        if recursive:
            scope.ctes[name] = Range(name, None, None, NOTHING)  # what it reads of itself is in the whole anyway
        derived = query(p, entry.get("ctequery", {}), scope)
        everything = derived.whole | p.rest(entry, scope, "ctequery", "aliascolnames")
        columns = derived.columns
        if columns is not None and recursive:
            columns = tuple((column, everything) for column, _ in columns)
        if "search_clause" in entry or "cycle_clause" in entry:
            columns = None
        source = Range(name, None, columns, everything)
        scope.ctes[name] = _aliased(source, name, strings(entry.get("aliascolnames")))
        whole |= everything
    return whole


def query(p: Gather, node: Node, scope: Scope) -> Derived:
    """Read a query or a data-modifying statement with RETURNING that stands inside another statement."""
    if "SelectStmt" in node:
        return select(p, node["SelectStmt"], scope)
    for kind, body in node.items():
        modify = MODIFYING.get(kind)
        if modify is not None:
            return modify(p, body, scope)
        p.refuse(f"{kind} is not read inside a statement")
    return Derived(None, STAR)


Modify = Callable[[Gather, Node, Scope], Derived]
MODIFYING: dict[str, Modify] = {}
"""INSERT, UPDATE, DELETE, MERGE: filled by `changes`, which builds on this module."""


# FROM


def from_item(p: Gather, node: Node, scope: Scope) -> Found:
    """Read one entry of FROM and add it to the scope."""
    for kind, body in node.items():
        if kind == "RangeVar":
            return table(p, body, scope, "select")
        if kind == "RangeSubselect":
            derived = query(p, body.get("subquery", {}), Scope(scope))
            return _add(scope, body, Range("", None, derived.columns, derived.whole))
        if kind in ("RangeFunction", "RangeTableFunc", "JsonTable"):
            whole = p.node(kind, body, scope) if kind == "JsonTable" else p.rest(body, scope, "alias")
            return _add(scope, body, Range(_function_name(body), None, None, whole))
        if kind == "RangeTableSample":
            return from_item(p, body.get("relation", {}), scope) | p.node(kind, body, scope)
        if kind == "JoinExpr":
            return _join(p, body, scope)
        p.refuse(f"{kind} in FROM is not read")
    return NOTHING


def table(p: Gather, var: Node, scope: Scope, *verbs: str) -> Found:
    """A relation or common table expression by name. Verbs: what is done to it; none: it is only a target."""
    schema, name = var.get("schemaname", ""), var.get("relname", "")
    cte = scope.cte(name) if not schema and verbs == ("select",) else None
    if cte is not None:
        return _add(scope, var, Range(name, None, cte.columns, cte.whole))
    for verb in verbs:
        p.relation("relation", verb, var)
        p.read += verb == "select"
    return _add(scope, var, Range(name, (schema, name)))


def _add(scope: Scope, body: Node, source: Range) -> Found:
    alias = body.get("alias", {})
    scope.ranges.append(_aliased(source, alias.get("aliasname", source.name), strings(alias.get("colnames"))))
    return source.whole


def _aliased(source: Range, name: str, columns: list[str]) -> Range:
    """A range under another name, its first columns renamed."""
    if source.relation:
        return Range(name, source.relation, renamed=bool(columns))
    if not columns or source.columns is None:
        return Range(name, None, source.columns, source.whole)
    renamed = tuple(
        (columns[nth] if nth < len(columns) else old, found) for nth, (old, found) in enumerate(source.columns)
    )
    return Range(name, None, renamed, source.whole)


def _function_name(body: Node) -> str:
    """The name of a function in FROM without an alias."""
    entries = body.get("functions", [])
    items = entries[0].get("List", {}).get("items", []) if len(entries) == 1 else []
    names = strings(items[0].get("FuncCall", {}).get("funcname")) if items else []
    return names[-1] if names else ""


def _join(p: Gather, body: Node, scope: Scope) -> Found:
    first = len(scope.ranges)
    whole = from_item(p, body.get("larg", {}), scope) | from_item(p, body.get("rarg", {}), scope)
    joined = scope.ranges[first:]
    p.columns.update(strings(body.get("usingClause")))
    found = whole | p.rest(body, scope, "larg", "rarg", "usingClause", "alias", "join_using_alias")
    row = frozenset().union(*(source.row for source in joined)) if joined else NOTHING
    for alias in (body.get("alias"), body.get("join_using_alias")):
        if alias:
            scope.ranges.append(Range(alias.get("aliasname", ""), None, None, row))
    return found


def _lock(p: Gather, clause: Node, body: Node, scope: Scope) -> None:
    """FOR UPDATE and its kin lock rows of the relations of this level, and of the queries in its FROM."""
    p.reads_only = False
    p.traits.add("row-lock")
    wanted = {var.get("RangeVar", {}).get("relname", "") for var in clause.get("lockedRels", ())}
    for item in body.get("fromClause", ()):
        for alias, var in _tables(item):
            known_cte = not var.get("schemaname") and scope.cte(var.get("relname", "")) is not None
            if not known_cte and (not wanted or alias in wanted):
                p.relation("relation", "lock", var)


def _tables(node: object, alias: str = "") -> list[tuple[str, Node]]:
    """Every RangeVar beneath an entry of FROM, under the alias of the outermost thing that it is in."""
    if isinstance(node, list):
        return [pair for item in node for pair in _tables(item, alias)]
    if not isinstance(node, dict):
        return []
    found: list[tuple[str, Node]] = []
    for kind, body in node.items():
        if kind == "RangeVar":
            own = body.get("alias", {}).get("aliasname") or body.get("relname", "")
            found.append((alias or own, body))
        elif kind == "RangeSubselect":
            found.extend(_tables(body.get("subquery"), alias or body.get("alias", {}).get("aliasname", "?")))
        else:
            found.extend(_tables(body, alias))
    return found


# expressions


def column(p: Gather, body: Node, scope: Scope) -> Found:
    """A ColumnRef: what the column, or the whole row that it may be, is made of."""
    fields = body.get("fields", [])
    names = strings(fields)
    if fields and "A_Star" in fields[-1]:
        p.columns.add("*")
        return frozenset().union(*(source.row for source in _starred(names[:-1], scope)))
    if not names or len(names) != len(fields):
        p.refuse("a column's name that is not read")
        return STAR
    p.columns.add(names[-1])
    if len(names) == 1:
        return _bare(p, names[0], scope)
    return _qualified(p, names, scope)


def _bare(p: Gather, name: str, scope: Scope) -> Found:
    found: Found = frozenset({name})
    for level in scope.levels():
        for source in level.ranges:
            if source.name == name:
                found |= source.row
                if "*" in source.row:
                    p.columns.add("*")
            found |= source.column(name) or NOTHING
    return found


def _qualified(p: Gather, names: list[str], scope: Scope) -> Found:
    name, path = names[-1], names[:-1]
    for level in scope.levels():
        hits = [source for source in level.ranges if _is(source, path)]
        if not hits:
            continue
        found: Found = frozenset({name})
        for source in hits:
            if source.relation and not source.renamed:
                p.fields[(*source.relation, name)] = None
            elif not source.has(name):
                _field(p, name, [])
            found |= source.column(name) or source.row
        return found
    _field(p, name, [])
    return frozenset({name, "*"})


def _field(p: Gather, name: str, args: list[Node]) -> None:
    """`x.name` is name(x) where x has no such column, whatever the function: `('/etc/passwd'::text).pg_read_file`."""
    p.fields["", "", name] = None
    functions.special(p, [name], args)


def indirection(p: Gather, body: Node, scope: Scope) -> Found:
    """`(expression).field`, `(expression).*`, subscripts."""
    found = p.rest(body, scope)
    for step in body.get("indirection", ()):
        for name in strings([step]):
            p.columns.add(name)
            if name != "*":
                _field(p, name, [body.get("arg", {})])
                found |= {name}
            elif not ("FuncCall" in body.get("arg", {}) or "A_Const" in body.get("arg", {})):
                found |= STAR
    return found


def sublink(p: Gather, body: Node, scope: Scope) -> Found:
    """A query in an expression: everything in it is beneath."""
    derived = query(p, body.get("subselect", {}), scope)
    return derived.whole | p.operator(body.get("operName")) | p.rest(body, scope, "subselect", "operName")


def nested(p: Gather, body: Node, scope: Scope) -> Found:
    """A SELECT where a node stands alone: JSON_ARRAY(SELECT ...), rules, function bodies."""
    return select(p, body, scope).whole


def loose(p: Gather, body: Node, scope: Scope) -> Found:
    """A relation outside of any FROM."""
    p.relation(*p.loose, body)
    return NOTHING
