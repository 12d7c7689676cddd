"""What is taped: short conversations of real clients, each using one part of the protocol as that client does."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg
import pg8000.dbapi
import pg8000.native
import psycopg
import psycopg2

from tests.live import servers
from tests.live.servers import HOST, Build, Cluster

ROLE = "report_trust"
DATABASE = "billing"


@dataclass(frozen=True, slots=True)
class At:
    """Where a client connects to (the relay), and the installation whose programs it may use."""

    port: int
    build: Build

    @property
    def conninfo(self) -> str:
        return f"host={HOST} port={self.port} user={ROLE} dbname={DATABASE} sslmode=disable"


@dataclass(frozen=True, slots=True)
class Scenario:
    """run: talks to the server at `At` and returns the client's name and version. server: debian | embedded."""

    name: str
    run: Callable[[At], str]
    server: str = "debian"


SCENARIOS: list[Scenario] = []


def scenario(*, server: str = "debian") -> Callable[[Callable[[At], str]], Callable[[At], str]]:
    """Register a function under its own name."""

    def register(run: Callable[[At], str]) -> Callable[[At], str]:
        SCENARIOS.append(Scenario(run.__name__, run, server))
        return run

    return register


def prepare(cluster: Cluster) -> None:
    """Tables that only the tapes need."""
    cluster.sql("CREATE TABLE scratch (n int, t text)", "GRANT ALL ON scratch TO PUBLIC")
    there = ["-h", HOST, "-p", str(cluster.port), "-U", "postgres", DATABASE]
    subprocess.run(
        [shutil.which("pgbench") or "pgbench", "-i", "-q", "-s", "1", *there],
        check=True, capture_output=True, env=servers.client_environment(),
    )  # fmt: skip
    cluster.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")


def _psql(at: At, script: str, *, more: str = "", own: bool = False) -> str:
    """Feed a script to psql as if typed. own: the psql of the server's installation, not the machine's."""
    program = at.build.program("psql") if own else (shutil.which("psql") or "psql")
    subprocess.run(
        [program, "-X", "-d", f"{at.conninfo} {more}"], input=script.encode(), capture_output=True, timeout=30,
        check=False, env=servers.client_environment(),
    )  # fmt: skip
    return _version(program)


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


# --- psql ---


@scenario()
def psql_simple(at: At) -> str:
    return _psql(
        at,
        """SELECT 1;
SELECT * FROM customers ORDER BY id;
SELECT NULL, '', 'zażółć', 1.5::numeric, now() - now(), true, '{1,NULL}'::int[], '\\x00ff'::bytea;
SELECT id, total FROM invoices WHERE id < 4;
SELECT FROM customers LIMIT 1;
;
SELECT 1 AS a \\; SELECT 2 AS b \\; SELECT 3 AS c;
UPDATE invoices SET state = 'paid' WHERE id = 1;
INSERT INTO scratch VALUES (1, 'x') RETURNING *;
TABLE customer_names;
SET search_path = archive, public;
SELECT * FROM invoices;
""",
    )


@scenario()
def psql_describe(at: At) -> str:
    return _psql(at, "\\d customers\n\\dt\n\\dn\n\\df fx_rate\n\\du report_ro\n\\l billing\n\\conninfo\n")


@scenario()
def psql_errors(at: At) -> str:
    return _psql(
        at,
        """SELEC 1;
SELECT * FROM no_such_table;
SELECT 1/0;
SELECT complain('of customer 4111111111111111');
INSERT INTO customers (name, email) VALUES ('Twice', 'anna@example.org');
SELECT 1 \\; SELECT 1/0 \\; SELECT 2;
DO $$ BEGIN RAISE WARNING 'a warning'; END $$;
SELECT 'still here';
""",
    )


@scenario()
def psql_transaction(at: At) -> str:
    return _psql(
        at,
        """BEGIN;
INSERT INTO scratch VALUES (2, 'in a transaction');
SAVEPOINT one;
SELECT 1/0;
SELECT 'skipped';
ROLLBACK TO one;
SELECT 'good again';
COMMIT;
\\set ON_ERROR_ROLLBACK on
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT 1/0;
SELECT 'rolled back to a savepoint by psql';
ROLLBACK;
COMMIT;
""",
    )


