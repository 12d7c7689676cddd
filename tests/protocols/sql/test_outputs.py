"""What each output column is made of: never less than the truth, or a mask by column could be evaded."""

from __future__ import annotations

import pytest

from muniment.model.exchange import Beneath
from tests.protocols.sql.world import action

UNKNOWN = None


def beneath(text: str) -> list[list[Beneath] | None]:
    return [None if out is None else list(out) for out in action(text).outputs]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT md5(ssn) FROM customers",
        "SELECT c.ssn || 'x' FROM customers c",
        "SELECT upper(s) FROM (SELECT ssn AS s FROM customers) x",
        "SELECT upper(x.s) FROM (SELECT ssn AS s FROM customers) x",
        "SELECT upper(b) FROM (SELECT id, ssn FROM customers) x(a, b)",
        "WITH x AS (SELECT ssn AS s FROM customers) SELECT upper(s) FROM x",
        "WITH x(a, b) AS (SELECT id, ssn FROM customers) SELECT upper(b) FROM x",
        "WITH x AS (SELECT ssn AS s FROM customers), y AS (SELECT s AS t FROM x) SELECT upper(t) FROM y",
        "WITH RECURSIVE r AS (SELECT id, ssn AS s FROM customers UNION ALL SELECT id, s FROM r) SELECT upper(s) FROM r",
        "WITH RECURSIVE a AS (SELECT s FROM b), b AS (SELECT ssn AS s FROM customers) SELECT upper(s) FROM a",
        "SELECT (SELECT ssn FROM customers LIMIT 1)",
        "SELECT ARRAY(SELECT ssn FROM customers)",
        "SELECT EXISTS (SELECT 1 FROM customers WHERE ssn LIKE '1%')",
        "SELECT 1 IN (SELECT id FROM customers WHERE ssn LIKE '1%')",
        "SELECT CASE WHEN ssn LIKE '1%' THEN 1 ELSE 0 END FROM customers",
        "SELECT string_agg(name, ',' ORDER BY ssn) FROM customers",
        "SELECT count(*) FILTER (WHERE ssn LIKE '1%') FROM customers",
        "SELECT lag(id) OVER (ORDER BY ssn) FROM customers",
        "SELECT lag(id) OVER w FROM customers WINDOW w AS (PARTITION BY ssn)",
        "SELECT l.m FROM customers c, LATERAL (SELECT md5(c.ssn) AS m) l",
        "SELECT v FROM customers c CROSS JOIN LATERAL unnest(ARRAY[c.ssn]) AS v",
        "SELECT u FROM customers c, unnest(ARRAY[c.ssn]) u",
        "SELECT 'x' UNION SELECT ssn || 'x' FROM customers",
        "SELECT name || 'x' FROM customers UNION ALL SELECT ssn || 'x' FROM customers",
        "VALUES ('x'), ((SELECT ssn FROM customers LIMIT 1))",
        "SELECT x.column1 || 'x' FROM (VALUES ((SELECT ssn FROM customers LIMIT 1))) x",
        "SELECT j.ssn || 'x' FROM (customers NATURAL JOIN invoices) AS j",
        "SELECT upper(ssn) FROM customers JOIN invoices USING (id)",
        "UPDATE customers SET name = 'x' WHERE id = 1 RETURNING upper(ssn)",
        "WITH d AS (DELETE FROM customers WHERE id = 1 RETURNING ssn AS s) SELECT upper(s) FROM d",
        "INSERT INTO customers VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'x' RETURNING upper(customers.ssn)",
        "MERGE INTO customers c USING orders o ON c.id = o.id WHEN MATCHED THEN DELETE RETURNING upper(c.ssn)",
        "SELECT JSON_OBJECT('a': ssn) FROM customers",
        "SELECT xmlelement(name a, ssn) FROM customers",
        "SELECT (ROW(ssn, 1)).f1 || 'x' FROM customers",
        "PREPARE p AS SELECT upper(ssn) FROM customers; EXECUTE p",
        "BEGIN; DECLARE c CURSOR FOR SELECT upper(ssn) FROM customers; FETCH c",
        "EXPLAIN SELECT 1 FROM customers WHERE ssn = '1'",
    ],
)
def test_a_protected_name_beneath_an_output_is_seen(text: str) -> None:
    (outs,) = beneath(text)
    assert outs is not None
    assert any(out is not None and out & {"ssn", "*"} for out in outs)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT c FROM customers c",
        "SELECT c::text FROM customers AS c",
        "SELECT customers FROM customers",
        "SELECT to_json(c) FROM customers c",
        "SELECT row_to_json(customers) FROM customers",
        "SELECT c.row_to_json FROM customers c",
        "SELECT (c).to_jsonb FROM customers c",
        "SELECT md5(c::text) FROM customers c",
        "SELECT ROW(c.*) FROM customers c",
        "SELECT row_to_json(x) FROM (SELECT * FROM customers) x",
        "SELECT to_json((SELECT x FROM (SELECT c.*) x)) FROM customers c",
        "SELECT v FROM customers c, jsonb_each_text(to_jsonb(c)) AS e(k, v)",
        "SELECT upper(d) FROM customers AS c(a, b, e, d)",
        "SELECT upper(c.d) FROM customers AS c(a, b, e, d)",
        "WITH c AS (SELECT * FROM customers) SELECT upper(name) FROM c",
        "SELECT (SELECT c FROM customers c LIMIT 1)",
        "SELECT array_agg(c) FROM customers c",
        "SELECT count(c.*) FROM customers c",
        "SELECT c IS NULL FROM customers c",
        "SELECT j::text FROM (customers JOIN invoices USING (id)) AS j",
        "SELECT nowhere.ssn_or_so FROM customers",
    ],
)
def test_a_whole_row_or_star_is_seen(text: str) -> None:
    (outs,) = beneath(text)
    assert outs is not None
    assert any(out is not None and "*" in out for out in outs)
    assert "*" in action(text).columns or "AS c(" in text or "nowhere" in text


