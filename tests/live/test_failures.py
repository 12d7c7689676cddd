"""What goes wrong: broken clients, silent ones, floods, dead targets, a full disk. The gateway says so and lives on."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.live import raw, rules, servers
from tests.live.gateway import Gateway, made, until
from tests.live.servers import HOST, Cluster
from tests.live.test_control import broken

STRANGER = "127.0.0.9"  # another address of this machine, for floods that must not lock us out
LOGIN_S = 3


@pytest.fixture(scope="module")
def house(debian: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a short deadline for logins."""
    with made(tmp_path_factory.mktemp("failures"), sessions={"login": f"{LOGIN_S}s"}) as gateway:
        gateway.start()
        gateway.apply(base(gateway, debian))
        yield gateway


def base(gateway: Gateway, cluster: Cluster) -> list[rules.Document]:
    everything = {"verbs": rules.EVERY_VERB, "resources": ["*"]}
    return [
        rules.issuer(gateway.issuer.url),
        rules.identity("wide"),
        rules.target("plain", cluster, "report_trust", None),
        rules.grant("wide", "wide", "plain", "report_trust", everything),
    ]


@pytest.fixture(autouse=True)
def lives_on(house: Gateway) -> Iterator[None]:
    """Whatever a test does to it, another client is served afterwards, and nothing of ours crashed."""
    before = len(house.log())
    yield
    assert house.answer("SELECT 'lives on'") == "lives on"
    assert "Traceback" not in house.log()[before:], house.log()[before:]


def logged_in(house: Gateway, client: raw.Raw) -> None:
    assert client.log_in("wide.plain", house.token())[-1][0] == "Z"


# --- before the login

BEFORE = {
    "garbage": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a negative length": struct.pack("!ii", -5, 196608),
    "a huge length": struct.pack("!ii", 2**31 - 1, 196608),
    "a startup packet that is too long": struct.pack("!ii", 20_000, 196608) + b"x" * 19_992,
    "no end": struct.pack("!ii", 20, 196608) + b"user\0ada\0abc",
    "not UTF-8": struct.pack("!ii", 17, 196608) + b"user\0\xff\xfe\0\0",
    "an old protocol": struct.pack("!ii", 16, 131072) + b"user\0x\0\0",
    "no user": raw.startup("database", "billing"),
    "nothing but zeros": bytes(64),
}


@pytest.mark.parametrize("data", BEFORE.values(), ids=BEFORE.keys())
def test_a_broken_startup_is_told_so_and_closed(house: Gateway, data: bytes) -> None:
    with raw.connected(house.port, house.ca) as client:
        client.send(data)
        kind, body = client.read()
        assert kind == "E" and raw.fields(body)["S"] == "FATAL"
        assert raw.fields(body)["C"] in ("08P01", "0A000", "28000")
        assert client.closed()


def test_random_bytes_never_get_in_and_never_break_it(house: Gateway) -> None:
    source = random.Random(7)
    for n in range(80):
        with raw.connected(house.port, house.ca if n % 2 else None) as client, contextlib.suppress(OSError):
            client.send(source.randbytes(source.randrange(1, 400)))
            client.socket.shutdown(socket.SHUT_WR)
            client.closed()


def test_a_secret_that_is_too_long_is_refused(house: Gateway) -> None:
    with raw.connected(house.port, house.ca) as client:
        client.send(raw.startup("user", "wide.plain", "database", "billing"))
        assert client.read()[0] == "R"
        client.send(raw.message("p", b"x" * 100_000 + b"\0"))
        kind, body = client.read()
        assert kind == "E" and "secret" in raw.fields(body)["M"]


@pytest.mark.parametrize("said", ["nothing", "half a packet", "a startup packet, and no password", "a byte at a time"])
def test_a_slow_client_is_cut_at_the_deadline_and_others_are_served_meanwhile(house: Gateway, said: str) -> None:
    began = time.monotonic()
    with raw.connected(house.port, timeout=LOGIN_S + 10) as client:
        whole = raw.SSL_REQUEST
        if said == "half a packet":
            client.send(whole[:5])
        elif said.startswith("a startup"):
            client.secure(house.ca)
            client.send(raw.startup("user", "wide.plain", "database", "billing"))
            assert client.read()[0] == "R"
        assert house.answer("SELECT 'meanwhile'") == "meanwhile"
        if said == "a byte at a time":
            with contextlib.suppress(OSError):
                for byte in struct.pack("!ii", 9000, 196608) + b"x" * 100:
                    client.send(bytes([byte]))
                    client.socket.settimeout(0.2)
                    with contextlib.suppress(TimeoutError):
                        if not client.socket.recv(4096):
                            break
        else:
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    client.read()
    assert LOGIN_S - 0.5 < time.monotonic() - began < LOGIN_S + 5


