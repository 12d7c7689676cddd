"""The loads: pgbench's SELECT, and one large result through psql."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from tests.live import servers
from tests.live.servers import HOST, Broken, Cluster

from bench.cpu import cpu_s
from bench.peers import Peer

DATABASE = "bench"
SCALE = 1  # 100,000 rows: everything stays in the server's memory
WIDE_ROWS = 1_000_000

# Rows of about 200 bytes like those of a real report: ids, times, decimals, hashes, a few words. Nothing in them is to
# be masked, but much looks a little like it, which is what a detector has to pay for.
WIDE = f"""
CREATE TABLE wide AS SELECT
    n::bigint AS id, '2026-01-01'::timestamptz + n * interval '1 second' AS at,
    (n * 7919::bigint % 1000003) / 100.0 AS amount, md5(n::text) AS reference,
    'order ' || n || ' of customer ' || n % 5000 AS title,
    'Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod' AS body
FROM generate_series(1, {WIDE_ROWS}) AS n
"""
# What a DataRow is on the wire: type, length, number of columns, and a length before each value.
WIDE_BYTES = """
SELECT sum(7 + 6 * 4 + length(id::text) + length(at::text) + length(amount::text) + length(reference) + length(title)
           + length(body)) FROM wide
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to load: pgbench's protocol (simple | prepared), clients, TLS on the client's side."""

    mode: str
    clients: int
    tls: bool

    @property
    def name(self) -> str:
        return f"{self.mode}, {self.clients} client{'s' if self.clients > 1 else ''}, {'TLS' if self.tls else 'no TLS'}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. per_s: queries or MB a second; cpu: us a query, or s a GB; login_ms: CPU of one login."""

    per_s: float
    cpu: float
    login_ms: float = 0.0


def prepare(cluster: Cluster, *, large: bool) -> int:
    """Fill the database. Returns the bytes of the large result on the wire, 0 without it."""
    there = ["-h", HOST, "-p", str(cluster.port), "-U", "postgres", DATABASE]
    _run([_pgbench(), "-i", "-q", "-s", str(SCALE), *there], {})
    size = 0
    if large:
        cluster.sql(WIDE, "VACUUM ANALYZE wide", database=DATABASE)
        size = int(cluster.sql(WIDE_BYTES, database=DATABASE))
    cluster.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC", database=DATABASE)
    return size


def queries(peer: Peer, case: Case, seconds: int) -> Sample:
    """Run pgbench for `seconds`. The CPU of logging in is measured apart, with one query a client, and taken out."""
    before = cpu_s(peer.pid) if peer.pid else 0.0
    few, _ = _bench(peer, case, "-t", "1")
    login = (cpu_s(peer.pid) - before) if peer.pid else 0.0
    before = cpu_s(peer.pid) if peer.pid else 0.0
    many, per_s = _bench(peer, case, "-T", str(seconds))
    spent = (cpu_s(peer.pid) - before) if peer.pid else 0.0
    return Sample(per_s, (spent - login) / (many - few) * 1e6, login / (case.clients + 1) * 1e3)


def large_result(peer: Peer, size: int, *, tls: bool) -> Sample:
    """Read `wide` whole with psql."""
    before = cpu_s(peer.pid) if peer.pid else 0.0
    script = "\\timing on\n\\o /dev/null\nSELECT * FROM wide;\n"
    program = shutil.which("psql") or "psql"
    # At this size psql's own memory and CPU are the larger part of the wall clock; only the peer's CPU is judged.
    out = _run([program, "-X", "-At", "-d", peer.conninfo(tls=tls)], {"PGPASSWORD": peer.password}, stdin=script)
    spent = (cpu_s(peer.pid) - before) if peer.pid else 0.0
    took = re.search(r"Time: ([0-9.]+) ms", out)
    if took is None:
        raise Broken(f"psql through {peer.name} printed no time:\n{out[-2000:]}")
    return Sample(size / 1e6 / (float(took[1]) / 1e3), spent / (size / 1e9))


def _bench(peer: Peer, case: Case, *length: str) -> tuple[int, float]:
    out = _run(
        [_pgbench(), "-n", "-S", "-M", case.mode, "-c", str(case.clients), *length, peer.conninfo(tls=case.tls)],
        {"PGPASSWORD": peer.password},
    )
    done = re.search(r"actually processed: (\d+)", out)
    rate = re.search(r"tps = ([0-9.]+)", out)
    failed = re.search(r"failed transactions: (\d+)", out)
    if done is None or rate is None or (failed and int(failed[1])):
        raise Broken(f"pgbench through {peer.name} did not end as it should:\n{out}")
    return int(done[1]), float(rate[1])


def _pgbench() -> str:
    found = shutil.which("pgbench")
    if found is None:
        raise servers.Missing("pgbench is not installed: apt-get install postgresql-contrib")
    return found


def _run(command: list[str], environment: dict[str, str], stdin: str = "") -> str:
    environment = servers.client_environment() | environment
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=600, env=environment)
    if done.returncode:
        raise Broken(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
