"""What stands in the record: listed, shown, replayed, verified; and that whoever alters it is found out."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.live import raw, rules, servers
from tests.live.gateway import PROGRAM, Gateway, Psql, made, until
from tests.live.servers import Cluster

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def house(debian: Cluster, secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of its own with a record to look at: reads, a write, a denial, a hold, masks."""
    with made(tmp_path_factory.mktemp("record"), "grace", "ada", "hana") as gateway:
        gateway.start()
        gateway.apply(rules.world(gateway.issuer.url, debian, secrets, gateway.people))
        gateway.answer("SELECT card_number FROM customers WHERE id = 1", at="billing", secret=report(gateway))
        gateway.psql("DROP TABLE invoices", at="guarded")
        gateway.answer("UPDATE invoices SET state = state WHERE id = 1")
        with gateway.waiting("SELECT fx_rate('EUR')", at="guarded") as psql:
            gateway.decide(psql.approval(), reason="OPS-1412")
            assert psql.wait() == 0
        gateway.newest(ended=True)
        yield gateway


def report(gateway: Gateway) -> str:
    """A token of the run that the tests look for."""
    secret = gateway.token(kind="schedule", actor="nightly", run_id="run-4711")
    gateway.run = "run-4711"
    return secret


# --- sessions list, show, replay


def test_sessions_are_listed_by_identity_initiator_run_target_and_verb(house: Gateway) -> None:
    everything = house.sessions()
    assert [one["opened_us"] for one in everything] == sorted((one["opened_us"] for one in everything), reverse=True)
    named = ("--identity", "wide", "--initiator", "nightly", "--run", "run-4711", "--target", "billing")
    one = house.asked("sessions", "list", *named, "--verb", "select", "--since", "1h")
    assert len(one) == 1 and (one[0]["initiator"], one[0]["initiator_id"]) == ("schedule", "nightly")
    for name, value in (("initiator", "nightly"), ("run", "run-4711")):
        assert house.sessions(**{name: value}) == one
    assert {each["target"] for each in house.sessions(target="guarded")} == {"guarded"}
    assert len(house.sessions(verb="update")) == len(house.sessions(verb="drop")) == 1
    assert house.sessions(identity="narrow") == []
    said = house.cli("sessions", "list").stdout
    assert one[0]["ses"] in said and "run-4711" in said


def test_show_tells_who_what_how_it_was_judged_and_how_it_ended(house: Gateway) -> None:
    name = house.asked("sessions", "list", "--run", "run-4711")[0]["ses"]
    said = house.cli("sessions", "show", name).stdout
    for word in (
        "wide",
        "billing",
        "report_ro",
        "run-4711",
        "schedule",
        "public.customers",
        "wide-at-billing",
        "allow",
    ):
        assert word in said, said
    denied = house.asked("sessions", "list", "--verb", "drop")[0]["ses"]
    said = house.cli("sessions", "show", denied).stdout
    assert "DROP TABLE invoices" in said and "production-safety" in said and "deny" in said


def test_show_and_replay_print_the_question_the_rule_and_every_decision(house: Gateway) -> None:
    held = next(one["ses"] for one in house.asked("sessions", "list", "--verb", "call"))
    for command in (("show", held), ("replay", held, "--speed", "0")):
        said = house.cli("sessions", *command).stdout
        for word in ("fx_rate", "production-safety", "grace", "OPS-1412"):
            assert word in said, (command, said)
        assert re.search(r"A-[2-9A-Z]{4}-[2-9A-Z]{4}", said)
    exchanges = house.asked("sessions", "show", held)["exchanges"]
    decisions = [each for one in exchanges for asked in one["approvals"] for each in asked["history"]]
    assert all(each["t_us"] and each["index"] >= 0 for each in decisions)


def test_replay_shows_what_was_seen_and_keeps_its_timing(house: Gateway) -> None:
    with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as connection:
        connection.execute("SELECT 'first'")
        connection.execute("SELECT pg_sleep(1.5)")
        connection.execute("SELECT 'last'")
    name = str(house.newest(ended=True)["ses"])
    events = [
        json.loads(line)
        for line in house.cli("sessions", "replay", name, "--speed", "0", "--json").stdout.split("\n")
        if line
    ]
    times = [event["t_us"] for event in events]
    assert times == sorted(times)
    first, last = (next(e for e in events if word in str(e["rows"])) for word in ("first", "last"))
    assert 1_400_000 < last["t_us"] - first["t_us"] < 10_000_000
    spent = []
    for speed in ("0", "1"):
        began = time.monotonic()
        assert "last" in house.cli("sessions", "replay", name, "--speed", speed).stdout
        spent.append(time.monotonic() - began)
    assert spent[1] - spent[0] > 0.7


