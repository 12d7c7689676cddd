"""Statements that are neither queries nor definitions: transactions, settings, cursors, COPY, EXPLAIN, maintenance.

PREPARE, EXECUTE, DECLARE, FETCH and their kin touch what the inner statement touches, and nothing by themselves.
"""

from __future__ import annotations

from muniment.protocols.sql import changes, settings
from muniment.protocols.sql.functions import special
from muniment.protocols.sql.gather import Gather, Handler, Scope
from muniment.protocols.sql.literals import inner_text
from muniment.protocols.sql.nodes import Node, strings
from muniment.protocols.sql.queries import Modify, select
from muniment.protocols.sql.reading import How, Mode, Rows, Use

_WITH_HOLD = 0x20  # CURSOR_OPT_HOLD in parsenodes.h

_TRANSACTIONS = {
    "TRANS_STMT_BEGIN": "begin",
    "TRANS_STMT_START": "begin",
    "TRANS_STMT_COMMIT": "commit",
    "TRANS_STMT_ROLLBACK": "rollback",
    "TRANS_STMT_SAVEPOINT": "savepoint",
    "TRANS_STMT_RELEASE": "release",
    "TRANS_STMT_ROLLBACK_TO": "rollback",
    "TRANS_STMT_PREPARE": "prepare",
    "TRANS_STMT_COMMIT_PREPARED": "commit-prepared",
    "TRANS_STMT_ROLLBACK_PREPARED": "rollback-prepared",
}


def _select(p: Gather, body: Node) -> None:
    p.reads_only = p.by_shape = True
    derived = select(p, body, Scope())
    if derived.into:
        p.copies_rows = p.read > 0
    else:
        p.answers(derived.columns)


def _modify(read: Modify) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        p.by_shape = True
        derived = read(p, body, Scope())
        if body.get("returningList"):
            p.answers(derived.columns)

    return handler


def _transaction(p: Gather, body: Node) -> None:
    verb = _TRANSACTIONS.get(body.get("kind", ""))
    if verb is None:
        p.refuse("a form of transaction control that is not read")
        return
    name = body.get("savepoint_name") or body.get("gid") or "transaction"
    p.use("transaction", verb, name)
    p.reads_only = not verb.endswith("prepared") and verb != "prepare"
    if verb in ("commit", "rollback", "prepare"):
        p.traits.add("transaction-end")
    # A rollback takes back what was SET; of a whole transaction its end tells, unless another begins at once.
    p.changes_names = verb == "rollback" or bool(body.get("chain"))
    for option in body.get("options", ()):
        p.use("setting", "set", str(option.get("DefElem", {}).get("defname", "?")))


def _set(p: Gather, body: Node) -> None:
    p.reads_only = True
    settings.variable(p, body)
    p.reads_only = not p.changes_names


def _discard(p: Gather, body: Node) -> None:
    what = body.get("target", "DISCARD_ALL").removeprefix("DISCARD_").lower()
    p.use("transaction", "discard", what)
    p.changes_names = what in ("all", "temp")
    if what == "all":
        p.traits.add("resets-settings")
        p.forgets += [("prepared", "*"), ("cursor", "*")]


def _prepare(p: Gather, body: Node) -> None:
    """PREPARE runs nothing, but is judged by what it prepares."""
    name = body.get("name", "")
    p.statement(body.get("query", {}))
    p.rest(body, Scope(), "query")
    p.rows, p.outputs, p.by_shape = Rows.NO, None, False
    p.defines = [("prepared", name, _inner(p, "as", 2, body.get("query", {})))]


def _declare(p: Gather, body: Node) -> None:
    name = body.get("portalname", "")
    p.statement(body.get("query", {}))
    p.rows, p.outputs, p.by_shape = Rows.NO, None, False
    p.traits.add("cursor")
    if body.get("options", 0) & _WITH_HOLD:
        p.traits.add("with-hold")
    p.copies_rows = p.copies_rows or p.read > 0
    p.defines = [("cursor", name, _inner(p, "for", 3, body.get("query", {})))]


