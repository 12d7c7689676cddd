"""INSERT, UPDATE, DELETE and MERGE, alone or inside WITH."""

from __future__ import annotations

from muniment.protocols.sql.gather import NOTHING, Found, Gather, Range, Scope
from muniment.protocols.sql.nodes import Node, strings
from muniment.protocols.sql.queries import MODIFYING, Derived, from_item, query, table, targets, with_clause

_COMMANDS = {"CMD_INSERT": "insert", "CMD_UPDATE": "update", "CMD_DELETE": "delete"}


def insert(p: Gather, body: Node, outer: Scope) -> Derived:
    """INSERT. Rows that it reads elsewhere, or copies between columns, count as copied."""
    scope, target, whole = _target(p, body, outer, "insert")
    reads = p.read
    source = query(p, body["selectStmt"], Scope(_without(scope))).whole if "selectStmt" in body else NOTHING
    p.copies_rows = p.copies_rows or p.read > reads
    _columns(p, body.get("cols", []), scope)
    conflict = body.get("onConflictClause", {})
    if conflict:
        scope.ranges.append(Range("excluded", target.relation))
        if conflict.get("targetList"):
            p.relation("relation", "update", body.get("relation", {}))
        found = _set(p, conflict.get("targetList", []), scope, alone=("", target.name, "excluded"))
        whole |= found | p.rest(conflict, scope, "targetList")
        del scope.ranges[-1]
    rest = p.rest(body, scope, "relation", "withClause", "selectStmt", "cols", "onConflictClause", "returningList")
    return _returning(p, body, scope, target, whole | source | rest)


def update(p: Gather, body: Node, outer: Scope) -> Derived:
    """UPDATE, and whether its WHERE says which rows."""
    scope, target, whole = _target(p, body, outer, "update")
    reads = p.read
    for item in body.get("fromClause", ()):
        whole |= from_item(p, item, scope)
    whole |= _set(p, body.get("targetList", []), scope, alone=("", target.name))
    whole |= p.walk(body.get("whereClause"), scope)
    set_reads = "fromClause" in body and p.read > reads
    p.copies_rows = p.copies_rows or set_reads
    _where(p, body.get("whereClause"), target)
    rest = p.rest(body, scope, "relation", "withClause", "fromClause", "targetList", "whereClause", "returningList")
    return _returning(p, body, scope, target, whole | rest)


def delete(p: Gather, body: Node, outer: Scope) -> Derived:
    """DELETE, and whether its WHERE says which rows."""
    scope, target, whole = _target(p, body, outer, "delete")
    for item in body.get("usingClause", ()):
        whole |= from_item(p, item, scope)
    _where(p, body.get("whereClause"), target)
    whole |= p.rest(body, scope, "relation", "withClause", "usingClause", "returningList")
    return _returning(p, body, scope, target, whole)


def merge(p: Gather, body: Node, outer: Scope) -> Derived:
    """MERGE: one verb for itself and one for each thing that it may do."""
    scope, target, whole = _target(p, body, outer, "merge")
    reads = p.read
    whole |= from_item(p, body.get("sourceRelation", {}), scope)
    copies = p.read > reads
    condition = body.get("joinCondition")
    whole |= p.walk(condition, scope)
    for node in body.get("mergeWhenClauses", ()):
        clause = node.get("MergeWhenClause", {})
        command = clause.get("commandType", "")
        verb = _COMMANDS.get(command)
        if verb:
            p.relation("relation", verb, body.get("relation", {}))
        elif command != "CMD_NOTHING":
            p.refuse("a form of MERGE that is not read")
        if verb in ("update", "insert"):
            p.copies_rows = p.copies_rows or copies
        if verb in ("update", "delete") and _constant(condition, target) and _constant(clause.get("condition"), target):
            p.traits.update(("no-where", "constant-where"))
        if verb == "insert":
            _columns(p, clause.get("targetList", []), scope)
        else:
            whole |= _set(p, clause.get("targetList", []), scope, alone=("", target.name))
        whole |= p.rest(clause, scope, "targetList")
    rest = p.rest(
        body, scope, "relation", "withClause", "sourceRelation", "joinCondition", "mergeWhenClauses", "returningList"
    )
    return _returning(p, body, scope, target, whole | rest)