@scenario()
def psql_copy(at: At) -> str:
    return _psql(
        at,
        """COPY customers (id, name, card_number) TO STDOUT;
COPY (SELECT id, total FROM invoices WHERE id < 4) TO STDOUT WITH (FORMAT csv, HEADER);
COPY customers (id, name) TO STDOUT (FORMAT binary);
COPY scratch FROM STDIN;
3\tthree
4\t\\N
\\.
\\copy scratch from stdin csv
5,five
\\.
COPY scratch FROM STDIN;
not a number\tbad
\\.
COPY no_such_table FROM STDIN;
SELECT count(*) FROM scratch;
""",
    )


@scenario()
def psql_fetch_count(at: At) -> str:
    return _psql(at, "\\set FETCH_COUNT 2\nSELECT id, name, card_number FROM customers ORDER BY id;\n")


@scenario()
def psql_prepared(at: At) -> str:
    return _psql(
        at,
        """PREPARE one (bigint) AS SELECT name, card_number FROM customers WHERE id = $1;
EXECUTE one (1);
EXECUTE one (2);
DEALLOCATE one;
EXECUTE one (3);
DECLARE c CURSOR WITH HOLD FOR SELECT id, us_ssn FROM customers;
FETCH 2 FROM c;
MOVE 1 FROM c;
FETCH ALL FROM c;
CLOSE c;
DISCARD ALL;
""",
    )


@scenario(server="embedded")
def psql_bind(at: At) -> str:
    return _psql(
        at,
        """SELECT $1::int + $2::int \\bind 1 2 \\g
SELECT name FROM customers WHERE id = $1 \\bind 1 \\gdesc
SELECT name FROM customers WHERE id = $1 \\parse by_id
\\bind_named by_id 2 \\g
\\bind_named by_id x \\g
\\close_prepared by_id
\\bind_named by_id 2 \\g
SELECT 1/$1::int \\bind 0 \\g
SELECT 'after' \\bind \\g
""",
        own=True,
    )


@scenario(server="embedded")
def psql_pipeline(at: At) -> str:
    return _psql(
        at,
        """\\startpipeline
SELECT $1::text \\bind 'one' \\sendpipeline
INSERT INTO scratch VALUES ($1, $2) \\bind 6 six \\sendpipeline
\\flushrequest
\\getresults
SELECT 'two' \\bind \\sendpipeline
\\syncpipeline
SELECT 1/$1::int \\bind 0 \\sendpipeline
SELECT 'skipped' \\bind \\sendpipeline
\\syncpipeline
SELECT 'three' \\bind \\sendpipeline
\\endpipeline
SELECT 'after';
""",
        own=True,
    )


@scenario(server="embedded")
def psql_asks_tls_and_is_told_no(at: At) -> str:
    return _psql(at, "SELECT 1;\n", more="sslmode=prefer")


@scenario(server="embedded")
def psql_18_protocol_3_2(at: At) -> str:
    return _psql(at, "SELECT version();\n", more="max_protocol_version=latest", own=True)


@scenario()
def psql_18_protocol_3_2_is_negotiated_down(at: At) -> str:
    newer = At(at.port, servers.embedded())
    return _psql(newer, "SELECT version();\n", more="max_protocol_version=latest", own=True)


# --- psycopg 3 ---


def _psycopg() -> str:
    return f"psycopg {psycopg.__version__} ({psycopg.pq.__impl__})"


@scenario()
def psycopg_extended(at: At) -> str:
    with psycopg.connect(at.conninfo, application_name="nightly") as connection:
        connection.execute("SELECT 1").fetchall()
        for which in (1, 2, 999):
            connection.execute("SELECT name, card_number FROM customers WHERE id = %s", (which,)).fetchall()
        connection.execute("SELECT %s, %s, %s, %s", (None, "zażółć", 1.5, datetime.date(2026, 1, 2))).fetchall()
        connection.cursor().executemany("INSERT INTO scratch VALUES (%s, %s)", [(n, str(n)) for n in range(4)])
        connection.rollback()
        try:
            connection.execute("SELECT 1/%s", (0,))
        except psycopg.Error:
            connection.rollback()
        connection.execute("SELECT 'after'").fetchall()
    return _psycopg()


