"""Drivers that people have, unchanged, under a grant of one table: they connect, prepare, stream and cancel."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pg8000.dbapi
import psycopg
import psycopg2
import psycopg2.extras
import pytest

from tests.live.gateway import Gateway, until
from tests.live.servers import HOST, Cluster

Work = Callable[[Any], Awaitable[None]]


def trusting(gateway: Gateway) -> ssl.SSLContext:
    """What a driver with a context of its own trusts."""
    return ssl.create_default_context(cafile=str(gateway.ca))


def narrow(gateway: Gateway, **how: Any) -> psycopg.Connection[Any]:
    """psycopg under the one-table grant."""
    return psycopg.connect(gateway.conninfo(job="narrow"), password=gateway.token("narrow"), **how)


def running(cluster: Cluster, marker: str) -> bool:
    where = f"state = 'active' AND query LIKE '%{marker}%' AND pid <> pg_backend_pid()"
    return cluster.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}").strip() != "0"


# --- psycopg


def test_psycopg_connects_and_reads_under_a_one_table_grant(gateway: Gateway) -> None:
    with narrow(gateway) as connection:
        row = connection.execute(
            "SELECT id, total, state, issued_on, detail FROM invoices WHERE id = %s", (1,)
        ).fetchone()
        assert row == (1, decimal.Decimal("10.50"), "paid", datetime.date(2026, 2, 1), {"line": 1})
        assert connection.info.parameter_status("server_version")
    with narrow(gateway) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege, match="no-grant"):
        connection.execute("SELECT * FROM customers")


def test_psycopg_prepares_and_uses_binary(gateway: Gateway) -> None:
    with narrow(gateway) as connection:
        for n in range(1, 12):  # psycopg prepares by itself at the sixth
            assert connection.execute("SELECT total FROM invoices WHERE id = %s", (n,)).fetchone() == (n * 10.5,)
        rows = connection.execute("SELECT id, total FROM invoices WHERE id < %b", (4,), binary=True, prepare=True)
        assert [row[0] for row in rows.fetchall()] == [1, 2, 3]


def test_psycopg_pipelines_and_a_refusal_in_one_aborts_the_rest(gateway: Gateway) -> None:
    with narrow(gateway, autocommit=True) as connection:
        with connection.pipeline():
            cursors = [connection.execute("SELECT id FROM invoices WHERE id = %s", (n,)) for n in range(1, 40)]
        assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(1, 40)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.pipeline():
            first = connection.execute("SELECT 1")
            connection.execute("SELECT name FROM customers")
            connection.execute("SELECT 3")
        assert first.fetchone() == (1,)
        assert connection.execute("SELECT 'lives on'").fetchone() == ("lives on",)


def test_psycopg_streams_with_cursors_and_copy(gateway: Gateway) -> None:
    with narrow(gateway) as connection:
        with connection.cursor("server_side") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT id FROM invoices ORDER BY id")
            assert [row[0] for row in cursor] == list(range(1, 51))
        with connection.cursor() as cursor:
            assert len(list(cursor.stream("SELECT id FROM invoices"))) == 50
            cursor.executemany("SELECT id FROM invoices WHERE id = %s", [(1,), (2,)], returning=True)
            assert cursor.fetchone() == (1,)
    with psycopg.connect(gateway.conninfo(), password=gateway.token()) as wide:
        wide.execute("CREATE TEMP TABLE t (a int, b text)")
        with wide.cursor().copy("COPY t FROM STDIN") as copy:
            for n in range(1000):
                copy.write_row((n, f"line {n}"))
        with wide.cursor().copy("COPY t TO STDOUT (FORMAT binary)") as copy:
            assert sum(len(part) for part in copy) > 10_000
        assert wide.execute("SELECT count(*) FROM t").fetchone() == (1000,)


def test_psycopg_cancels(gateway: Gateway, debian: Cluster) -> None:
    with psycopg.connect(gateway.conninfo(), password=gateway.token(), autocommit=True) as connection:

        def cancel() -> None:
            assert until(lambda: running(debian, "psycopg-cancel"))
            connection.cancel_safe() if hasattr(connection, "cancel_safe") else connection.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60), 'psycopg-cancel'")
        thread.join()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_psycopg_rolls_back_and_sees_the_servers_errors(gateway: Gateway) -> None:
    with narrow(gateway) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute("SELECT 1/0")
        with connection.transaction():
            with pytest.raises(psycopg.errors.InvalidTextRepresentation), connection.transaction():
                connection.execute("SELECT 'x'::int FROM invoices")
            assert connection.execute("SELECT count(*) FROM invoices").fetchone() == (50,)


# --- psycopg2


def test_psycopg2_connects_reads_streams_and_is_refused(gateway: Gateway) -> None:
    connection = psycopg2.connect(gateway.conninfo(job="narrow"), password=gateway.token("narrow"))
    try:
        with connection.cursor(cursor_factory=psycopg2.extras.DictCursor) as cursor:
            cursor.execute("SELECT id, total FROM invoices WHERE id = %s", (2,))
            assert dict(cursor.fetchone()) == {"id": 2, "total": decimal.Decimal("21.00")}
        with connection.cursor("named") as cursor:
            cursor.itersize = 10
            cursor.execute("SELECT id FROM invoices")
            assert len(cursor.fetchall()) == 50
        with connection.cursor() as cursor:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="no-grant"):
                cursor.execute("DELETE FROM invoices")
            connection.rollback()
            cursor.execute("SELECT count(*) FROM invoices")
            assert cursor.fetchone() == (50,)
    finally:
        connection.close()


def test_psycopg2_cancels(gateway: Gateway, debian: Cluster) -> None:
    connection = psycopg2.connect(gateway.conninfo(), password=gateway.token())
    try:

        def cancel() -> None:
            assert until(lambda: running(debian, "psycopg2-cancel"))
            connection.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(psycopg2.errors.QueryCanceled), connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60), 'psycopg2-cancel'")
        thread.join()
    finally:
        connection.close()


# --- asyncpg


def through_asyncpg(gateway: Gateway, job: str, work: Work) -> None:
    """Run a coroutine with a connection."""

    async def run() -> None:
        at = {"host": HOST, "port": gateway.port, "user": f"{job}.plain", "database": "billing"}
        connection = await asyncpg.connect(**at, password=gateway.token(job), ssl=trusting(gateway), timeout=20)
        try:
            await work(connection)
        finally:
            await connection.close(timeout=10)

    asyncio.run(run())


def test_asyncpg_connects_prepares_and_reads_binary_types(gateway: Gateway) -> None:
    async def work(connection: Any) -> None:
        row = await connection.fetchrow("SELECT id, total, state, issued_on, detail FROM invoices WHERE id = $1", 1)
        assert (row["id"], row["total"], row["state"]) == (1, decimal.Decimal("10.50"), "paid")
        assert row["issued_on"] == datetime.date(2026, 2, 1)
        statement = await connection.prepare("SELECT total FROM invoices WHERE id = ANY($1::bigint[]) ORDER BY id")
        for _ in range(3):
            assert [one["total"] for one in await statement.fetch([1, 2])] == [decimal.Decimal("10.5"), 21]
        assert [attribute.name for attribute in statement.get_attributes()] == ["total"]

    through_asyncpg(gateway, "narrow", work)


def test_asyncpg_is_refused_and_lives_on(gateway: Gateway) -> None:
    async def work(connection: Any) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no-grant"):
            await connection.fetch("SELECT * FROM customers")
        async with connection.transaction():
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute("UPDATE invoices SET total = 1 WHERE id = $1", 1)
            assert await connection.fetchval("SELECT count(*) FROM invoices") == 50

    through_asyncpg(gateway, "narrow", work)


def test_asyncpg_streams_with_a_cursor_and_copies(gateway: Gateway) -> None:
    async def work(connection: Any) -> None:
        async with connection.transaction():
            found = [row["id"] async for row in connection.cursor("SELECT id FROM invoices ORDER BY id", prefetch=7)]
        assert found == list(range(1, 51))
        await connection.execute("CREATE TEMP TABLE t (a int, b text)")
        rows = [(n, f"line {n}") for n in range(500)]
        assert await connection.copy_records_to_table("t", records=rows) == "COPY 500"
        await connection.executemany("INSERT INTO t VALUES ($1, $2)", [(1000, "x"), (1001, None)])
        assert await connection.fetchval("SELECT count(*) FROM t") == 502

    through_asyncpg(gateway, "wide", work)


def test_asyncpg_cancels_by_timeout(gateway: Gateway, debian: Cluster) -> None:
    async def work(connection: Any) -> None:
        with pytest.raises(TimeoutError):
            await connection.fetch("SELECT pg_sleep(60), 'asyncpg-cancel'", timeout=0.5)
        assert await connection.fetchval("SELECT 1") == 1

    through_asyncpg(gateway, "wide", work)
    assert until(lambda: not running(debian, "asyncpg-cancel"))


def test_an_asyncpg_pool_resets_its_connections(gateway: Gateway) -> None:
    async def run() -> None:
        at = {"host": HOST, "port": gateway.port, "user": "narrow.plain", "database": "billing"}
        async with asyncpg.create_pool(
            **at, password=gateway.token("narrow"), ssl=trusting(gateway), min_size=2, max_size=4
        ) as pool:
            found = await asyncio.gather(
                *(pool.fetchval("SELECT total FROM invoices WHERE id = $1", n) for n in range(1, 30))
            )
        assert found == [decimal.Decimal(n) * decimal.Decimal("10.5") for n in range(1, 30)]

    asyncio.run(run())


# --- pg8000


def test_pg8000_connects_reads_and_is_refused(gateway: Gateway) -> None:
    connection = pg8000.dbapi.connect(
        user="narrow.plain", password=gateway.token("narrow"), host=HOST, port=gateway.port, database="billing",
        ssl_context=trusting(gateway),
    )  # fmt: skip
    try:
        cursor = connection.cursor()
        for n in (1, 2):
            cursor.execute("SELECT id, total FROM invoices WHERE id = %s", (n,))
            assert cursor.fetchall() == ([n, decimal.Decimal(n) * decimal.Decimal("10.5")],)
        with pytest.raises(pg8000.dbapi.DatabaseError, match="42501"):
            cursor.execute("SELECT us_ssn FROM customers")
        connection.rollback()
        cursor.execute("SELECT count(*) FROM invoices")
        assert cursor.fetchone() == [50]
    finally:
        connection.close()


# --- what every driver leaves behind


def test_every_statement_of_a_driver_is_in_the_record_with_its_parameters(gateway: Gateway) -> None:
    with narrow(gateway) as connection:
        connection.execute("SELECT total FROM invoices WHERE id = %s AND 'recorded-1' = %s", (17, "recorded-1"))
    exchanges = gateway.shown()["exchanges"]
    one = next(each for each in exchanges if "recorded-1" in str(each["parameters"]))
    assert one["parameters"] == ["17", "recorded-1"] and one["touches"] == ["select relation public.invoices"]
    assert (one["decision"], one["status"], one["rows"]) == ("allow", "ok", 1)
    assert [each["n"] for each in exchanges] == list(range(1, len(exchanges) + 1))
