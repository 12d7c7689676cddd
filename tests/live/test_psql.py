"""The machine's real psql through the real gateway: what works directly works the same, what must not pass does not."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import raw, rules, servers
from tests.live.gateway import Gateway, Psql, made, until
from tests.live.servers import Cluster


@pytest.fixture(scope="module")
def ports(debian: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, int, int]]:
    """A gateway with two targets that have ports of their own, and plaintext allowed on loopback."""
    first, second = servers.free_port(), servers.free_port()
    directory = tmp_path_factory.mktemp("ports")
    with made(directory, listen={"allowPlaintextLoopback": True}) as gateway:
        gateway.start()
        documents = [rules.issuer(gateway.issuer.url), rules.identity("wide")]
        for name, port in (("one", first), ("two", second)):
            documents += [
                rules.target(name, debian, "report_trust", None, listen={"port": port}),
                rules.grant(f"wide-at-{name}", "wide", name, "report_trust", rules.INVOICES),
            ]
        gateway.apply(documents)
        yield gateway, first, second


def same(gateway: Gateway, cluster: Cluster, script: str, *options: str) -> str:
    """Run a script directly and through the gateway; both must say the same, errors and notices too."""
    direct = servers.psql(cluster.conninfo("billing_admin"), *options, stdin=script)
    through = gateway.psql(*options, stdin=script)
    assert through.stdout.split("\n") == direct.stdout.split("\n")
    assert through.stderr.split("\n") == direct.stderr.split("\n")
    assert through.returncode == direct.returncode
    return through.stdout + through.stderr


# --- connecting


def test_psql_connects_with_verify_full_and_sees_tls(gateway: Gateway) -> None:
    done = gateway.psql("\\conninfo", "SELECT 1 AS one")
    assert done.returncode == 0, done.stderr
    assert "TLSv1.3" in done.stdout


def test_a_client_that_trusts_another_ca_does_not_send_its_token(gateway: Gateway, debian: Cluster) -> None:
    assert debian.ca is not None
    before = gateway.get("logins")
    done = gateway.psql("SELECT 1", sslrootcert=str(debian.ca.pem))
    assert "certificate verify failed" in done.stderr
    assert gateway.get("logins") == before


def test_a_password_without_tls_is_never_asked_for(gateway: Gateway) -> None:
    done = gateway.psql("SELECT 1", sslmode="disable")
    assert done.returncode == 2
    assert "takes no password without TLS" in done.stderr and "verify-full" in done.stderr


def test_a_password_without_tls_is_taken_on_loopback_where_configured(ports: tuple[Gateway, int, int]) -> None:
    gateway, first, _ = ports
    assert gateway.answer("SELECT count(*) FROM invoices", at="", port=str(first), sslmode="disable") == "50"


def test_the_target_is_found_by_port_or_by_suffix(ports: tuple[Gateway, int, int]) -> None:
    gateway, first, second = ports
    for how in ({"at": "", "port": str(first)}, {"at": "one", "port": str(first)}, {"at": "one"}):
        gateway.answer("SELECT 1", **how)
        assert gateway.newest()["target"] == "one"
    gateway.answer("SELECT 1", at="", port=str(second))
    assert gateway.newest()["target"] == "two"


@pytest.mark.parametrize(
    ("at", "by_port", "got"),
    [("two", True, "the listener is for one, the user name says two"), ("", False, "neither"), ("none", False, "none")],
)
def test_no_target_or_two_that_disagree_are_refused_and_the_operator_sees_the_forms(
    ports: tuple[Gateway, int, int], at: str, by_port: bool, got: str
) -> None:
    gateway, first, _ = ports
    done = gateway.psql("SELECT 1", at=at, **({"port": str(first)} if by_port else {}))
    assert "login refused (ref " in done.stderr
    refused = gateway.get("logins", limit=1)
    assert got in refused and "user=IDENTITY.TARGET" in refused


def test_startup_parameters_on_the_list_take_effect_and_others_are_refused_by_name(gateway: Gateway) -> None:
    said = gateway.answer(
        "SHOW datestyle; SHOW work_mem; SHOW application_name", options="-c datestyle=German -c work_mem=2MB",
        application_name="nightly",
    )  # fmt: skip
    assert said.split("\n") == ["German, DMY", "2MB", "nightly"]
    for options, word in (
        ("-c session_preload_libraries=evil", "session_preload_libraries"),
        ("-c role=postgres", "role"),
        ("-c standard_conforming_strings=off", "standard_conforming_strings"),
    ):
        done = gateway.psql("SELECT 1", options=options)
        assert done.returncode == 2 and word in done.stderr
    assert "client_encoding" in gateway.psql("SELECT 1", client_encoding="SJIS").stderr


def test_replication_is_refused_clearly(gateway: Gateway) -> None:
    for mode in ("database", "true"):
        done = gateway.psql("IDENTIFY_SYSTEM", replication=mode)
        assert done.returncode == 2 and "replication connections do not pass this gateway" in done.stderr


def test_a_fast_path_call_is_refused_and_the_session_lives_on(gateway: Gateway, debian: Cluster) -> None:
    oid = int(debian.sql("SELECT 'pg_backend_pid'::regproc::oid::int"))
    with raw.connected(gateway.port, gateway.ca) as client:
        assert client.log_in("wide.plain", gateway.token())[-1][0] == "Z"
        client.send(raw.message("F", struct.pack("!ihhh", oid, 0, 0, 0)))
        answer = client.until_ready()
        assert [kind for kind, _ in answer] == ["E", "Z"]
        said = raw.fields(answer[0][1])
        assert said["C"] == "0A000" and "function" in said["M"]
        client.send(raw.message("Q", b"SELECT 1\0"))
        assert "D" in [kind for kind, _ in client.until_ready()]


# --- the same as without a gateway

SCRIPTS = {
    "several statements in one message": "SELECT 1 AS a\\; SELECT 2 AS b, NULL AS c;",
    "transactions and savepoints": """
        BEGIN; SAVEPOINT a; SELECT 1/0; ROLLBACK TO a; SELECT 'still here'; COMMIT; SELECT 1;
        BEGIN; SELECT nosuch; SELECT 2; COMMIT;""",
    "errors with code, detail, hint and position": """
        \\set VERBOSITY verbose
        SELECT * FROM nosuch; SELECT nme FROM customer_names; SELECT 1/0; SELECT 'x'::int;
        INSERT INTO invoices (customer_id, total) VALUES (999, 1);
        INSERT INTO invoices (customer_id, total) VALUES (1, -1); SELECT count(*) FROM invoices;""",
    "notices": """
        SET client_min_messages = debug1; SELECT complain('to the client'); DROP TABLE IF EXISTS nosuch;
        SET client_min_messages = warning; COMMIT;""",
    "settings": "SET datestyle = German; SELECT date '2026-02-01'; RESET datestyle; SHOW datestyle; SET nosuch = 1;",
    "descriptions": """
        \\d
        \\d customers
        \\d+ invoices
        \\dt *.*
        \\dn
        \\df public.*
        \\dv
        \\di
        \\dT
        \\dp invoices
        \\l billing
        \\sf fx_rate
        \\d events""",
    "copy to the client": """
        COPY invoices TO STDOUT; COPY (SELECT id, total FROM invoices LIMIT 3) TO STDOUT (FORMAT csv, HEADER);
        \\copy archive.invoices to stdout csv""",
    "copy from the client": """
        CREATE TEMP TABLE t (a int, b text);
        COPY t FROM STDIN;
