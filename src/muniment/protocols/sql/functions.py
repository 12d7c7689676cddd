"""Calls of functions, and those among PostgreSQL's own that do more than compute from what they are given."""

from __future__ import annotations

from collections.abc import Callable

from muniment.protocols.sql.gather import NOTHING, Found, Gather, Scope, Walker
from muniment.protocols.sql.nodes import Node, constant, strings, words
from muniment.protocols.sql.reading import How
from muniment.protocols.sql.settings import set_value

# They run a text, or read a relation, that they are given as a value. Of extensions too: in whatever schema.
RUN_TEXT = words(
    """
    query_to_xml query_to_xmlschema query_to_xml_and_xmlschema cursor_to_xml cursor_to_xmlschema table_to_xml
    table_to_xmlschema table_to_xml_and_xmlschema schema_to_xml schema_to_xmlschema schema_to_xml_and_xmlschema
    database_to_xml database_to_xmlschema database_to_xml_and_xmlschema ts_stat ts_rewrite crosstab crosstab2 crosstab3
    crosstab4 crosstabN connectby xpath_table dblink dblink_exec dblink_open dblink_fetch dblink_close
    dblink_connect dblink_connect_u dblink_send_query dblink_get_result dblink_build_sql_insert
    dblink_build_sql_delete dblink_build_sql_update plperl_call_handler plpgsql_call_handler plpgsql_inline_handler
    pg_logical_slot_get_changes pg_logical_slot_peek_changes pg_logical_slot_get_binary_changes
    pg_logical_slot_peek_binary_changes binary_upgrade_create_empty_extension
    """
)

READ_FILES = words(
    """
    pg_read_file pg_read_file_old pg_read_binary_file pg_stat_file pg_ls_dir pg_ls_logdir pg_ls_waldir pg_ls_tmpdir
    pg_ls_archive_statusdir pg_ls_logicalsnapdir pg_ls_logicalmapdir pg_ls_replslotdir pg_ls_summariesdir
    pg_current_logfile pg_logdir_ls
    """
)
WRITE_FILES = words("pg_file_write pg_file_rename pg_file_unlink pg_file_sync lo_export")

LARGE_OBJECTS = {
    **dict.fromkeys(words("lo_get loread lo_open lo_lseek lo_lseek64 lo_tell lo_tell64 lo_close lo_export"), "select"),
    **dict.fromkeys(words("lo_put lowrite lo_truncate lo_truncate64"), "update"),
    **dict.fromkeys(words("lo_creat lo_create lo_from_bytea lo_import"), "create"),
    "lo_unlink": "drop",
}

REMEMBERS = words(
    """
    pg_advisory_lock pg_advisory_lock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_lock
    pg_try_advisory_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared setseed
    pg_logical_emit_message pg_create_restore_point pg_replication_origin_create
    """
)

SEQUENCES = {"nextval": "update", "setval": "update", "currval": "select", "pg_sequence_last_value": "select"}

UNKNOWN = "?.unknown"  # a name that is only known when the statement runs: matches nothing but "*"


def call(p: Gather, body: Node, scope: Scope) -> Found:
    """A function call anywhere in an expression. Source: PostgreSQL manual, 4.2.6 "Function Calls"."""
    names = strings(body.get("funcname"))
    found = p.call(names)
    if len(body.get("args", ())) == 1 and names:
        found |= {names[-1]}  # column(row) is the same as row.column
    found |= p.rest(body, scope, "funcname")
    special(p, names, body.get("args") or [])
    return found


def special(p: Gather, names: list[str], args: list[Node]) -> None:
    """What a function of the server's own does besides: by its name, wherever it may be found."""
    name = names[-1] if names else ""
    if name in RUN_TEXT:
        p.opaque(f"{name} runs a text that it is given")
    if len(names) > 1 and names[-2] != "pg_catalog":
        return
    special_call = _SPECIAL.get(name)
    if special_call is not None:
        p.by_shape = False
        special_call(p, name, args)


def _set_config(p: Gather, name: str, args: list[Node]) -> None:
    setting = constant(args[0]) if len(args) == 3 and all("NamedArgExpr" not in arg for arg in args) else None
    if setting is None:
        p.opaque("set_config of a setting that only the run shows")
        p.use("setting", "set", UNKNOWN)
        return
    p.reads_only = False
    p.copies_rows = p.copies_rows or _keeps(args[1])
    set_value(p, setting.lower(), constant(args[1]), local=args[2].get("A_Const", {}).get("boolval") != {})


def _remembers(p: Gather, name: str, args: list[Node]) -> None:
    """Functions whose argument can be seen elsewhere afterwards: in pg_locks, by random(), in the log of changes."""
    p.reads_only = False
    p.copies_rows = p.copies_rows or any(_keeps(arg) for arg in args)


def _keeps(node: Node) -> bool:
    """Whether a value that is kept somewhere may come from a row: it is neither a constant nor a parameter."""
    return constant(node) is None and "A_Const" not in node and "ParamRef" not in node


def _current_setting(p: Gather, name: str, args: list[Node]) -> None:
    setting = constant(args[0]) if args else None
    p.use("setting", "show", setting.lower() if setting is not None else UNKNOWN)