def test_six_hundred_silent_connections_of_a_stranger_lock_nobody_out(house: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            silent = socket.create_connection((HOST, house.port), 5, source_address=(STRANGER, 0))
            stack.enter_context(contextlib.closing(silent))
        began = time.monotonic()
        assert house.answer("SELECT 'not locked out'") == "not locked out"
        assert time.monotonic() - began < LOGIN_S
    memory = int(Path(f"/proc/{house.pid}/statm").read_text().split()[1]) * resource.getpagesize()
    assert memory < 400 << 20


# --- after the login

AFTER = {
    "an unknown message": raw.message("?", b"x"),
    "a length below four": b"Q" + struct.pack("!i", 3),
    "a negative length": b"Q" + struct.pack("!i", -1),
    "a message of two gigabytes": b"Q" + struct.pack("!i", 2**31 - 1),
    "a message over the limit": b"Q" + struct.pack("!i", 65 << 20),
    "a query without its end": raw.message("Q", b"SELECT 1"),
    "a Bind that is too short": raw.message("B", b"\0\0\0\5") + raw.message("S"),
    "a Parse with a wrong count": raw.message("P", b"\0SELECT 1\0\x7f\xff") + raw.message("S"),
    "copy data out of place": raw.message("d", b"x") + raw.message("?"),
    "a second password": raw.message("p", b"x\0"),
}


@pytest.mark.parametrize("data", AFTER.values(), ids=AFTER.keys())
def test_a_broken_message_ends_its_session_clearly_and_no_other(house: Gateway, data: bytes) -> None:
    with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as bystander:
        with raw.connected(house.port, house.ca) as client:
            logged_in(house, client)
            client.send(data)
            answer = client.until_ready()
            said = raw.fields(answer[-1][1] if answer[-1][0] == "E" else answer[0][1])
            assert said["C"] == "08P01" and said["M"]
            if answer[-1][0] == "E":
                assert said["S"] == "FATAL" and client.closed()
        assert bystander.execute("SELECT 1").fetchone() == (1,)


def test_half_a_message_and_a_hang_up_reach_nobody(house: Gateway, debian: Cluster) -> None:
    with raw.connected(house.port, house.ca) as client:
        logged_in(house, client)
        client.send(raw.message("Q", b"SELECT 'half-sent-1'\0")[:-4])
    assert house.newest(ended=True)["requests"] == 0
    assert "half-sent" not in debian.log()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "+".join(["1"] * 30_000),
        "SELECT " + "(" * 30_000 + "1" + ")" * 30_000,
        "SELECT E'" + "x" * 3_000_000 + "'",
    ],
    ids=["a long sum", "deep brackets", "three megabytes"],
)
def test_a_text_that_breaks_parsers_is_refused_and_the_session_lives_on(house: Gateway, text: str) -> None:
    with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as connection:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.StatementTooComplex):
            connection.execute(text)
            assert len(text) < 64 << 10, "a text beyond the bound was let through"
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_the_helper_that_reads_sql_may_die(house: Gateway) -> None:
    with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as connection:
        connection.execute("SELECT 'before'")
        for n in range(3):
            children = subprocess.run(["pgrep", "-P", str(house.pid)], capture_output=True, text=True).stdout.split()
            assert children
            for child in children:
                os.kill(int(child), 9)
            found = until(lambda n=n: tried(connection, f"SELECT 'after {n}'"), 20)  # type: ignore[misc]
            assert found == f"after {n}"