def test_an_operator_cuts_a_session_and_says_why(house: Gateway) -> None:
    with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as connection:
        connection.execute("SELECT 1")
        name = str(house.newest()["ses"])
        assert house.cli("sessions", "cut", name, "--reason", "it runs wild").returncode == 0
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert "it runs wild" in house.shown()["closed"]["reason"]
    assert house.cli("sessions", "cut", name, "--reason", "again").returncode == 1


def test_reading_the_record_is_recorded(house: Gateway) -> None:
    name = house.asked("sessions", "list", "--run", "run-4711")[0]["ses"]
    house.cli("sessions", "replay", name, "--speed", "0")

    def viewed() -> bool:
        lines = (house.evidence / "log" / "records.jsonl").read_text().splitlines()
        return any(one["kind"] == "evidence.view" and one["what"] == "replay" for one in map(json.loads, lines))

    assert until(viewed)


def test_the_session_is_named_in_the_targets_own_log_and_the_backend_in_ours(house: Gateway, debian: Cluster) -> None:
    house.answer("SELECT pg_backend_pid()", application_name="reporting-tool")
    name = str(house.newest(ended=True)["ses"])
    pid = house.shown()["target"]["pid"]
    authorized = [line for line in debian.log().splitlines() if "connection authorized" in line and name in line]
    assert len(authorized) == 1 and f"application_name=muniment:{name}" in authorized[0]
    assert authorized[0].startswith(f"{pid} ")
    assert f"{pid} billing_admin@billing [reporting-tool]" in debian.log()  # its own name is set behind that


# --- the evidence


def test_the_evidence_verifies_by_the_command_and_by_the_file_alone(house: Gateway) -> None:
    house.signed()
    assert house.cli("evidence", "verify").returncode == 0
    done = house.verify(house.copied())
    assert done.returncode == 0, done.stdout
    counts = json.loads(house.verify(house.copied(), "--json").stdout)["counts"]
    assert counts and all(isinstance(number, int) for number in counts.values())
    out = house.directory / "exported"
    assert house.cli("evidence", "export", "-o", str(out)).returncode == 0
    assert house.verify(out).returncode == 0
    key = house.asked("evidence", "key")["vkey"]
    assert key == (house.directory / "log.pub").read_text().strip()


def at_line(number: int, change: Callable[[list[bytes]], None]) -> Damage:
    def damage(copy: Path) -> None:
        path = copy / "log" / "records.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        change(lines)
        path.write_bytes(b"".join(lines))

    return damage


def flip(lines: list[bytes]) -> None:
    lines[7] = lines[7].replace(b'"t":1', b'"t":2', 1)


def remove(lines: list[bytes]) -> None:
    del lines[7]


def swap_lines(lines: list[bytes]) -> None:
    lines[7], lines[8] = lines[8], lines[7]


def cut_the_tail(copy: Path) -> None:
    """Give out an older, honestly signed state."""
    history = (copy / "log" / "checkpoints.jsonl").read_text().splitlines()
    old = next(
        text
        for text in map(checkpoint_in, history)
        if 0 < size_of(text) < size_of((copy / "log" / "checkpoint").read_text())
    )
    (copy / "log" / "checkpoint").write_text(old)
    path = copy / "log" / "records.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[: size_of(old)]))


def checkpoint_in(line: str) -> str:
    """The note that stands in a line of the history, whatever it is called there."""
    return next(value for value in json.loads(line).values() if isinstance(value, str) and "\n" in value)


def size_of(note: str) -> int:
    return int(note.split("\n")[1])