1\tone
2\t\\N
\\.
        SELECT * FROM t;
        COPY t FROM STDIN (FORMAT csv);
3,"three, four"
x,not a number
\\.
        SELECT count(*) FROM t;""",
    "temporary tables, prepared statements, cursors": """
        CREATE TEMP TABLE t AS SELECT n FROM generate_series(1, 5) n;
        PREPARE p (int) AS SELECT * FROM t WHERE n > $1;
        EXECUTE p(3); BEGIN; DECLARE c CURSOR FOR SELECT * FROM t;
        FETCH 2 FROM c; MOVE 1 FROM c; FETCH ALL FROM c;
        COMMIT; DEALLOCATE p;""",
    "gexec, gset and crosstab": """
        SELECT 'SELECT ' || n FROM generate_series(1, 3) n \\gexec
        SELECT 7 AS seven \\gset
        SELECT :seven + 1;
        SELECT a, b, a * b FROM generate_series(1, 2) a, generate_series(1, 2) b \\crosstabview""",
    "odd values": """
        SELECT '', NULL, E'tab\\tnew\\nline', 'żółć 日本語', '{1,NULL}'::int[],
            '\\xdeadbeef'::bytea, 1e300, 'NaN'::float;""",
    "an empty statement": ";\n;;",
    "listen and notify": "LISTEN moved; NOTIFY moved, 'payload'; UNLISTEN moved;",
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_psql_says_the_same_as_without_a_gateway(gateway: Gateway, debian: Cluster, script: str) -> None:
    said = same(gateway, debian, script, "-a", "-P", "null=NULL") if "NOTIFY" not in script else ""
    if not said:  # the notification carries the server's process id
        assert 'Asynchronous notification "moved" with payload "payload"' in gateway.psql(stdin=script).stdout
    assert "42501" not in said


def test_what_the_gateway_cannot_read_is_refused_by_itself_and_says_where(gateway: Gateway, debian: Cluster) -> None:
    said = gateway.refusal("SELECT 'unreadable' FRM customers")
    assert "42501" in said and "syntax error at character 25" in said
    assert "42501" in gateway.refusal("EXECUTE never_prepared")
    assert "'unreadable'" not in debian.log()


def test_the_extended_protocol_with_parameters_says_the_same(
    gateway: Gateway, debian: Cluster, embedded: Cluster
) -> None:
    psql = str(embedded.build.bin / "psql")  # the machine's may be too old for \bind; the wheel's speaks no TLS
    script = """
        SELECT $1::int + 1, $2 \\bind 41 'text' \\g
        SELECT * FROM invoices WHERE id = $1 \\bind 3 \\g
        SELECT $1::int \\bind x \\g
    """
    with made(gateway.directory / "plaintext", listen={"allowPlaintextLoopback": True}) as other:
        other.start()
        documents = [
            rules.issuer(other.issuer.url),
            rules.identity("wide"),
            rules.target("plain", debian, "report_trust", None),
            rules.grant("wide", "wide", "plain", "report_trust", rules.INVOICES),
        ]
        other.apply(documents)
        ways = [
            (debian.conninfo("report_trust"), ""),
            (f"host=127.0.0.1 port={other.port} user=wide.plain dbname=billing sslmode=disable", other.token()),
        ]
        said = [servers.psql(way, stdin=script, password=secret, program=psql) for way, secret in ways]
    assert (said[0].stdout, said[0].stderr) == (said[1].stdout, said[1].stderr)
    assert "42 | text" in said[0].stdout and "(1 row)" in said[0].stdout and "22P02" not in said[0].stdout


def test_a_large_result_comes_whole(gateway: Gateway, debian: Cluster) -> None:
    text = "SELECT md5(string_agg(n || repeat('x', 50), ',')) FROM generate_series(1, 200000) n"
    rows = "SELECT n || repeat('x', 50) FROM generate_series(1, 200000) n"
    done = gateway.psql("-At", rows)
    assert done.returncode == 0
    assert hashlib.md5(done.stdout.strip().replace("\n", ",").encode()).hexdigest() == debian.sql(text).strip()


def test_one_wide_value_comes_whole(gateway: Gateway) -> None:
    assert len(gateway.answer("SELECT repeat('x', 20000000)")) == 20_000_000


def test_copy_in_and_out_of_an_unprotected_table_changes_the_target(
    gateway: Gateway, debian: Cluster, tmp_path: Path
) -> None:
    debian.sql("CREATE TABLE copied (a int, b text)", "GRANT ALL ON copied TO PUBLIC")
    try:
        source = tmp_path / "in.csv"
        source.write_text("".join(f"{n},line {n}\n" for n in range(50_000)))
        gateway.answer(f"\\copy copied from '{source}' csv")
        assert debian.sql("SELECT count(*), sum(a) FROM copied").strip() == "50000|1249975000"
        gateway.answer(f"\\copy copied to '{tmp_path / 'out.csv'}' csv")
        assert (tmp_path / "out.csv").read_text() == source.read_text()
    finally:
        debian.sql("DROP TABLE copied")


# --- Ctrl-C


def running(cluster: Cluster, marker: str) -> bool:
    """Whether a statement with this marker runs at the target at this moment."""
    where = f"state = 'active' AND query LIKE '%{marker}%' AND pid <> pg_backend_pid()"
    return cluster.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}").strip() != "0"


def test_ctrl_c_cancels_a_running_query_at_the_target(gateway: Gateway, debian: Cluster) -> None:
    with gateway.waiting("SELECT 'marker-cancel', pg_sleep(60)", "SELECT 'lives on'") as psql:
        assert until(lambda: running(debian, "marker-cancel"))
        psql.interrupt()
        psql.says("canceling statement due to user request")
        assert psql.wait() == 1
    assert until(lambda: not running(debian, "marker-cancel"))


def test_ctrl_c_withdraws_a_held_statement_which_never_reaches_the_target(gateway: Gateway, debian: Cluster) -> None:
    with gateway.waiting("SELECT fx_rate('CANCELLED')", at="guarded") as psql:
        name = psql.approval()
        psql.interrupt()
        psql.says("ERROR")
        psql.wait()
    gateway.wait(lambda: approval_state(gateway, name) == "withdrawn", "did not withdraw the question")
    assert "CANCELLED" not in debian.log()


def approval_state(gateway: Gateway, name: str) -> str:
    return str(json.loads(gateway.get(f"approvals/{name}"))["state"])


def test_a_cancel_with_a_wrong_key_cancels_nothing(gateway: Gateway, debian: Cluster) -> None:
    with raw.connected(gateway.port, gateway.ca, timeout=20) as client:
        hello = dict(client.log_in("wide.plain", gateway.token()))
        pid, secret = struct.unpack("!ii", hello["K"][:8])
        client.send(raw.message("Q", b"SELECT 'marker-key', pg_sleep(1.5)\0"))
        assert until(lambda: running(debian, "marker-key"))
        with raw.connected(gateway.port) as other:
            other.send(struct.pack("!iiii", 16, 80877102, pid, secret ^ 1))
            assert other.closed()
        assert "D" in [kind for kind, _ in client.until_ready()]
        client.send(raw.message("Q", b"SELECT 'marker-key-2', pg_sleep(30)\0"))
        assert until(lambda: running(debian, "marker-key-2"))
        with raw.connected(gateway.port) as other:
            other.send(struct.pack("!iiii", 16, 80877102, pid, secret))
            assert other.closed()
        answer = client.until_ready()
        assert raw.fields(answer[-2][1])["C"] == "57014"


def test_a_client_that_vanishes_ends_its_session(gateway: Gateway, debian: Cluster) -> None:
    psql = Psql(gateway.conninfo(), ["-c", "SELECT 'marker-gone', pg_sleep(60)"], gateway.token())
    try:
        assert until(lambda: running(debian, "marker-gone"))
        assert gateway.newest()["live"]
        psql.process.kill()
        assert gateway.newest(ended=True)["closed_us"]
    finally:
        psql.end()
        others = "query LIKE '%marker-gone%' AND pid <> pg_backend_pid()"
        debian.sql(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {others}")


def test_a_gssapi_request_is_declined_and_the_login_goes_on(gateway: Gateway) -> None:
    with socket.create_connection((servers.HOST, gateway.port), 5) as client:
        client.sendall(struct.pack("!ii", 8, 80877104))
        assert client.recv(1) == b"N"
        client.sendall(raw.SSL_REQUEST)
        assert client.recv(1) == b"S"