@pytest.mark.parametrize(
    ("text", "outs"),
    [
        ("SELECT name, upper(name), 1 FROM customers", [{"name"}, {"name", "upper"}, set()]),
        ("SELECT count(*), now() FROM customers WHERE ssn = '1'", [set(), set()]),
        ("SELECT upper(a) FROM (SELECT name AS a, ssn AS b FROM customers) x", [{"a", "name", "upper"}]),
        ("SELECT * FROM (SELECT 1 AS one, name FROM customers) x", [set(), {"name"}]),
        ("SELECT g FROM generate_series(1, 3) g", [{"g"}]),
        ("SHOW server_version", [set()]),
        ("VALUES (1, 2), (3, 4)", [set(), set()]),
    ],
)
def test_what_has_nothing_to_do_with_it_is_left_alone(text: str, outs: list[set[str]]) -> None:
    assert beneath(text) == [[frozenset(out) for out in outs]]


def test_a_star_over_a_table_has_a_number_of_columns_that_is_not_known() -> None:
    assert beneath("SELECT *, upper(name) FROM customers") == [None]


def test_what_a_function_of_the_target_gives_back_is_unknown() -> None:
    assert beneath("SELECT 1, fx_rate(1), fx_rate(1) + 1 FROM invoices") == [[frozenset(), UNKNOWN, UNKNOWN]]
    assert beneath("SELECT x FROM public.fx_rate(1) x") == [[UNKNOWN]]
    assert beneath("SELECT (SELECT fx_rate(1))") == [[UNKNOWN]]


def test_statements_without_rows_have_no_entry() -> None:
    text = "BEGIN; SELECT 1; INSERT INTO orders VALUES (1) RETURNING 1; SET jit = off; SELECT 1, 2; COMMIT"
    assert [None if out is None else len(out) for out in beneath(text)] == [1, 1, 2]
    assert beneath("COPY customers TO STDOUT") == beneath("SELECT 1 INTO TEMP t") == []
    assert beneath("UPDATE orders SET qty = 1") == []


def test_after_a_change_that_a_rule_may_turn_into_a_query_nothing_is_known() -> None:
    assert beneath("SELECT 1; DELETE FROM orders; SELECT 1") == [[frozenset()], None]


def test_after_a_statement_that_may_or_may_not_answer_with_rows_nothing_is_known() -> None:
    assert beneath("SELECT 1; CALL public.evil(); SELECT 1") == [[frozenset()], None, None]


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        ("INSERT INTO orders SELECT * FROM invoices", True),
        ("INSERT INTO orders VALUES ((SELECT 1 FROM invoices))", True),
        ("INSERT INTO orders VALUES (1, 2), (3, 4)", False),
        ("INSERT INTO orders SELECT 1, 2", False),
        ("INSERT INTO orders VALUES (1) ON CONFLICT (id) DO UPDATE SET item = excluded.item", False),
        ("INSERT INTO customers VALUES (1) ON CONFLICT (id) DO UPDATE SET name = customers.ssn", True),
        ("UPDATE customers SET balance = balance + 1", False),
        ("UPDATE customers SET name = ssn", True),
        ("UPDATE customers SET name = customers.*::text", True),
        ("UPDATE customers c SET name = upper(c.name)", False),
        ("UPDATE customers SET name = i.name FROM app.customers i", True),
        ("UPDATE customers SET (name, email) = (SELECT name, email FROM app.customers LIMIT 1)", True),
        ("CREATE TABLE t AS SELECT * FROM customers", True),
        ("CREATE VIEW v AS SELECT * FROM customers", True),
        ("SELECT ssn INTO t FROM customers", True),
        ("SELECT 1 INTO t UNION SELECT ssn FROM customers", True),
        ("CREATE TABLE t (a int)", False),
        ("DECLARE c CURSOR FOR SELECT ssn FROM customers", True),
        ("COPY customers TO STDOUT", True),
        ("COPY customers FROM STDIN", False),
        ("MERGE INTO orders o USING customers c ON true WHEN NOT MATCHED THEN INSERT VALUES (c.ssn)", True),
        ("MERGE INTO orders o USING customers c ON o.id = c.id WHEN MATCHED THEN DELETE", False),
        ("SELECT set_config('application_name', ssn, false) FROM customers", True),
        ("SELECT set_config('application_name', 'x', false)", False),
        ("SELECT setval('invoices_id_seq', ssn::int) FROM customers", True),
        ("SELECT lo_put(1, 0, ssn::bytea) FROM customers", True),
        ("WITH x AS (INSERT INTO orders SELECT * FROM customers) SELECT 1", True),
        ("SELECT * FROM customers", False),
    ],
)
def test_what_keeps_rows_that_it_read_says_so(text: str, copies: bool) -> None:
    assert action(text).copies_rows is copies