def swap_recordings(copy: Path) -> None:
    one, two = sorted((copy / "recordings").glob("*.rec"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def flip_recording(copy: Path) -> None:
    path = sorted((copy / "recordings").glob("*.rec"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_recording(copy: Path) -> None:
    sorted((copy / "recordings").glob("*.rec"))[0].unlink()


def flip_journal(copy: Path) -> None:
    path = next((copy / "journal").glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"decision":"deny"', b'"decision":"grin"', 1))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a flipped byte": (at_line(7, flip), r"8|7"),
    "a removed line": (at_line(7, remove), r"8|7"),
    "two lines exchanged": (at_line(7, swap_lines), r"8|7"),
    "recordings exchanged": (swap_recordings, r"s-[0-9a-f]{16}\.rec"),
    "a flipped byte in a recording": (flip_recording, r"s-[0-9a-f]{16}\.rec"),
    "a recording that is gone": (remove_recording, r"s-[0-9a-f]{16}\.rec"),
    "a flipped byte in the journal": (flip_journal, r"journal"),
}


@pytest.mark.parametrize(("damage", "where"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_makes_the_verifier_fail_and_say_where(house: Gateway, damage: Damage, where: str) -> None:
    house.signed()
    copy = house.copied()
    assert house.verify(copy).returncode == 0
    damage(copy)
    done = house.verify(copy)
    assert done.returncode == 1, done.stdout
    assert re.search(where, done.stdout), done.stdout


def test_a_tail_cut_behind_a_checkpoint_that_was_kept_is_found(house: Gateway) -> None:
    house.signed()
    house.answer("SELECT 1")
    house.newest(ended=True)
    house.signed()
    copy = house.copied()
    held = house.directory / "held"
    held.write_text((copy / "log" / "checkpoint").read_text())
    assert house.verify(copy, "--checkpoint", str(held)).returncode == 0
    cut_the_tail(copy)
    done = house.verify(copy, "--checkpoint", str(held))
    assert done.returncode == 1 and str(size_of(held.read_text())) in done.stdout, done.stdout


def test_another_key_verifies_nothing(house: Gateway, tmp_path: Path) -> None:
    key = (house.evidence / "log" / "key.pub").read_text().strip()
    other = key[:-8] + ("A" * 8 if key[-8:] != "A" * 8 else "B" * 8)
    done = house.verify(house.copied(), "--key", other)
    assert done.returncode in (1, 2)


# --- kill -9


def test_kill_9_in_mid_session_loses_nothing_that_was_released(house: Gateway, debian: Cluster) -> None:
    busy = Psql(house.conninfo(), ["-c", "SELECT 'killed-1'", "-c", "SELECT pg_sleep(30), 'killed-2'"], house.token())
    run = house.run
    try:
        with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as connection:
            for n in range(200):
                assert connection.execute("SELECT %s::int", (n,)).fetchone() == (n,)
            found = "query LIKE '%killed-2%' AND state = 'active' AND pid <> pg_backend_pid()"
            assert until(lambda: debian.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {found}").strip() == "1")
            house.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        busy.says("server closed the connection|SSL")
    finally:
        busy.end()
        debian.sql(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {found}")
    before = len(house.log())
    house.start()
    said = r"recovered: the last run did not end in order: 2 sessions were open; \d+ exchanges had been released"
    assert re.search(said, house.log()[before:]), house.log()[before:]
    counted = house.sessions(run=house.run)[0]
    assert counted["requests"] == 200 and not counted["live"]
    house.run = run
    exchanges = house.shown()["exchanges"]
    assert ["killed-1" in exchanges[0]["statement"], "killed-2" in exchanges[1]["statement"]] == [True, True]
    assert (exchanges[0]["status"], exchanges[1]["status"]) == ("ok", "unknown")
    assert "killed-1" in house.record()
    house.answer("SELECT 1")
    house.signed()
    done = house.verify(house.copied())
    assert done.returncode == 0, done.stdout


# --- secrets


def test_no_secret_is_in_any_log_argument_file_or_database(house: Gateway, debian: Cluster) -> None:
    key = house.asked("identities", "list")
    assert key
    house.answer("SELECT 1", at="billing")
    held = [*house.tokens, *(secret for secret in servers.PASSWORDS.values() if secret)]
    arguments = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"muniment" in (line := path.read_bytes()):
                arguments += line
        except OSError:
            continue
    assert PROGRAM[-1].encode() in arguments
    for secret in held:
        assert secret.encode() not in arguments
        assert house.files_with(secret) == [], secret[:20]
        assert secret not in house.log()
    assert not any(token in debian.log() for token in house.tokens)


def test_a_target_never_sees_the_token_and_the_client_never_the_targets_secret(house: Gateway) -> None:
    with raw.connected(house.port, house.ca) as client:
        said = client.log_in("wide.billing", house.token())
        client.send(raw.message("Q", b"SELECT current_user\0"))
        said += client.until_ready()
    everything = b"".join(body for _, body in said)
    assert b"report_ro" in everything and servers.PASSWORDS["report_ro"].encode() not in everything
    key = next(body for kind, body in said if kind == "K")
    assert len(key) == 8 and struct.unpack("!i", key[:4])[0] != house.shown()["target"]["pid"]


def test_a_stop_ends_sessions_in_order_and_the_record_is_whole(house: Gateway) -> None:
    with psycopg.connect(house.conninfo(), password=house.token(), autocommit=True) as connection:
        connection.execute("SELECT 1")
        assert house.stop() == 0
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    lines: list[Any] = [
        json.loads(line) for line in (house.evidence / "log" / "records.jsonl").read_text().splitlines()
    ]
    assert lines[-1]["kind"] == "instance.stop"
    closed = [line["reason"] for line in lines if line["kind"] == "session.close"]
    assert "the gateway is stopping" in closed[-1]
    done = house.verify(house.evidence)
    assert done.returncode == 0, done.stdout
