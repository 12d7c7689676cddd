"""Protected values never leave: not by another name, not derived, not copied, not in errors, not in the record.

`billing` shows cards by first six and last four, SSNs redacted; `sealed` by pseudonym and NULL. Every statement here is
granted: what is refused is refused by the masks alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from muniment.store import recordings
from muniment.store.keys import Keys
from tests.live import raw
from tests.live.gateway import Gateway
from tests.live.protected import FOUND, leaks
from tests.live.servers import Cluster

SETUP = (
    "CREATE SCHEMA scratchpad AUTHORIZATION report_ro",
    "CREATE SCHEMA elsewhere",
    "CREATE TABLE public.lookalike (id int, val text)",
    "CREATE TABLE elsewhere.lookalike (id int, us_ssn text)",
    "INSERT INTO public.lookalike VALUES (1, 'harmless')",
    "INSERT INTO elsewhere.lookalike VALUES (1, 'path-canary-77')",
    "CREATE TABLE scratchpad.renamed (us_ssn text)",
    "INSERT INTO scratchpad.renamed VALUES ('rename-canary-12')",
    "CREATE TABLE scratchpad.bin (a text, n bigint)",
    "CREATE SEQUENCE scratchpad.counter",
    "ALTER TABLE scratchpad.renamed OWNER TO report_ro",
    "ALTER TABLE scratchpad.bin OWNER TO report_ro",
    "ALTER SEQUENCE scratchpad.counter OWNER TO report_ro",
    "GRANT USAGE ON SCHEMA elsewhere TO PUBLIC",
    "GRANT ALL ON public.lookalike, elsewhere.lookalike TO PUBLIC",
    "ANALYZE customers",
)


@pytest.fixture(scope="module", autouse=True)
def scratchpad(debian: Cluster, gateway: Gateway) -> Iterator[None]:
    """Places of its own at the target, made before the gateway first looks at its catalogue."""
    debian.sql(*SETUP)
    yield
    debian.sql("DROP SCHEMA scratchpad, elsewhere CASCADE", "DROP TABLE public.lookalike")


# --- what is shown masked

SHOWN = {
    "by origin": ("SELECT card_number, us_ssn FROM customers WHERE id = 1", "411111******1111|[masked]"),
    "by alias": ("SELECT card_number AS harmless FROM customers WHERE id = 1", "411111******1111"),
    "through a subquery": ("SELECT x.h FROM (SELECT id, us_ssn AS h FROM customers) x WHERE id = 1", "[masked]"),
    "through a column alias list": ("SELECT x.d FROM customers AS x (a, b, c, d) WHERE a = 1", "411111******1111"),
    "by output name": ("SELECT 'anything' AS us_ssn", "[masked]"),
    "a star": ("SELECT * FROM customers WHERE id = 2", "Ben Okafor"),
    "in free text": ("SELECT notes FROM customers WHERE id = 2", "pays with 4111 11** **** 1111"),
    "e-mail by detector": ("SELECT email FROM customers WHERE id = 1", "[masked]"),
    "a literal": ("SELECT '4111111111111111'", "411111******1111"),
    "a number": ("SELECT 4111111111111111::bigint, 4111111111111111::numeric, 1", "||1"),
    "json": ("SELECT jsonb_build_object('a', '4111111111111111')", '{"a": "411111******1111"}'),
    "an array": ("SELECT ARRAY['4111111111111111', 'x'], 'still here'", "|still here"),
    "an API secret": ("SELECT 'key AKIAIOSFODNN7EXAMPLE'", "[masked]"),
    "view": ("SELECT card FROM customer_cards WHERE id = 1", "[masked]"),
    "view of a view": ("SELECT card FROM gold_cards", "[masked]"),
    "materialized view": ("SELECT card_number, us_ssn FROM customer_copies WHERE id = 1", "411111******1111|[masked]"),
    "join": ("SELECT c.card_number FROM invoices i JOIN customers c ON c.id = customer_id LIMIT 1", "555555******4444"),
    "a common table expression": ("WITH x (n) AS (SELECT us_ssn FROM customers) SELECT n FROM x LIMIT 1", "[masked]"),
    "update returning": ("UPDATE customers SET tags = tags WHERE id = 1 RETURNING us_ssn", "[masked]"),
    "prepared in SQL": ("PREPARE p AS SELECT us_ssn FROM customers WHERE id = 1; EXECUTE p; EXECUTE p", "[masked]"),
    "two results": ("SELECT us_ssn FROM customers WHERE id = 1; SELECT id FROM invoices WHERE id = 7", "7"),
    "what is not protected": (
        "SELECT name, created_at FROM customers WHERE id = 1",
        "Anna Larsen|2026-01-02 03:04:05+00",
    ),
    "another table": ("SELECT id, total, state FROM invoices WHERE id = 1", "1|10.50|paid"),
    "a view that reaches nothing protected": ("SELECT name FROM customer_names WHERE id = 1", "Anna Larsen"),
}


@pytest.mark.parametrize(("text", "expected"), SHOWN.values(), ids=SHOWN.keys())
def test_a_result_is_shown_masked(gateway: Gateway, text: str, expected: str) -> None:
    said = gateway.answer(text, at="billing")
    assert expected in said
    assert not leaks(said)


DERIVED = (
    "upper(card_number)", "card_number || 'x'", "substr(us_ssn, 2)", "reverse(card_number)", "md5(us_ssn)",
    "encode(us_ssn::bytea, 'hex')", "encode(card_number::bytea, 'base64')", "max(us_ssn)", "array_agg(card_number)",
    "string_agg(us_ssn, ';')", "count(DISTINCT card_number)::text || max(reverse(us_ssn))", "json_agg(customers)",
    "row_to_json(customers)", "to_jsonb(customers)", "customers", "customers::text", "(customers).us_ssn",
    "reverse((customers).us_ssn)", "ROW(customers.*)", "translate(us_ssn, '0123456789', 'abcdefghij')",
    "CASE WHEN id = 1 THEN reverse(us_ssn) END", "coalesce(NULL, reverse(card_number))",
    "xmlforest(reverse(us_ssn) AS x)",
    "replace(us_ssn, '-', '')::bigint", "(SELECT reverse(c.us_ssn) FROM customers c WHERE c.id = customers.id)",
    "reverse(card_of(id))", "hashtext(us_ssn) || reverse(us_ssn)", "format('%s', reverse(us_ssn))",
    "us_ssn::bytea", "regexp_split_to_array(us_ssn, 'x')",
    "query_to_xml('SELECT us_ssn FROM customers', true, true, '')",
)  # fmt: skip


@pytest.mark.parametrize("output", DERIVED)
def test_what_is_derived_from_a_protected_column_is_redacted_or_refused(gateway: Gateway, output: str) -> None:
    done = gateway.psql("-At", "-v", "VERBOSITY=verbose", f"SELECT {output} FROM customers", at="billing")
    assert not leaks(done.stdout + done.stderr)
    assert done.returncode == 0 or "42501" in done.stderr


ROUNDABOUT = {
    "union": "SELECT name FROM customers UNION ALL SELECT reverse(us_ssn) FROM customers",
    "values": "VALUES ((SELECT reverse(us_ssn) FROM customers WHERE id = 1))",
    "lateral": "SELECT y.r FROM customers c, LATERAL (SELECT reverse(c.us_ssn) AS r) y",
    "unnest": "SELECT unnest(array_agg(reverse(us_ssn))) FROM customers",
    "window": "SELECT first_value(reverse(us_ssn)) OVER (ORDER BY id) FROM customers",
    "recursive": """WITH RECURSIVE r (n, s) AS (SELECT 1, '' UNION ALL SELECT n + 1, s ||
        (SELECT substr(reverse(us_ssn), n, 1) FROM customers WHERE id = 1) FROM r WHERE n < 12) SELECT s FROM r""",
    "a view of a view, reversed": "SELECT reverse(card) FROM gold_cards",
    "statistics": "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = 'customers'",
    "table": "TABLE customers",
    "returning an expression": "UPDATE customers SET tags = tags WHERE id = 1 RETURNING reverse(us_ssn)",
    "natural join": "SELECT reverse(b.us_ssn) FROM customers a NATURAL JOIN customers b",
    "generated rows": "SELECT (SELECT reverse(us_ssn) FROM customers WHERE id = n) FROM generate_series(1, 5) n",
    "a table function": "SELECT * FROM json_populate_recordset(NULL::customers, (SELECT json_agg(c) FROM customers c))",
    "xmltable": """SELECT x.* FROM (SELECT xmlagg(xmlelement(name r, reverse(us_ssn))) d FROM customers) s,
        XMLTABLE('//r' PASSING xmlelement(name root, s.d) COLUMNS v text PATH '.') x""",
}


@pytest.mark.parametrize("text", ROUNDABOUT.values(), ids=ROUNDABOUT.keys())
def test_a_roundabout_way_shows_nothing(gateway: Gateway, text: str) -> None:
    done = gateway.psql("-At", text, at="billing")
    assert not leaks(done.stdout + done.stderr)
    assert "syntax error" not in done.stderr


# --- what is closed

CLOSED = (
    "COPY customers TO STDOUT",
    "COPY (SELECT us_ssn FROM customers) TO STDOUT",
    "COPY customer_cards TO STDOUT",
    "COPY customer_copies TO STDOUT (FORMAT binary)",
    "BEGIN; DECLARE c CURSOR FOR SELECT reverse(us_ssn) FROM customers; FETCH ALL FROM c",
    "CREATE TABLE scratchpad.t AS SELECT reverse(us_ssn) FROM customers",
    "CREATE TEMP TABLE t AS TABLE customers",
    "SELECT reverse(us_ssn) AS x INTO scratchpad.t FROM customers",
    "CREATE MATERIALIZED VIEW scratchpad.t AS SELECT reverse(us_ssn) AS x FROM customers",
    "INSERT INTO scratchpad.bin SELECT reverse(us_ssn) FROM customers",
    "INSERT INTO scratchpad.bin VALUES ((SELECT reverse(us_ssn) FROM customers WHERE id = 1))",
    "UPDATE scratchpad.bin SET a = (SELECT reverse(us_ssn) FROM customers WHERE id = 1)",
    "UPDATE customers SET notes = reverse(us_ssn)",
    "INSERT INTO customers (name, email, notes) SELECT 'x', id || 'x', reverse(us_ssn) FROM customers",
    "MERGE INTO scratchpad.bin b USING customers c ON false WHEN NOT MATCHED THEN INSERT VALUES (reverse(c.us_ssn))",
    "WITH x AS (SELECT reverse(us_ssn) r FROM customers) INSERT INTO scratchpad.bin SELECT r FROM x",
    "PREPARE i AS INSERT INTO scratchpad.bin SELECT reverse(us_ssn) FROM customers; EXECUTE i",
    "SELECT pg_notify('c', reverse(us_ssn)) FROM customers",
    "CREATE VIEW scratchpad.v AS SELECT reverse(us_ssn) AS x FROM customers; SELECT x FROM scratchpad.v",
    "SELECT set_config('my.x', reverse(us_ssn), false) FROM customers WHERE id = 1; SHOW my.x",
    "SELECT set_config('my.x', reverse(us_ssn), false) FROM customers WHERE id = 1; SELECT current_setting('my.x')",
    "SELECT setval('scratchpad.counter', replace(us_ssn, '-', '')::bigint) FROM customers WHERE id = 1; "
    "SELECT last_value FROM scratchpad.counter",
    "DO $$ BEGIN RAISE NOTICE '%', (SELECT reverse(us_ssn) FROM customers WHERE id = 1); END $$",
    "SELECT lo_from_bytea(77001, us_ssn::bytea) FROM customers WHERE id = 1; SELECT lo_get(77001)",
    "ALTER TABLE scratchpad.bin ADD COLUMN x text DEFAULT (SELECT us_ssn FROM customers WHERE id = 1)",
    "CREATE TABLE scratchpad.kid () INHERITS (scratchpad.renamed); SELECT * FROM scratchpad.kid",
    "CREATE RULE r AS ON INSERT TO scratchpad.bin DO ALSO SELECT reverse(us_ssn) FROM customers; "
    "INSERT INTO scratchpad.bin VALUES ('x')",
)


@pytest.mark.parametrize("text", CLOSED)
def test_a_way_to_carry_values_past_the_masks_is_closed(gateway: Gateway, text: str) -> None:
    done = gateway.psql("-At", text, at="billing")
    assert not leaks(done.stdout + done.stderr)
    found = gateway.psql("-At", "SELECT a, n FROM scratchpad.bin", "SELECT notes FROM customers", at="billing")
    assert found.returncode == 0 and not leaks(found.stdout)


@pytest.mark.parametrize("text", CLOSED[:14])
def test_a_copy_is_refused_before_it_reaches_the_target_and_says_why(gateway: Gateway, text: str) -> None:
    said = gateway.psql("-v", "VERBOSITY=verbose", text, at="billing").stderr
    assert "42501" in said and "masking" in said
    assert "Select the columns that you need" in said or "hint" in said.lower()


def test_psql_with_a_fetch_count_is_refused_and_not_unmasked(gateway: Gateway) -> None:
    done = gateway.psql(stdin="\\set FETCH_COUNT 2\nSELECT us_ssn FROM customers;", at="billing")
    assert "[masked]" in done.stdout or "masking" in done.stderr
    assert not leaks(done.stdout + done.stderr)


# --- errors and notices

TEXTS = (
    "SELECT card_number::int FROM customers WHERE id = 1",
    "SELECT ('x' || reverse(us_ssn))::int FROM customers",
    "INSERT INTO customers (name, email) VALUES ('x', 'anna@example.org')",
    "SELECT complain('4111111111111111')",
    "SELECT complain((SELECT reverse(us_ssn) FROM customers WHERE id = 1))",
    "UPDATE customers SET id = 1 WHERE us_ssn = '457-55-5462'",
    "SELECT us_ssn::date FROM customers",
)


@pytest.mark.parametrize("text", TEXTS)
def test_errors_and_notices_keep_their_code_and_lose_the_values(gateway: Gateway, text: str) -> None:
    with psycopg.connect(gateway.conninfo("billing"), password=gateway.token(), autocommit=True) as connection:
        told: list[str] = []
        connection.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(text)
    diagnostic = caught.value.diag
    assert diagnostic.sqlstate in ("22P02", "22003", "23505", "P0001", "22007", "22008")
    said = [diagnostic.message_primary, diagnostic.message_detail, diagnostic.message_hint, diagnostic.context, *told]
    assert not leaks(" ".join(str(part) for part in said))


# --- how drivers ask


def test_binary_results_are_masked_too(gateway: Gateway) -> None:
    with psycopg.connect(gateway.conninfo("billing"), password=gateway.token()) as connection:
        columns = (
            "card_number, us_ssn, email, notes, to_jsonb(email), ARRAY[email], 4111111111111111::bigint, customers"
        )
        rows = connection.execute(f"SELECT {columns} FROM customers ORDER BY id", binary=True).fetchall()
        assert rows[0][0] == "411111******1111" and rows[0][1] == "[masked]"
        assert len(rows) == 5 and not leaks(repr(rows))
        again = connection.execute("SELECT total, issued_on FROM invoices WHERE id = 1", binary=True).fetchone()
        assert again is not None and str(again[0]) == "10.50"


def test_a_prepared_statement_executed_again_without_a_description_is_masked_each_time(gateway: Gateway) -> None:
    with raw.connected(gateway.port, gateway.ca) as client:
        client.log_in("wide.billing", gateway.token())
        client.send(raw.message("P", b"s\0SELECT us_ssn, id FROM customers WHERE id = $1\0\0\0") + raw.message("S"))
        client.until_ready()
        for identifier in (b"1", b"2", b"3"):
            bind = b"\0s\0\0\0\0\1" + len(identifier).to_bytes(4, "big") + identifier + b"\0\0"
            client.send(raw.message("B", bind) + raw.message("E", b"\0\0\0\0\0") + raw.message("S"))
            answer = client.until_ready()
            rows = [body for kind, body in answer if kind == "D"]
            assert len(rows) == 1 and b"[masked]" in rows[0] and identifier in rows[0]
            assert "T" not in [kind for kind, _ in answer]  # the gateway's own Describe is swallowed


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_a_statement_prepared_under_one_search_path_is_masked_under_another(gateway: Gateway, protocol: str) -> None:
    """The server reads the name anew: the same prepared statement then returns another table's protected column."""
    text = "SELECT l.c FROM lookalike AS l (i, c)"
    with psycopg.connect(gateway.conninfo("billing"), password=gateway.token(), autocommit=True) as connection:
        prepared = protocol == "extended"
        run = text if prepared else "EXECUTE p"
        if not prepared:
            connection.execute(f"PREPARE p AS {text}")
        assert connection.execute(run, prepare=prepared).fetchall() == [("harmless",)]
        connection.execute("SET search_path TO elsewhere, public")
        assert "canary" not in repr(connection.execute(run, prepare=prepared).fetchall())
        connection.execute("SET search_path TO public")
        assert connection.execute(run, prepare=prepared).fetchall() == [("harmless",)]