def _sequence(p: Gather, name: str, args: list[Node]) -> None:
    p.reads_only = p.reads_only and name not in ("nextval", "setval")
    p.copies_rows = p.copies_rows or any(_keeps(arg) for arg in args[1:2])
    parts = split_name(constant(args[0])) if args else None
    if parts is None:
        p.use("sequence", SEQUENCES[name], UNKNOWN)
    else:
        p.named("sequence", SEQUENCES[name], parts, how=How.RELATION)


def _file(p: Gather, name: str, args: list[Node]) -> None:
    p.traits.add("file")
    verb = "write" if name in WRITE_FILES else "read"
    which = 1 if name == "lo_export" else 0
    path = constant(args[which]) if len(args) > which else None
    p.use("file", verb, path if path is not None else UNKNOWN)
    if verb == "write":
        p.reads_only = False
        p.copies_rows = True
    if name == "lo_export":
        _large_object(p, name, args)


def _large_object(p: Gather, name: str, args: list[Node]) -> None:
    p.traits.add("large-object")
    p.reads_only = False
    p.copies_rows = p.copies_rows or any(_keeps(arg) for arg in args[1:])
    number = args[0].get("A_Const", {}).get("ival", {}).get("ival") if args and name != "lo_import" else None
    p.use("large-object", LARGE_OBJECTS[name], str(number) if number is not None else UNKNOWN)
    if name == "lo_import":
        p.traits.add("file")
        path = constant(args[0]) if args else None
        p.use("file", "read", path if path is not None else UNKNOWN)


def _notify(p: Gather, name: str, args: list[Node]) -> None:
    p.reads_only = False
    channel = constant(args[0]) if args else None
    p.use("channel", "notify", channel if channel is not None else UNKNOWN)


_SPECIAL: dict[str, Callable[[Gather, str, list[Node]], None]] = {
    "set_config": _set_config,
    "current_setting": _current_setting,
    "pg_notify": _notify,
    **dict.fromkeys(REMEMBERS, _remembers),
    **dict.fromkeys(SEQUENCES, _sequence),
    **dict.fromkeys(LARGE_OBJECTS, _large_object),
    **dict.fromkeys(READ_FILES | WRITE_FILES, _file),
}


def split_name(text: str | None) -> list[str] | None:
    """The parts of a name in a string, as the server takes `nextval('a."B"')` apart; None: not a name."""
    if not text or len(text) > 200:
        return None
    parts: list[str] = []
    rest = text.strip()
    while True:
        if rest.startswith('"'):
            end = 1
            while True:
                end = rest.find('"', end)
                if end < 0:
                    return None
                if rest[end : end + 2] != '""':
                    break
                end += 2
            part, rest = rest[1:end].replace('""', '"'), rest[end + 1 :].lstrip()
        else:
            end = next((at for at, char in enumerate(rest) if char == "." or char.isspace()), len(rest))
            part, rest = rest[:end], rest[end:].lstrip()
            if not part.isascii() or not part.replace("_", "a").replace("$", "a").isalnum():
                return None  # the server folds by its own rules; only plain names are certain
            part = part.lower()
        if not part:
            return None
        parts.append(part)
        if not rest:
            return parts if len(parts) <= 3 else None
        if not rest.startswith("."):
            return None
        rest = rest[1:].lstrip()


_JSON_OPERATIONS = {
    "JSON_EXISTS_OP": "json_exists",
    "JSON_QUERY_OP": "json_query",
    "JSON_VALUE_OP": "json_value",
    "JSON_TABLE_OP": "json_table",
}
_NEW_WORDS = {
    "JsonParseExpr": "json",
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
    "JsonTable": "json_table",
    "JsonObjectConstructor": "json_object",
    "JsonArrayConstructor": "json_array",
    "JsonArrayQueryConstructor": "json_array",
    "JsonObjectAgg": "json_objectagg",
    "JsonArrayAgg": "json_arrayagg",
    "MergeSupportFunc": "merge_action",
}


def new_word(kind: str) -> Walker:
    """What is syntax to our grammar and a plain function call to an older server, if it has such a function."""

    def walker(p: Gather, body: Node, scope: Scope) -> Found:
        name = _NEW_WORDS.get(kind) or _JSON_OPERATIONS.get(body.get("op", ""), "json_value")
        index = p.use("function", "call", name, how=How.PERHAPS)
        return frozenset({index}) | p.rest(body, scope)

    return walker


NEW_WORDS = {kind: new_word(kind) for kind in (*_NEW_WORDS, "JsonFuncExpr")}


def operator(p: Gather, body: Node, scope: Scope) -> Found:
    """An operator expression: what it is made of, and the operator where it is somebody's own."""
    return p.operator(body.get("name")) | p.rest(body, scope, "name")


def sample(p: Gather, body: Node, scope: Scope) -> Found:
    """The method of a TABLESAMPLE is a function too. The relation itself is read by its FROM."""
    return p.call(strings(body.get("method"))) | p.rest(body, scope, "method", "relation")


def sort(p: Gather, body: Node, scope: Scope) -> Found:
    """ORDER BY ... USING operator."""
    return p.operator(body.get("useOp")) | p.rest(body, scope, "useOp")


def unread(p: Gather, body: Node, scope: Scope) -> Found:
    """A node that only a statement's own reader may meet."""
    p.refuse("a part of it stands where it is not read")
    return NOTHING
