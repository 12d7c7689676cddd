"""The basics let clients connect and look things up, and hold nothing that is somebody's secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.protocols.sql.world import CATALOG, action, clients

from muniment.judge import basics, globs
from muniment.model.exchange import Touch

PAGE = Path(__file__).parents[2] / "docs/reference/basics.md"
LISTS = basics.published()["postgres/client"]

# psql's completion of SET and SHOW asks for the view that also shows a standby's password; psql goes on without it.
UNSERVED = {"select relation pg_catalog.pg_settings"}


def permitted(touch: Touch) -> bool:
    return basics.permitted("postgres", "client", touch)


@pytest.mark.parametrize("client", sorted(clients()))
def test_what_a_real_client_asks_for_is_in_the_basics(client: str) -> None:
    for text in clients()[client]:
        found = action(text)
        assert found.complete, (found.why, text)
        missing = {f"{touch.verb} {touch.kind} {touch.name}" for touch in found.touches if not permitted(touch)}
        assert missing <= UNSERVED, text


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT * FROM pg_user_mapping",
        "TABLE pg_user_mappings",
        "TABLE pg_subscription",
        "TABLE pg_largeobject",
        "TABLE pg_stat_activity",
        "TABLE pg_stats",
        "TABLE pg_statistic",
        "TABLE pg_statistic_ext_data",
        "TABLE pg_stats_ext",
        "TABLE pg_stats_ext_exprs",
        "TABLE pg_hba_file_rules",
        "TABLE pg_file_settings",
        "TABLE pg_settings",
        "TABLE pg_foreign_server",
        "TABLE pg_db_role_setting",
        "TABLE pg_stat_wal_receiver",
        "TABLE pg_stat_replication",
        "TABLE information_schema.user_mapping_options",
        "TABLE information_schema.foreign_server_options",
        "TABLE information_schema._pg_user_mappings",
        "SELECT pg_read_file('x')",
        "SELECT pg_ls_dir('x')",
        "SELECT lo_get(1)",
        "SELECT pg_sleep(1)",
        "SHOW ALL",
        "SELECT pg_cancel_backend(1)",
        "SELECT pg_terminate_backend(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_reload_conf()",
        "SELECT pg_notify('a', 'b')",
        "SELECT nextval('a.b')",
        "SELECT currval('a.b')",
        "SELECT setval('a.b', 1)",
        "SELECT query_to_xml('x', true, true, '')",
        "SELECT ts_stat('x')",
        "SELECT pg_stat_get_activity(1)",
        "SELECT pg_show_all_settings()",
        "SELECT pg_logical_emit_message(true, 'a', 'b')",
        "SHOW primary_conninfo",
        "SHOW ssl_passphrase_command",
        "SHOW app.secret",
        "SELECT current_setting('app.secret')",
        "SET ROLE postgres",
        "SET session_replication_role = replica",
        "SET row_security = off",
        "SELECT set_config('role', 'x', false)",
        "UPDATE pg_settings SET setting = 'x'",
        "LOCK pg_class",
        "COPY pg_class TO STDOUT",
        "PREPARE TRANSACTION 'x'",
        "LISTEN x",
        "SELECT pg_export_snapshot()",
        "SELECT pg_get_backend_memory_contexts()",
        "SELECT current_setting($1)",
        "SELECT FROM pg_class FOR UPDATE",
    ],
)
def test_what_is_nobody_elses_business_is_not_in_the_basics(text: str) -> None:
    found = action(text)
    assert not found.complete or not all(permitted(touch) for touch in found.touches)


@pytest.mark.parametrize(
    "text",
    [
        "BEGIN; SAVEPOINT a; RELEASE a; ROLLBACK TO a; COMMIT",
        "SET application_name = 'x'",
        "RESET ALL",
        "DISCARD ALL",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET CONSTRAINTS ALL DEFERRED",
        "SHOW TRANSACTION ISOLATION LEVEL",
        "SHOW server_version",
        "SELECT version(), current_database()",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
        "SELECT current_setting('server_version_num')",
        "SELECT set_config('search_path', '', false)",
        "SET TIME ZONE 'UTC'",
        "START TRANSACTION READ ONLY",
        "SELECT n, information_schema._pg_expandarray(indkey) FROM pg_index",
        "DEALLOCATE ALL",
        "SELECT 1 FROM pg_roles",
    ],
)
def test_what_clients_do_besides_is_in_the_basics(text: str) -> None:
    found = action(text)
    assert found.complete, found.why
    assert all(permitted(touch) for touch in found.touches)


def test_only_the_named_list_of_the_protocol_counts() -> None:
    touch = Touch("relation", "pg_catalog.pg_class", "select")
    assert permitted(touch)
    assert not basics.permitted("mysql", "client", touch)
    assert not basics.permitted("postgres", "none", touch)
    for other in (
        Touch("relation", "public.pg_class", "select"),
        Touch("table", "pg_catalog.pg_class", "select"),
        Touch("relation", "pg_catalog.pg_class", "update"),
        Touch("function", "?.now", "call"),
        Touch("function", "public.now", "call"),
        Touch("setting", "jit", "alter"),
    ):
        assert not permitted(other)


def test_what_is_published_says_the_same_as_what_is_permitted() -> None:
    """The verifier decides by the published lists: any difference would be an over-reach that nobody asked for."""

    def published(touch: Touch) -> bool:
        if touch.kind == "transaction":
            return touch.verb in LISTS["transactions"]
        settings = LISTS["settings"]
        assert isinstance(settings, dict)
        lists = {("function", "call"): LISTS["functions"], ("relation", "select"): LISTS["relations"]}
        patterns = settings.get(touch.verb, ()) if touch.kind == "setting" else lists.get((touch.kind, touch.verb), ())
        inside = any(globs.matches(pattern, touch.name) for pattern in patterns)
        return inside and not any(globs.matches(pattern, touch.name) for pattern in LISTS["except"])

    touches = [Touch("relation", f"{schema}.{name}", "select") for schema, name in CATALOG.relations]
    touches += [
        Touch("function", f"{home}.{name}", "call") for name, homes in CATALOG.functions.items() for home in homes
    ]
    touches += [
        Touch("setting", name, verb)
        for name in (*basics.SHOW, "all", "role", "primary_conninfo", "lc_x", "a.b")
        for verb in ("set", "reset", "show", "alter")
    ]
    touches += [Touch("transaction", "x", verb) for verb in (*basics.TRANSACTIONS, "prepare", "snapshot")]
    for touch in touches:
        assert published(touch) is permitted(touch), touch
    assert sum(map(permitted, touches)) > 600


def test_every_name_in_the_lists_is_one_that_postgres_has() -> None:
    functions, relations = LISTS["functions"], LISTS["relations"]
    assert isinstance(functions, list) and isinstance(relations, list)
    known = {f"{home}.{name}" for name, homes in CATALOG.functions.items() for home in homes}
    assert {name for name in functions if name not in known} == set()
    assert {name for name in relations if tuple(name.split(".")) not in CATALOG.relations} == set()


def test_no_function_in_the_basics_runs_a_text_reads_a_file_or_stops_somebody() -> None:
    functions = LISTS["functions"]
    assert isinstance(functions, list)
    suspect = re.compile(
        r"_to_xml|dblink|pg_(read|ls|stat_get|sleep|terminate|cancel|reload|notify|logical)|^lo_|largeobj"
    )
    found = {name for name in functions if suspect.search(name.partition(".")[2])}
    assert found == {"pg_catalog.has_largeobject_privilege"}


def test_the_page_is_the_published_list() -> None:
    """Write it again with: python -c "from muniment.judge import basics; print(basics.page(), end='')" """
    assert PAGE.read_text() == basics.page()
