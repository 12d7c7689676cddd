"""SET, RESET and their kin: which settings change how a text is read, and which change what names mean."""

from __future__ import annotations

from muniment.protocols.sql.gather import NOTHING, Gather
from muniment.protocols.sql.nodes import Node, words

# Settings that change how a text is read, and the values under which our reading is the server's. They are pinned at
# login; anything else is refused. LATIN and SQL_ASCII keep ASCII bytes as they are, so that no quote can hide.
# client_encoding -> how its texts are read; a session keeps the one that it was opened with.
CODECS = {"utf8": "utf-8", "unicode": "utf-8", "sqlascii": "ascii"}
CODECS |= {f"latin{n}": f"iso8859-{part}" for n, part in enumerate((1, 2, 3, 4, 9, 10, 13, 14, 15, 16), 1)}
CODECS |= {f"iso8859{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 9)}
PINNED = {
    "standard_conforming_strings": words("on true yes 1 tru tr t ye y"),
    "backslash_quote": words("safe_encoding off"),
    "client_encoding": frozenset(CODECS),
}

# Setting these leaves names, rights and the reading of texts alone. All others count as a change of names.
LEAVES_NAMES = words(
    """
    application_name bytea_output client_min_messages constraint_exclusion cpu_index_tuple_cost cpu_operator_cost
    cpu_tuple_cost cursor_tuple_fraction datestyle deadlock_timeout debug_print_plan default_statistics_target
    default_transaction_deferrable default_transaction_isolation default_transaction_read_only
    effective_cache_size effective_io_concurrency enable_async_append enable_bitmapscan enable_gathermerge
    enable_hashagg enable_hashjoin enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material
    enable_memoize enable_mergejoin enable_nestloop enable_parallel_append enable_parallel_hash
    enable_partition_pruning enable_partitionwise_aggregate enable_partitionwise_join enable_seqscan enable_sort
    enable_tidscan extra_float_digits force_parallel_mode from_collapse_limit geqo hash_mem_multiplier
    idle_in_transaction_session_timeout idle_session_timeout intervalstyle jit jit_above_cost join_collapse_limit
    lc_messages lc_monetary lc_numeric lc_time lock_timeout log_min_duration_statement maintenance_work_mem
    max_parallel_workers_per_gather parallel_leader_participation parallel_setup_cost parallel_tuple_cost
    plan_cache_mode random_page_cost seed seq_page_cost standard_conforming_strings client_encoding backslash_quote
    statement_timeout synchronous_commit tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval
    tcp_user_timeout temp_buffers timezone transaction_deferrable transaction_isolation transaction_read_only
    transaction_timeout work_mem xmlbinary xmloption
    """
)


def set_value(p: Gather, name: str, value: str | None, *, local: bool = False, verb: str = "set") -> None:
    """A setting gets a value; None: one that only the run shows. Sets traits, names and completeness."""
    plain = "" if value is None else value.lower()
    if name == "client_encoding":
        plain = "".join(char for char in plain if char.isalnum())
        p.use("setting", verb, name, sub=plain)
    else:
        p.use("setting", verb, name)
    if local:
        p.traits.add("local-setting")
    if name not in LEAVES_NAMES:
        p.changes_names = True
    if name in PINNED and plain not in PINNED[name]:
        _pinned(p, name)
    if name in ("role", "session_authorization"):
        p.traits.add("role-change")
        p.use("role", "set", value if value is not None else "?.unknown")


def reset_value(p: Gather, name: str, *, verb: str = "reset") -> None:
    """A setting goes back to what it was, which nobody here knows."""
    p.use("setting", verb, name)
    if name not in LEAVES_NAMES:
        p.changes_names = True
    if name in PINNED:
        _pinned(p, name)
    if name in ("role", "session_authorization"):
        p.traits.add("role-change")


def _pinned(p: Gather, name: str) -> None:
    p.traits.add("pinned-setting")
    p.changes_names = True
    p.refuse(f"{name} is pinned: another value would change how statements are read")


def variable(p: Gather, body: Node, *, verb: str = "set") -> None:
    """A VariableSetStmt, alone or in ALTER ROLE, ALTER DATABASE, ALTER SYSTEM, ALTER FUNCTION (verb "alter")."""
    kind, name = body.get("kind", ""), body.get("name", "").lower()
    back = "reset" if verb == "set" else verb
    args = body.get("args") or []
    if kind == "VAR_SET_VALUE":
        set_value(p, name, _value(args), local=bool(body.get("is_local")), verb=verb)
    elif kind in ("VAR_SET_DEFAULT", "VAR_RESET"):
        reset_value(p, name, verb=back)
    elif kind == "VAR_SET_CURRENT":
        set_value(p, name, None, verb=verb)
    elif kind == "VAR_RESET_ALL":
        p.use("setting", back, "all")
        p.traits.add("resets-settings")
        p.changes_names = True
    elif kind == "VAR_SET_MULTI" and name in ("transaction", "session characteristics"):
        _transaction_modes(p, name, args)
    elif kind == "VAR_SET_MULTI" and name == "transaction snapshot":
        p.use("transaction", "snapshot", "snapshot")
    else:
        p.opaque("a form of SET that is not read")


def _value(args: list[Node]) -> str | None:
    """The value that SET gives, None where it is a list or not plain."""
    if len(args) != 1:
        return None
    value = args[0].get("A_Const", {})
    for key, inner in (("sval", "sval"), ("fval", "fval"), ("boolval", "boolval"), ("ival", "ival")):
        if key in value:
            return str(value[key].get(inner, 0 if key == "ival" else ""))
    return None


def _transaction_modes(p: Gather, name: str, args: list[Node]) -> None:
    prefix = "default_" if name == "session characteristics" else ""
    for arg in args:
        p.use("setting", "set", prefix + str(arg.get("DefElem", {}).get("defname", "?")))


def show(p: Gather, body: Node) -> None:
    """SHOW: name, value and description for ALL, else the value alone."""
    name = body.get("name", "").lower()
    p.use("setting", "show", name)
    p.reads_only = True
    p.answers(((None, NOTHING),) * (3 if name == "all" else 1))
