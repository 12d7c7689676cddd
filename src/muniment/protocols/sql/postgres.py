"""Reads PostgreSQL's SQL with PostgreSQL's own parser. The one home of `pgparse`.

The parser is native code that hostile text can crash: `services.reading` runs this in a helper process.
"""

from __future__ import annotations

from typing import Any

import pgparse

from muniment.protocols.sql import commands, definitions, functions, queries
from muniment.protocols.sql.gather import Gather, Walker
from muniment.protocols.sql.nodes import Node
from muniment.protocols.sql.reading import Part, Reading

READER = "postgres-17/1"  # the grammar's version and that of what we make of it; recorded with every reading
MAX_STATEMENT_BYTES = 64 << 10  # the parser recurses: at 128 KB of 1+1+... it runs off its stack
MAX_STATEMENTS = 500  # in one text; more is no program's way of working

_WALKERS: dict[str, Walker] = {
    "FuncCall": functions.call,
    "A_Expr": functions.operator,
    "SortBy": functions.sort,
    "RangeTableSample": functions.sample,
    "ColumnRef": queries.column,
    "A_Indirection": queries.indirection,
    "SubLink": queries.sublink,
    "SelectStmt": queries.nested,
    "RangeVar": queries.loose,
    "Constraint": definitions.constraint,
    "TableLikeClause": definitions.like,
    **functions.NEW_WORDS,
}
_HANDLERS = {**commands.HANDLERS, **definitions.HANDLERS}


def read(text: str) -> Reading:
    """What the text does, statement by statement. Total: what cannot be read says why.

    text: as the server will parse it; more than 64 KB is not read. Cost: 30 to 100 us for a usual statement.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return Reading(why="the statement is not valid UTF-8")
    if len(data) > MAX_STATEMENT_BYTES:
        return Reading(why=f"the statement is longer than {MAX_STATEMENT_BYTES >> 10} KB")
    if b"\0" in data:
        return Reading(why="the statement holds a NUL")
    try:
        statements = _parse(text)
        if len(statements) > MAX_STATEMENTS:
            return Reading(why=f"the text holds more than {MAX_STATEMENTS} statements")
        return Reading(tuple(_part(data, statement) for statement in statements))
    except pgparse.PGQueryError as error:
        return Reading(why=f"PostgreSQL's parser cannot read it: {_safe(error)}")
    except RecursionError:
        return Reading(why="the statement is nested too deeply")


def _safe(error: pgparse.PGQueryError) -> str:
    """Where the parser stopped. Its message quotes the text, which may hold data."""
    position = getattr(error, "position", None)
    return f"syntax error at character {position}" if isinstance(position, int) else "syntax error"


def _parse(text: str) -> list[Node]:
    parsed: Any = pgparse.parse(text)
    return parsed if isinstance(parsed, list) else []


def _part(data: bytes, statement: Node) -> Part:
    start = statement.get("stmt_location", 0)
    length = statement.get("stmt_len", 0)
    own = data[start : start + length] if length else data[start:]
    gather = Gather(own.decode(errors="replace"), _WALKERS, _HANDLERS, _same)
    gather.statement(statement.get("stmt", {}))
    return gather.part()


def _same(text: str, node: Node) -> bool:
    """Whether a text is one statement that parses to this node, places aside."""
    try:
        statements = _parse(text)
    except pgparse.PGQueryError:
        return False
    return len(statements) == 1 and _placeless(statements[0].get("stmt")) == _placeless(node)


def _placeless(node: Any) -> Any:
    if isinstance(node, list):
        return [_placeless(item) for item in node]
    if isinstance(node, dict):
        return {key: _placeless(value) for key, value in node.items() if not key.endswith("location")}
    return node