def _inner(p: Gather, word: str, skip: int, query: Node) -> str:
    """The inner statement's own text, checked to read the same alone."""
    text = inner_text(p.text, word, skip)
    if text is None or not p.same(text, query):
        p.refuse("the text of its inner statement cannot be told")
        return ""
    return text


def _execute(p: Gather, body: Node, mode: Mode = Mode.RUN) -> None:
    name = body.get("name", "")
    p.reads_only = True
    p.rest(body, Scope())
    p.refer("prepared", name, mode)


def _deallocate(p: Gather, body: Node) -> None:
    name = body.get("name") or "*"
    p.reads_only = True
    p.forgets.append(("prepared", name))


def _fetch(p: Gather, body: Node) -> None:
    name = body.get("portalname", "")
    moves = bool(body.get("ismove"))
    p.reads_only = True
    p.traits.add("cursor")
    p.refer("cursor", name, Mode.TOUCHES if moves else Mode.ROWS)


def _close(p: Gather, body: Node) -> None:
    name = body.get("portalname") or "*"
    p.reads_only = True
    p.forgets.append(("cursor", name))


def _copy(p: Gather, body: Node) -> None:
    writes = bool(body.get("is_from"))
    p.traits.add("copy-in" if writes else "copy-out")
    if "query" in body:
        p.statement(body["query"])
        p.rows, p.outputs, p.by_shape = Rows.NO, None, False
        for use in [use for use in p.uses if use.kind == "relation" and use.verb == "select"]:
            p.uses.setdefault(_again(use, "copy"), len(p.uses))
        if "relation" in body:
            p.refuse("a form of COPY that is not read")
    else:
        p.relation("relation", "insert" if writes else "select", body.get("relation", {}))
        p.relation("relation", "copy", body.get("relation", {}))
        p.columns.update(strings(body.get("attlist")) or (["*"] if not writes else []))
    p.copies_rows = not writes
    if body.get("is_program"):
        p.traits.add("program")
        p.use("program", "execute", body.get("filename", ""))
    elif body.get("filename"):
        p.traits.add("file")
        p.use("file", "read" if writes else "write", body["filename"])
    p.reads_only = False
    p.rest(body, Scope(), "query", "relation", "attlist")


def _again(use: Use, verb: str) -> Use:
    return Use(use.kind, verb, use.name, use.schema, use.catalog, use.how, use.sub)


def _explain(p: Gather, body: Node) -> None:
    """EXPLAIN is judged by the statement that it explains; only with ANALYZE does that run."""
    p.traits.add("explain")
    runs = any(_is_on(option.get("DefElem", {}), "analyze") for option in body.get("options", ()))
    inner = body.get("query", {})
    if "ExecuteStmt" in inner:
        _execute(p, inner["ExecuteStmt"], Mode.TOUCHES)
    else:
        p.statement(inner)
    p.defines, p.forgets = [], []
    p.rest(body, Scope(), "query")
    if runs:
        p.traits.add("explain-analyze")
    else:
        p.changes_names = False
    calls = frozenset(index for use, index in p.uses.items() if use.verb == "call")
    p.answers(((None, frozenset(p.columns) | calls),))  # a plan may show what a function made of its arguments
    if p.refers:
        p.outputs = None
    p.by_shape = False


def _is_on(option: Node, name: str) -> bool:
    """Whether a boolean option is on, in any of the spellings that the server takes."""
    if option.get("defname", "").lower() != name:
        return False
    value = option.get("arg")
    if value is None:
        return True
    plain = [str(inner) for body in value.values() for inner in body.values()]
    return not plain or plain[0].lower() not in ("false", "off", "0")


def _lock(p: Gather, body: Node) -> None:
    p.loose = ("relation", "lock")
    p.rest(body, Scope())


def _truncate(p: Gather, body: Node) -> None:
    p.loose = ("table", "truncate")
    p.rest(body, Scope())
    if body.get("behavior") == "DROP_CASCADE":
        p.traits.add("cascade")