def test_a_search_path_set_in_the_same_message_does_not_fool_the_masks(gateway: Gateway) -> None:
    done = gateway.psql("SET search_path TO elsewhere; SELECT l.c FROM lookalike AS l (i, c)", at="billing")
    assert "canary" not in done.stdout
    done = gateway.psql("-c", "BEGIN", "-c", "SET LOCAL search_path TO elsewhere", "-c",
                        "SELECT l.c FROM lookalike AS l (i, c)", "-c", "ROLLBACK", at="billing")  # fmt: skip
    assert "canary" not in done.stdout and "[masked]" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE scratchpad.renamed RENAME COLUMN us_ssn TO harmless",
        "ALTER TABLE scratchpad.renamed RENAME TO innocent",
        "CREATE VIEW scratchpad.seen AS SELECT us_ssn AS harmless FROM scratchpad.renamed",
        "CREATE FUNCTION scratchpad.f() RETURNS text LANGUAGE sql AS 'SELECT us_ssn FROM scratchpad.renamed'",
    ],
)
def test_a_change_of_names_does_not_unmask(gateway: Gateway, debian: Cluster, change: str) -> None:
    asks = ("SELECT * FROM scratchpad.renamed", "SELECT * FROM scratchpad.innocent", "SELECT * FROM scratchpad.seen",
            "SELECT scratchpad.f()", "SELECT harmless FROM scratchpad.renamed")  # fmt: skip
    before = debian.sql("SELECT 'x' FROM pg_class WHERE relname = 'renamed'")
    try:
        one = gateway.psql(*asks[:1], change, *asks, at="billing")
        two = gateway.psql(*asks, at="billing")
        direct = debian.sql("SELECT 1")
        assert before and direct and "rename-canary-12" not in one.stdout + one.stderr + two.stdout + two.stderr
        assert "[masked]" in one.stdout
    finally:
        debian.sql(
            "DROP VIEW IF EXISTS scratchpad.seen", "DROP FUNCTION IF EXISTS scratchpad.f",
            "DROP TABLE IF EXISTS scratchpad.renamed, scratchpad.innocent",
            "CREATE TABLE scratchpad.renamed (us_ssn text)",
            "INSERT INTO scratchpad.renamed VALUES ('rename-canary-12')",
            "ALTER TABLE scratchpad.renamed OWNER TO report_ro",
        )  # fmt: skip