def _target(p: Gather, body: Node, outer: Scope, verb: str) -> tuple[Scope, Range, Found]:
    """The scope of a statement that changes rows, with its target in it. A WITH never hides the target."""
    p.reads_only = False
    scope = Scope(outer)
    whole = with_clause(p, body.get("withClause"), scope)
    table(p, body.get("relation", {}), scope, verb)
    return scope, scope.ranges[-1], whole


def _without(scope: Scope) -> Scope:
    """The scope of the query that INSERT reads: it does not see the target."""
    return Scope(scope.outer, scope.ctes)


def _columns(p: Gather, nodes: list[Node], scope: Scope) -> None:
    """The columns that INSERT names."""
    for node in nodes:
        target = node.get("ResTarget", {})
        p.columns.add(target.get("name", ""))
        p.rest(target, scope)


def _set(p: Gather, nodes: list[Node], scope: Scope, alone: tuple[str, ...]) -> Found:
    """SET column = expression, ... An expression over anything but the column itself copies data between columns.

    alone: the ranges whose column of the same name is the column itself.
    """
    whole = NOTHING
    for node in nodes:
        target = node.get("ResTarget", {})
        name = target.get("name", "")
        value = target.get("val", {})
        p.columns.add(name)
        before = p.read
        whole |= p.walk(value, scope) | p.rest(target, scope, "val")
        if p.read > before or any(not _itself(fields, name, alone) for fields in _refs(value)):
            p.copies_rows = True
    return whole


def _itself(fields: list[str], name: str, alone: tuple[str, ...]) -> bool:
    if fields[0] == "excluded" and "excluded" in alone:
        return True  # what the client sent a moment ago
    return fields[-1] == name and (len(fields) == 1 or fields[-2] in alone)


def _refs(node: object) -> list[list[str]]:
    """Every column reference beneath a node, as its parts; a star as "*"."""
    if isinstance(node, list):
        return [ref for item in node for ref in _refs(item)]
    if not isinstance(node, dict):
        return []
    found: list[list[str]] = []
    for kind, body in node.items():
        if kind == "ColumnRef":
            found.append(strings(body.get("fields")) or ["*"])
        else:
            found.extend(_refs(body))
    return found


def _where(p: Gather, where: Node | None, target: Range) -> None:
    if where is None:
        p.traits.add("no-where")
    elif _constant(where, target):
        p.traits.update(("no-where", "constant-where"))


def _constant(where: Node | None, target: Range) -> bool:
    """Whether a condition is the same for every row of the target, as far as its form shows it."""
    if not where:
        return True
    if "CurrentOfExpr" in where:
        return False
    if "BoolExpr" in where:
        args = [_constant(arg, target) for arg in where["BoolExpr"].get("args", ())]
        return any(args) if where["BoolExpr"].get("boolop") == "OR_EXPR" else all(args)
    if "A_Expr" in where:
        left, right = where["A_Expr"].get("lexpr", {}), where["A_Expr"].get("rexpr", {})
        if "ColumnRef" in left and _refs(left) == _refs(right) and "ColumnRef" in right:
            return True
    return not any(len(fields) == 1 or fields[-2] == target.name for fields in _refs(where))


def _returning(p: Gather, body: Node, scope: Scope, target: Range, whole: Found) -> Derived:
    """RETURNING reads the target: its columns need the right to select, here as at the server."""
    nodes = body.get("returningList")
    if not nodes:
        return Derived((), whole)
    scope.ranges.extend((Range("old", target.relation), Range("new", target.relation)))
    if _refs(nodes):
        p.relation("relation", "select", body.get("relation", {}))
    columns = targets(p, nodes, scope)
    found = frozenset().union(*(found for _, found in columns)) if columns is not None else frozenset({"*"})
    return Derived(columns, whole | found)


MODIFYING.update(InsertStmt=insert, UpdateStmt=update, DeleteStmt=delete, MergeStmt=merge)