@scenario()
def psycopg_prepared(at: At) -> str:
    with psycopg.connect(at.conninfo, autocommit=True, prepare_threshold=1) as connection:
        for which in (1, 2, 3, 4, 5):
            connection.execute("SELECT name, us_ssn FROM customers WHERE id = %s", (which,)).fetchall()
        connection.execute("SELECT 7", prepare=True).fetchall()
        connection.execute("DEALLOCATE ALL")
        connection.execute("SELECT name, us_ssn FROM customers WHERE id = %s", (1,)).fetchall()
    return _psycopg()


@scenario()
def psycopg_binary(at: At) -> str:
    with psycopg.connect(at.conninfo, autocommit=True) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute("SELECT id, name, card_number, tags, created_at FROM customers WHERE id < %b", (4,))
        cursor.fetchall()
        cursor.execute("SELECT 1::int2, 2::int8, 1.25::float8, 3.75::numeric, true, '\\x00ff'::bytea, '{}'::jsonb")
        cursor.fetchall()
    return _psycopg()


@scenario()
def psycopg_pipeline(at: At) -> str:
    with psycopg.connect(at.conninfo, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            first = connection.execute("SELECT card_number FROM customers WHERE id = %s", (1,))
            connection.execute("INSERT INTO scratch VALUES (%s, %s)", (8, "eight"))
            second = connection.execute("SELECT %s::text", ("two",))
            pipeline.sync()
            first.fetchall()
            second.fetchall()
        try:
            with connection.pipeline():
                connection.execute("SELECT 1/%s", (0,))
                connection.execute("INSERT INTO scratch VALUES (%s, %s)", (9, "skipped"))
        except psycopg.Error:
            pass
        connection.execute("SELECT 'after'").fetchall()
    return _psycopg()


@scenario()
def psycopg_server_cursor(at: At) -> str:
    with psycopg.connect(at.conninfo) as connection:
        with connection.cursor("named") as cursor:
            cursor.itersize = 2
            cursor.execute("SELECT id, card_number FROM customers WHERE id < %s ORDER BY id", (5,))
            list(cursor)
        with connection.cursor("scrolled", scrollable=True) as cursor:
            cursor.execute("SELECT id FROM customers")
            cursor.scroll(2)
            cursor.fetchone()
    return _psycopg()


@scenario()
def psycopg_copy(at: At) -> str:
    with psycopg.connect(at.conninfo) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY scratch FROM STDIN") as copy:
            for n in range(3):
                copy.write_row((n, f"row {n}"))
        with cursor.copy("COPY customers (id, name) TO STDOUT") as copy:
            list(copy.rows())
        try:
            with cursor.copy("COPY scratch FROM STDIN") as copy:
                copy.write_row((1, "one"))
                raise RuntimeError("the client changes its mind: CopyFail")
        except (RuntimeError, psycopg.Error):
            connection.rollback()
    return _psycopg()


# --- psycopg2 ---


@scenario()
def psycopg2_simple(at: At) -> str:
    connection = psycopg2.connect(at.conninfo)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT name, card_number FROM customers WHERE id = %s AND name = %s", (1, "Anna Larsen"))
        cursor.fetchall()
        cursor.execute("INSERT INTO scratch VALUES (%s, %s)", (10, "it's"))
        connection.commit()
        try:
            cursor.execute("SELECT * FROM no_such_table")
        except psycopg2.Error:
            connection.rollback()
        named = connection.cursor("named")
        named.itersize = 2
        named.execute("SELECT id, us_ssn FROM customers")
        list(named)
        named.close()
        cursor.copy_expert("COPY scratch FROM STDIN WITH CSV", io.StringIO("11,eleven\n"))
        cursor.copy_expert("COPY (SELECT id, name FROM customers) TO STDOUT", io.StringIO())
        connection.commit()
    finally:
        connection.close()
    return f"psycopg2 {psycopg2.__version__.split()[0]}"


# --- asyncpg ---


def _asyncpg(at: At, talk: Callable[[asyncpg.Connection], object]) -> str:
    async def run() -> None:
        connection = await asyncpg.connect(host=HOST, port=at.port, user=ROLE, database=DATABASE, ssl=False)
        try:
            await talk(connection)  # type: ignore[misc]
        finally:
            await connection.close()

    asyncio.run(run())
    return f"asyncpg {asyncpg.__version__}"


@scenario()
def asyncpg_prepared(at: At) -> str:
    async def talk(connection: asyncpg.Connection) -> None:
        await connection.execute("SET statement_timeout = 10000")
        for which in (1, 2, 3):
            await connection.fetch("SELECT name, card_number FROM customers WHERE id = $1", which)
        await connection.fetchrow("SELECT home, tags FROM customers WHERE id = 1")  # asks the catalogue for the types
        await connection.executemany("INSERT INTO scratch VALUES ($1, $2)", [(n, str(n)) for n in range(3)])
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.fetch("SELECT 1/$1::int", 0)
        await connection.fetchval("SELECT 'after'")

    return _asyncpg(at, talk)


@scenario()
def asyncpg_cursor(at: At) -> str:
    async def talk(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            async for _ in connection.cursor("SELECT id, us_ssn FROM customers ORDER BY id", prefetch=2):
                pass
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO scratch VALUES (12, 'gone')")
                async with connection.transaction():  # a savepoint
                    await connection.execute("SELECT 1/0")
        except asyncpg.PostgresError:
            pass

    return _asyncpg(at, talk)


@scenario()
def asyncpg_copy(at: At) -> str:
    async def talk(connection: asyncpg.Connection) -> None:
        await connection.copy_records_to_table("scratch", records=[(13, "thirteen"), (14, None)])
        await connection.copy_from_query("SELECT id, name FROM customers WHERE id < $1", 4, output=io.BytesIO())

    return _asyncpg(at, talk)


# --- pg8000 ---


@scenario()
def pg8000_native(at: At) -> str:
    connection = pg8000.native.Connection(ROLE, HOST, DATABASE, at.port, ssl_context=False)
    try:
        connection.run("SELECT name, card_number FROM customers WHERE id = :id", id=1)
        by_id = connection.prepare("SELECT us_ssn FROM customers WHERE id = :id")
        by_id.run(id=1)
        by_id.run(id=2)
        by_id.close()
        connection.run("SELECT 1")
        with contextlib.suppress(pg8000.native.DatabaseError):
            connection.run("SELECT 1/:n", n=0)
        connection.run("SELECT 'after'")
    finally:
        connection.close()
    return f"pg8000 {pg8000.__version__}"


@scenario()
def pg8000_dbapi(at: At) -> str:
    connection = pg8000.dbapi.connect(ROLE, HOST, DATABASE, at.port, ssl_context=False)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT id, total FROM invoices WHERE customer_id = %s", (1,))
        cursor.fetchall()
        cursor.execute("COPY scratch FROM STDIN WITH CSV", stream=io.StringIO("15,fifteen\n"))
        connection.rollback()
        cursor.execute("SELECT 'after'")
    finally:
        connection.close()
    return f"pg8000 {pg8000.__version__}"


# --- pgbench ---


def _pgbench(at: At, mode: str) -> str:
    program = shutil.which("pgbench") or at.build.program("pgbench")
    subprocess.run(
        [program, "-S", "-n", "-c", "1", "-t", "20", "-M", mode, "--random-seed=1", at.conninfo],
        check=True, capture_output=True, timeout=30, env=os.environ | servers.client_environment(),
    )  # fmt: skip
    return _version(program)


@scenario()
def pgbench_simple(at: At) -> str:
    return _pgbench(at, "simple")


@scenario()
def pgbench_extended(at: At) -> str:
    return _pgbench(at, "extended")


@scenario()
def pgbench_prepared(at: At) -> str:
    return _pgbench(at, "prepared")