def _vacuum(p: Gather, body: Node) -> None:
    verb = "vacuum" if body.get("is_vacuumcmd") else "analyze"
    if not body.get("rels"):
        p.use("database", verb, "", how=How.DATABASE)
    p.loose = ("table", verb)
    p.rest(body, Scope())


def _maintain(kind: str, verb: str) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        if "relation" not in body:
            p.use("database", verb, "", how=How.DATABASE)
        p.loose = (kind, verb)
        p.rest(body, Scope())

    return handler


def _reindex(p: Gather, body: Node) -> None:
    kind = body.get("kind", "").removeprefix("REINDEX_OBJECT_").lower()
    if kind == "index":
        var = body.get("relation", {})
        names = [var.get("catalogname", ""), var.get("schemaname", ""), var.get("relname", "")]
        p.named("index", "reindex", [name for name in names if name])
    elif kind == "table":
        p.relation("table", "reindex", body.get("relation", {}))
    elif kind == "schema":
        p.use("schema", "reindex", body.get("name", ""))
    else:
        p.use("database", "reindex", body.get("name", ""), how=How.FIXED if body.get("name") else How.DATABASE)
    p.rest(body, Scope(), "relation")


def _call(p: Gather, body: Node) -> None:
    """CALL: a procedure can do anything, and whether it answers with a row only the server knows."""
    p.traits.add("procedure")
    call = body.get("funccall", {})
    names = strings(call.get("funcname"))
    p.call(names)
    special(p, names, call.get("args") or [])
    p.rest(call, Scope(), "funcname")
    p.rest(body, Scope(), "funccall")
    p.changes_names = True
    p.rows = Rows.MAYBE


def _do(p: Gather, body: Node) -> None:
    options = [arg.get("DefElem", {}) for arg in body.get("args", ())]
    named = [option.get("arg", {}) for option in options if option.get("defname") == "language"]
    p.use("language", "do", (strings(named) or ["plpgsql"])[0])
    p.opaque("DO runs a text that is not read")


def _load(p: Gather, body: Node) -> None:
    p.use("library", "load", body.get("filename", ""))
    p.traits.add("file")
    p.opaque("LOAD runs native code")


def _channel(verb: str) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        p.use("channel", verb, body.get("conditionname", ""))

    return handler


def _unlisten(p: Gather, body: Node) -> None:
    """UNLISTEN only takes back what the session itself asked for."""
    p.reads_only = True


def _constraints(p: Gather, body: Node) -> None:
    """SET CONSTRAINTS: by name, in whatever schema."""
    p.use("transaction", "constraints", "constraints")
    p.reads_only = True
    p.loose = ("constraint", "set")
    p.rest(body, Scope(), "constraints")


def _checkpoint(p: Gather, body: Node) -> None:
    p.use("server", "checkpoint", "server")


HANDLERS: dict[str, Handler] = {
    "SelectStmt": _select,
    "InsertStmt": _modify(changes.insert),
    "UpdateStmt": _modify(changes.update),
    "DeleteStmt": _modify(changes.delete),
    "MergeStmt": _modify(changes.merge),
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set,
    "VariableShowStmt": settings.show,
    "DiscardStmt": _discard,
    "PrepareStmt": _prepare,
    "ExecuteStmt": _execute,
    "DeallocateStmt": _deallocate,
    "DeclareCursorStmt": _declare,
    "FetchStmt": _fetch,
    "ClosePortalStmt": _close,
    "CopyStmt": _copy,
    "ExplainStmt": _explain,
    "LockStmt": _lock,
    "TruncateStmt": _truncate,
    "VacuumStmt": _vacuum,
    "ClusterStmt": _maintain("table", "cluster"),
    "RefreshMatViewStmt": _maintain("materialized-view", "refresh"),
    "ReindexStmt": _reindex,
    "CallStmt": _call,
    "DoStmt": _do,
    "LoadStmt": _load,
    "ListenStmt": _channel("listen"),
    "UnlistenStmt": _unlisten,
    "NotifyStmt": _channel("notify"),
    "ConstraintsSetStmt": _constraints,
    "CheckPointStmt": _checkpoint,
}