def test_a_view_made_in_the_same_transaction_is_masked(gateway: Gateway) -> None:
    texts = ("BEGIN", "CREATE TEMP VIEW v AS SELECT reverse(us_ssn) AS x, name FROM public.customers",
             "SELECT x, name FROM v", "ROLLBACK")  # fmt: skip
    done = gateway.psql("-At", *texts, at="billing")
    assert not leaks(done.stdout + done.stderr)


def test_a_pseudonym_is_the_same_for_the_same_value_and_null_shows_nothing(gateway: Gateway) -> None:
    said = gateway.answer(
        "SELECT c.card_number, d.card_number, c.us_ssn FROM customers c JOIN customers d USING (id) WHERE id IN (1, 2)",
        at="sealed",
    )
    (first, again, ssn), (second, _, _) = [line.split("|") for line in said.split("\n")]
    assert first == again and first.startswith("masked-") and first != second and ssn == ""


# --- the record


def test_no_protected_value_stands_in_the_shown_record_and_the_originals_are_sealed(gateway: Gateway) -> None:
    """Of this and every other session of this file: decrypted recordings, statements, parameters, replays."""
    asked = "SELECT card_number, us_ssn FROM customers WHERE us_ssn = '219-09-9999' OR card_number = '5555555555554444'"
    gateway.answer(asked, at="billing")
    with psycopg.connect(gateway.conninfo("sealed"), password=gateway.token()) as connection:
        by_parameter = "SELECT name FROM customers WHERE us_ssn = %s"
        assert connection.execute(by_parameter, ("219-09-9999",)).fetchall() == [("Anna Larsen",)]
    newest = str(gateway.newest(ended=True)["ses"])
    keys = Keys.open(gateway.store / "keys")
    sessions = [one for one in gateway.sessions(limit=1000) if one["target"] in ("billing", "sealed")]
    originals = ""
    for session in sessions:
        name = str(session["ses"])
        shown = b"".join(frame.data for frame in recordings.read(recordings.path_of(gateway.evidence, name), keys))
        assert not leaks(shown.decode("utf-8", "replace")), name
        assert not leaks(gateway.record(name)), name
        path = recordings.path_of(gateway.evidence, name, original=True)
        if path.exists():
            originals += b"".join(frame.data for frame in recordings.read(path, keys)).decode("utf-8", "replace")
    record = gateway.record(newest)
    assert '"redacted": true' in record and "Anna Larsen" in record
    assert asked in originals and "4111111111111111" in originals  # sealed, for those who may open them


def test_no_file_of_the_evidence_shows_a_protected_value_in_clear(gateway: Gateway) -> None:
    gateway.answer("SELECT email, us_ssn FROM customers", at="billing")
    for value in (*FOUND, "219-09-9999", "path-canary-77"):
        assert gateway.files_with(value) == [], value


def test_the_count_of_masked_values_is_recorded_per_class(gateway: Gateway) -> None:
    gateway.answer("SELECT card_number, email FROM customers", at="billing")
    masked = gateway.shown()["exchanges"][-1]["masked"]
    assert masked["card_number"] >= 4 and masked["email"] == 5
    assert json.dumps(masked)


def test_an_original_is_sealed_or_where_the_mask_says_so_kept_nowhere(gateway: Gateway) -> None:
    for at, kept in (("billing", True), ("forgetful", False)):
        said = gateway.answer("SELECT card_number FROM customers WHERE us_ssn = '219-09-9999'", at=at)
        assert said == "411111******1111"
        name = str(gateway.newest(ended=True)["ses"])
        assert recordings.path_of(gateway.evidence, name, original=True).exists() is kept
        assert "SELECT card_number" in gateway.record(name)
