"""The real servers that the other live tests stand on: every login, every client, both versions."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest

from tests.live import servers
from tests.live.certificates import authority
from tests.live.servers import PASSWORDS, Bouncer, Cluster

BY_PASSWORD = ["report_ro", "report_md5", "report_clear"]
COUNT = "SELECT count(*) FROM customers"


@pytest.mark.parametrize("role", [*BY_PASSWORD, "report_trust"])
def test_psql_logs_in_by_every_method(cluster: Cluster, role: str) -> None:
    assert servers.run_psql(cluster.conninfo(role), "-Atc", "SELECT current_user") == f"{role}\n"


@pytest.mark.parametrize("role", [*BY_PASSWORD, "report_tls"])
def test_a_wrong_password_is_refused_by_the_server_itself(debian: Cluster, role: str) -> None:
    refused = servers.psql(debian.conninfo(role, password="wrong"), "-c", "SELECT 1")
    assert refused.returncode == 2
    assert "password authentication failed" in refused.stderr


def test_each_login_is_checked_by_the_method_its_name_says(cluster: Cluster) -> None:
    kept = cluster.sql("SELECT rolname, left(rolpassword, 3) FROM pg_authid WHERE rolpassword IS NOT NULL ORDER BY 1")
    by_scram = dict.fromkeys(("billing_admin", "report_clear", "report_ro", "report_tls"), "SCR")
    assert dict(line.split("|") for line in kept.split()) == by_scram | {"report_md5": "md5"}


def test_tls_is_verified_in_full_and_a_foreign_authority_is_not_trusted(debian: Cluster, tmp_path: Path) -> None:
    assert debian.ca is not None
    full = {"sslmode": "verify-full", "sslrootcert": str(debian.ca.pem)}
    shown = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert servers.run_psql(debian.conninfo("report_tls", **full), "-Atc", shown) == "t|TLSv1.3\n"
    plain = servers.psql(debian.conninfo("report_tls", sslmode="disable"), "-c", "SELECT 1")
    assert "no pg_hba.conf entry" in plain.stderr
    foreign = str(authority(tmp_path, "foreign-ca").pem)
    refused = servers.psql(debian.conninfo("report_tls", sslmode="verify-full", sslrootcert=foreign), "-c", "SELECT 1")
    assert "certificate verify failed" in refused.stderr


@pytest.mark.parametrize("role", BY_PASSWORD)
def test_every_driver_reads_the_customers(cluster: Cluster, role: str) -> None:
    secret, at = PASSWORDS[role], {"host": cluster.host, "port": cluster.port, "user": role, "database": "billing"}

    with psycopg.connect(cluster.conninfo(role)) as three:
        assert three.execute(COUNT).fetchone() == (5,)
    two = psycopg2.connect(cluster.conninfo(role))
    try:
        cursor = two.cursor()
        cursor.execute(COUNT)
        assert cursor.fetchone() == (5,)
    finally:
        two.close()
    native = pg8000.native.Connection(role, cluster.host, "billing", cluster.port, secret)
    try:
        assert native.run(COUNT) == [[5]]
    finally:
        native.close()

    async def read() -> int:
        connection = await asyncpg.connect(**at, password=secret)
        try:
            return int(await connection.fetchval(COUNT))
        finally:
            await connection.close()

    assert asyncio.run(read()) == 5


def test_pgbouncer_passes_a_session_through(bouncer: Bouncer, debian: Cluster) -> None:
    there = f"host={bouncer.host} port={bouncer.port} user=report_trust dbname=billing"
    assert servers.run_psql(there, "-Atc", COUNT) == "5\n"


def test_a_server_is_never_root_and_its_log_holds_the_statements_that_reached_it(cluster: Cluster) -> None:
    owner = subprocess.run(["stat", "-c", "%U", f"/proc/{cluster.pid}"], capture_output=True, text=True, check=True)
    assert owner.stdout.strip() != "root"
    cluster.sql("SELECT 'a mark in the log'")
    assert "SELECT 'a mark in the log'" in cluster.log()


def test_a_server_that_dies_in_use_is_reported_when_it_is_stopped() -> None:
    with pytest.raises(servers.Broken, match="died with"), servers.running(servers.debian()) as short_lived:
        short_lived.process.kill()
        short_lived.process.wait(10)
    assert not short_lived.directory.exists()
