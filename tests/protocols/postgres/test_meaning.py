"""Names are resolved as the server resolves them; what cannot be is never passed off as known."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.model.exchange import Action, Touch
from muniment.protocols.postgres.login import codec_of
from muniment.protocols.postgres.meaning import Names, needs, opaque, resolve
from muniment.protocols.sql.postgres import read
from muniment.protocols.sql.settings import CODECS
from tests.protocols.sql.world import CATALOG, NAMES, action, touches


def under(*path: str, temporary: tuple[str, ...] = ()) -> Names:
    return Names(CATALOG, path, frozenset(temporary))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (under("pg_catalog", "public", "app"), "public.customers"),
        (under("pg_catalog", "app", "public"), "app.customers"),
        (under("app"), "app.customers"),
        (under("pg_catalog"), "?.customers"),
        (under("pg_temp_3", "pg_catalog", "public", temporary=("customers",)), "pg_temp.customers"),
        (under("public", "pg_temp_3", temporary=("customers",)), "public.customers"),
        (under("pg_catalog", "public", temporary=("customers",)), "pg_temp.customers"),
        (under("pg_temp_3", "public", temporary=("other",)), "public.customers"),
    ],
)
def test_a_relation_is_the_first_of_the_path(names: Names, found: str) -> None:
    assert touches("SELECT 1 FROM customers", names) == [f"select relation {found}"]


def test_pg_catalog_comes_first_where_the_path_does_not_say_so() -> None:
    shadowed = replace(
        CATALOG, relations={**CATALOG.relations, ("public", "pg_class"): CATALOG.relations["public", "orders"]}
    )
    assert touches("TABLE pg_class", Names(shadowed, ("public",))) == ["select relation pg_catalog.pg_class"]
    assert touches("TABLE pg_class", Names(shadowed, ("public", "pg_catalog"))) == ["select relation public.pg_class"]


def test_a_function_is_that_of_every_schema_of_the_path_that_has_one() -> None:
    both = under("pg_catalog", "public", "app")
    assert touches("SELECT evil()", both) == ["call function public.evil", "call function app.evil"]
    assert touches("SELECT app.evil()", both) == ["call function app.evil"]
    assert touches("SELECT dblink_is_elsewhere()", both) == ["call function ?.dblink_is_elsewhere"]
    shadowed = replace(CATALOG, functions={**CATALOG.functions, "count": frozenset({"pg_catalog", "public"})})
    assert touches("SELECT count(1)", Names(shadowed, ("pg_catalog", "public"))) == [
        "call function pg_catalog.count",
        "call function public.count",
    ]


@pytest.mark.parametrize("names", [None, Names(None, ("pg_catalog", "public")), Names(CATALOG, None)])
def test_without_names_only_names_with_a_schema_are_certain(names: Names | None) -> None:
    for text in (
        "SELECT 1 FROM customers",
        "SELECT count(1)",
        "CREATE TABLE t ()",
        "SELECT c.id FROM public.customers c",
    ):
        assert not action(text, names).complete
    for text in ("SELECT id FROM public.customers", "SELECT 1", "SELECT pg_catalog.now()", "BEGIN", "SET jit = off"):
        assert action(text, names).complete


def test_what_is_created_without_a_schema_is_created_in_the_first_of_the_path_that_can_hold_it() -> None:
    assert touches("CREATE TABLE t ()", under("pg_temp_2", "pg_catalog", "app", "public")) == ["create table app.t"]
    assert touches("CREATE TEMP TABLE t ()", under("pg_catalog", "app")) == ["create table pg_temp.t"]
    assert touches("CREATE TABLE t ()", under("pg_catalog")) == ["create table ?.t"]
    assert touches("DROP INDEX i", under("pg_catalog", "app", "public")) == ["drop index app.i", "drop index public.i"]


def test_after_a_statement_that_changes_names_the_rest_of_its_text_is_not_certain() -> None:
    for first in (
        "SET search_path = app",
        "CREATE TABLE t ()",
        "SELECT fx_rate(1)",
        "COMMIT",
        "RESET ALL",
        "CALL evil()",
        "SELECT set_config('search_path', 'app', false)",
        "ROLLBACK TO a",
        "SET ROLE ada",
    ):
        assert not action(f"{first}; SELECT 1 FROM customers").complete, first
        assert action(f"{first}; SELECT 1 FROM public.customers").complete, first
        assert action(f"SELECT 1 FROM customers; {first}").complete, first
    for first in (
        "SET application_name = 'x'",
        "SELECT count(1)",
        "SET LOCAL statement_timeout = 1",
        "UPDATE orders SET qty = 1",
    ):
        assert action(f"{first}; SELECT 1 FROM customers").complete, first


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("SELECT now()", False),
        ("SELECT fx_rate(1)", True),
        ("SET search_path = a", True),
        ("SET DateStyle = 'ISO'", False),
        ("RESET application_name", False),
        ("RESET ALL", True),
        ("ROLLBACK", True),
        ("COMMIT", False),
        ("COMMIT AND CHAIN", True),
        ("BEGIN", False),
        ("DROP TABLE orders", True),
        ("TRUNCATE orders", False),
        ("DISCARD ALL", True),
        ("GRANT SELECT ON orders TO ada", True),
        ("COMMENT ON TABLE orders IS 'x'", False),
        ("DO 'x'", True),
        ("SET ROLE a", True),
        ("SELECT set_config('jit', 'off', false)", False),
        ("SELECT c.evil FROM customers c", True),
        ("EXPLAIN CREATE TABLE t AS SELECT 1", False),
        ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", True),
        ("not sql", True),
    ],
)
def test_it_says_whether_names_may_mean_something_else_afterwards(text: str, changes: bool) -> None:
    assert action(text).changes_names is changes


@pytest.mark.parametrize(
    ("text", "reads_only"),
    [
        ("SELECT id, count(*) FROM invoices GROUP BY 1", True),
        ("SHOW jit", True),
        ("BEGIN", True),
        ("COMMIT", True),
        ("SET application_name = 'x'", True),
        ("SET search_path = a", False),
        ("SELECT nextval('app.s')", False),
        ("SELECT pg_terminate_backend(1)", False),
        ("SELECT fx_rate(1)", False),
        ("SELECT (1).pg_sleep", False),
        ("SELECT 1 FROM invoices FOR UPDATE", False),
        ("SELECT 1 INTO t", False),
        ("COPY orders TO STDOUT", False),
        ("WITH x AS (UPDATE orders SET qty = 1 RETURNING 1) SELECT 1", False),
        ("DROP TABLE orders", False),
        ("EXPLAIN SELECT 1", True),
        ("SELECT 1; UPDATE orders SET qty = 1", False),
        ("TABLE invoices", True),
        ("SELECT lo_get(1)", False),
        ("SELECT set_config('search_path', 'a', false)", False),
        ("not sql", False),
        ("SELECT pg_get_viewdef(1), pg_table_is_visible(2), pg_typeof(3)", True),
        ("NOTIFY x", False),
    ],
)
def test_it_says_whether_it_only_reads(text: str, reads_only: bool) -> None:
    assert action(text).reads_only is reads_only


# fields that are calls


def test_a_field_that_is_a_column_is_no_call() -> None:
    for text in (
        "SELECT c.name, c.ctid FROM customers c",
        "SELECT x.count FROM (SELECT count(*) FROM invoices) x",
        "WITH x(evil) AS (SELECT 1) SELECT x.evil FROM x",
        "SELECT invoices.total FROM invoices",
        "SELECT public.invoices.total FROM public.invoices",
    ):
        assert not [touch for touch in touches(text) if touch.startswith("call") and "count" not in touch], text


def test_a_field_of_one_relation_is_not_taken_for_a_column_of_another() -> None:
    assert "call function public.total" in touches("SELECT c.total FROM customers c, invoices i")
    assert "call function public.total" not in touches("SELECT i.total FROM customers c, invoices i")


def test_a_field_that_is_neither_column_nor_function_is_unresolved() -> None:
    assert "call function ?.nothing" in touches("SELECT c.nothing FROM customers c")


# prepared statements and cursors


def prepared(**texts: str) -> Names:
    return replace(NAMES, prepared=texts, key=("prepared", *sorted(texts.items())))


def test_execute_takes_the_action_of_what_was_prepared() -> None:
    names = prepared(p="DELETE FROM customers RETURNING upper(ssn)")
    assert needs(read("EXECUTE p(1)"), names) == ("DELETE FROM customers RETURNING upper(ssn)",)
    found = action("EXECUTE p(1)", names)
    assert Touch("relation", "public.customers", "delete") in found.touches
    assert {"no-where"} <= found.traits
    assert found.outputs == ((frozenset({"ssn", "upper"}),),)
    assert not found.reads_only


def test_execute_of_an_execute_ends() -> None:
    assert "update relation public.orders" in touches(
        "EXECUTE a", prepared(a="EXECUTE b", b="UPDATE orders SET qty = 1")
    )
    assert not action("EXECUTE a", prepared(a="EXECUTE b", b="EXECUTE a")).complete


def test_execute_of_a_statement_that_prepares_is_followed() -> None:
    names = prepared(maker="PREPARE p AS DELETE FROM customers", p="SELECT 1")
    assert action("EXECUTE maker", names).defines == (("prepared", "p", "DELETE FROM customers"),)
    text = "DEALLOCATE p; EXECUTE maker; EXECUTE p"
    assert "delete relation public.customers" in touches(text, names)


@pytest.mark.parametrize(
    "text",
    [
        "EXECUTE q",
        "DEALLOCATE p; EXECUTE p",
        "DEALLOCATE ALL; EXECUTE p",
        "DISCARD ALL; EXECUTE p",
        "FETCH p",
        "MOVE p",
        "CREATE TABLE t AS EXECUTE q",
        "EXPLAIN EXECUTE q",
    ],
)
def test_a_name_that_is_not_known_any_more_is_not_certain(text: str) -> None:
    assert not action(text, prepared(p="SELECT 1")).complete


def test_fetch_takes_touches_and_rows_and_move_only_touches() -> None:
    names = replace(NAMES, cursors={"c": "SELECT ssn FROM customers"}, key="c")
    fetched, moved = action("FETCH 3 FROM c", names), action("MOVE c", names)
    assert fetched.touches == moved.touches == (Touch("relation", "public.customers", "select"),)
    assert (fetched.outputs, moved.outputs) == (((frozenset({"ssn"}),),), ())
    assert "cursor" in fetched.traits


def test_defines_and_forgets_are_the_state_afterwards() -> None:
    found = action("PREPARE a AS SELECT 1; PREPARE b AS SELECT 2; DEALLOCATE a")
    assert (found.defines, found.forgets) == ((("prepared", "b", "SELECT 2"),), (("prepared", "a"),))
    found = action("DEALLOCATE a; PREPARE a AS SELECT 3; DECLARE c CURSOR FOR SELECT 4")
    assert found.defines == (("prepared", "a", "SELECT 3"), ("cursor", "c", "SELECT 4"))
    assert action("PREPARE a AS SELECT 1; DISCARD ALL").defines == ()
    assert action("CLOSE ALL").forgets == (("cursor", "*"),)
    assert action("EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT 1").defines == ()


def test_the_text_of_an_inner_statement_is_cut_from_bytes_and_not_from_characters() -> None:
    found = action("SELECT 'é€😀'; PREPARE a AS SELECT 'é' AS x -- ü")
    assert found.defines == (("prepared", "a", "SELECT 'é' AS x -- ü"),)


# names


def test_names_are_equal_by_key_and_the_key_follows_what_matters() -> None:
    one = under("pg_catalog", "public")
    assert one == under("pg_catalog", "public") == one.replaced(prepared={"a": "b"})
    assert hash(one) == hash(one.replaced(cursors={"a": "b"}))
    for other in (one.replaced(path=("public",)), one.replaced(temporary=frozenset({"t"})), one.replaced(catalog=None)):
        assert one != other
    assert one.replaced(path=None).replaced(path=one.path) == one


def test_what_cannot_be_read_is_never_complete() -> None:
    found = opaque("because")
    assert (found.complete, found.why, found.reads_only, found.changes_names) == (False, "because", False, True)
    assert resolve(read("not sql"), NAMES, {}).touches == ()


# functions of which older servers have their own


def test_a_new_word_of_the_grammar_is_a_call_where_the_target_has_such_a_function() -> None:
    text = "SELECT JSON_VALUE(note::jsonb, '$.a') FROM invoices"
    assert touches(text) == ["select relation public.invoices"]
    older = replace(CATALOG, functions={**CATALOG.functions, "json_value": frozenset({"public"})})
    found = action(text, Names(older, ("pg_catalog", "public"), key="older"))
    assert Touch("function", "public.json_value", "call") in found.touches
    assert found.outputs == ((None,),)


PATHS = st.lists(st.sampled_from(["pg_catalog", "public", "app", "pg_temp_4", "none"]), max_size=4, unique=True)


@given(
    PATHS, st.sets(st.sampled_from(["customers", "orders"])), st.sampled_from(["customers", "orders", "pg_class", "x"])
)
def test_resolving_is_what_a_walk_along_the_path_gives(path: list[str], temporary: set[str], name: str) -> None:
    """Against a second writing of the manual's rule."""
    full = path if "pg_catalog" in path else ["pg_catalog", *path]
    full = full if "pg_temp_4" in path else ["pg_temp_4", *full]
    homes = [s for s in full if (name in temporary if s == "pg_temp_4" else (s, name) in CATALOG.relations)]
    home = {"pg_temp_4": "pg_temp"}.get(homes[0], homes[0]) if homes else "?"
    found: Action = action(f"SELECT 1 FROM {name}", Names(CATALOG, tuple(path), frozenset(temporary)))
    assert [touch.name for touch in found.touches] == [f"{home}.{name}"]
    assert json.dumps(found.why) == '""'


def test_client_encoding_may_be_set_to_what_it_is_and_to_nothing_else() -> None:
    for name, codec in CODECS.items():
        assert codec_of(name) in ("", codec)  # empty: refused at the login already
        assert action(f"SET client_encoding TO '{name}'", NAMES.replaced(codec=codec)).complete
    assert not action("SET client_encoding TO 'UTF8'", NAMES.replaced(codec="iso8859-1")).complete