def tried(connection: psycopg.Connection[tuple[str]], text: str) -> str:
    """The one value, or nothing where it was refused."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        row = connection.execute(text).fetchone()
        return str(row[0]) if row else ""
    return ""


# --- the target


def test_a_target_that_ends_the_session_is_told_as_it_said_it(house: Gateway, debian: Cluster) -> None:
    with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as connection:
        connection.execute("SELECT 1")
        newest = "WHERE application_name LIKE 'muniment:%' ORDER BY backend_start DESC LIMIT 1"
        pid = debian.sql(f"SELECT pid FROM pg_stat_activity {newest}").strip()
        debian.sql(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.execute("SELECT 2")
            connection.execute("SELECT 3")
        assert "administrator command" in str(caught.value) or "closed" in str(caught.value)
    assert until(lambda: "target" in str((house.shown().get("closed") or {}).get("reason")))


def test_a_client_that_reads_nothing_does_not_fill_the_gateways_memory(house: Gateway) -> None:
    with raw.connected(house.port, house.ca, timeout=20) as client:
        logged_in(house, client)
        client.send(raw.message("Q", b"SELECT repeat('x', 1000) FROM generate_series(1, 500000)\0"))
        house.answer("SELECT pg_sleep(2)")
        memory = int(Path(f"/proc/{house.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        assert memory < 400 << 20


# --- the disk


def test_a_journal_that_cannot_be_written_stops_all_traffic_and_a_restart_recovers(
    debian: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with made(tmp_path_factory.mktemp("unwritable")) as own:
        own.start()
        own.apply(base(own, debian))
        with (
            psycopg.connect(own.conninfo(), password=own.token(), autocommit=True) as one,
            psycopg.connect(own.conninfo(), password=own.token(), autocommit=True) as two,
        ):
            one.execute("SELECT 'written-1'")
            limit = max(path.stat().st_size for path in (own.evidence / "journal").glob("*.jsonl"))
            _, hard = resource.prlimit(own.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(psycopg.Error) as caught:
                one.execute("SELECT 'unwritten-1'")
            assert "journal" in str(caught.value) or "record" in str(caught.value)
            assert until(lambda: broken(two), 5)
        assert "unwritten-1" not in debian.log()
        done = own.psql("SELECT 1")
        assert done.returncode == 2 and "refused" in done.stderr
        assert "journal" in own.log()
        resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert own.psql("SELECT 1").returncode == 2  # it stays closed until somebody looks
        with contextlib.suppress(servers.Broken):
            own.stop()
        own.start()
        assert own.answer("SELECT 'again'") == "again"
        assert own.stop() == 0
        verified = own.verify()
        assert verified.returncode == 0, verified.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0755", "tmpfs", str(where)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here; RLIMIT_FSIZE stands for it in the test before")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_fills_alarms_then_takes_no_sessions_then_no_traffic_and_recovers(
    debian: Cluster, small_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with made(tmp_path_factory.mktemp("full"), store=small_disk / "store") as own:
        own.start()
        own.apply(base(own, debian))
        ballast = small_disk / "ballast"

        def fill(free: float) -> None:
            """Leave this part of the disk free."""
            found = os.statvfs(small_disk)
            size = ballast.stat().st_size if ballast.exists() else 0
            wanted = size + int(found.f_bavail * found.f_frsize - free * found.f_blocks * found.f_frsize)
            with ballast.open("ab") as file:
                while (left := wanted - file.tell()) > 0:
                    try:
                        file.write(b"x" * min(left, 1 << 16))
                        file.flush()
                    except OSError:
                        return

        with psycopg.connect(own.conninfo(), password=own.token(), autocommit=True) as open_one:
            fill(0.15)
            own.wait(lambda: "of the evidence's disk is free" in own.get("status"), "raised no alarm", 15)
            assert own.answer("SELECT 'still served'") == "still served"
            fill(0.05)
            own.wait(lambda: own.psql("SELECT 1").returncode == 2, "took sessions on a full disk", 15)
            assert open_one.execute("SELECT 'an open session goes on'").fetchone()
            fill(0.0)
            with pytest.raises(psycopg.Error):
                for _ in range(200_000):
                    open_one.execute("SELECT %s", ("x" * 20_000,))
        assert "journal" in own.log() or "disk" in own.log()
        ballast.unlink()
        with contextlib.suppress(servers.Broken):
            own.stop()
        own.start()
        assert own.answer("SELECT 'again'") == "again"
        assert own.stop() == 0
        verified = own.verify()
        assert verified.returncode == 0, verified.stdout
        own.close()
