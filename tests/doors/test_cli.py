"""The command line, against a real API on a real socket, with keys of the real ssh-keygen."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from muniment.doors.cli.main import app
from muniment.doors.cli.output import clean
from muniment.model.exchange import Parameter
from muniment.services.approvals import Held, Question
from tests.services.house import MANIFESTS, House, Served, person_manifest
from tests.services.people import Signer, make_person
from tests.services.test_evidence import lived

HOSTILE = "drop database scratch -- \x1b[2J\u202egnp.exe"
DROP = Question(
    ses="s-1", n=4, identity="nightly-report", owner="ada@example.org", target="billing", database="billing",
    role="report_ro", rule="production-safety", approvers="dba", count=1, within_s=1800, statement=HOSTILE,
    parameters=(Parameter(25, False, b"it's"), Parameter(25, False, None)), question="drop database scratch",
    initiator="schedule",
)  # fmt: skip


class Desk:
    """Somebody's terminal, with the gateway's socket in the environment."""

    def __init__(self, served: Served, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served = served
        self.home = home
        monkeypatch.setenv("MUNIMENT_API", served.api)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        monkeypatch.chdir(home)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def ask(self, question: Question = DROP) -> Held:
        return self.served.on(self.served.house.approvals.ask(question))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    served = Served(tmp_path / "data")
    yield Desk(served, home, monkeypatch)
    served.close()


def person(desk: Desk, name: str = "edsger", key: str = "id_ed25519") -> Signer:
    """Make a key in the home's .ssh and apply its Person."""
    signer = make_person(desk.home / ".ssh", name, "dba")
    for suffix in ("", ".pub"):
        signer.key.with_name(signer.key.name + suffix).rename(desk.home / ".ssh" / (key + suffix))
    signer.key = desk.home / ".ssh" / key
    (desk.home / "rules.yaml").write_text(MANIFESTS)
    (desk.home / f"{name}.yaml").write_text(person_manifest(name, signer.person.keys[0]))
    desk.ok("apply", "-f", "rules.yaml", "-f", f"{name}.yaml")
    return signer


def test_manifests_are_applied_shown_and_removed_only_with_prune(desk: Desk) -> None:
    person(desk)
    assert "nightly-report" in desk.ok("identities", "list") and "ada@example.org" in desk.ok("identities", "list")
    assert "db.internal:5432" in desk.ok("targets", "show", "billing")
    assert desk.json("grants", "list")[0]["name"] == "reads-billing"
    assert {one["name"] for one in desk.json("persons", "list")} == {"edsger", "grace"}
    assert "nothing to change" in desk.ok("apply", "-f", "rules.yaml")
    assert "would become version 2" in desk.ok("apply", "-f", "rules.yaml", "--prune", "--dry-run")
    assert desk.json("apply", "-f", "rules.yaml", "--prune")["version"] == 2
    assert [one["name"] for one in desk.json("persons", "list")] == ["grace"]
    desk.ok("validate", "-f", ".")


def test_problems_are_told_all_at_once_with_file_and_line_and_the_exit_code_is_one(desk: Desk) -> None:
    (desk.home / "broken.yaml").write_text(MANIFESTS.replace("group: reporting", "group: nobody").replace("ci,", "x,"))
    for command in ("apply", "validate"):
        result = desk.run(command, "-f", "broken.yaml")
        assert result.exit_code == 1
        assert result.stderr.count("mend:") >= 2 and "broken.yaml:" in result.stderr
        assert "nothing was changed" in result.stderr


def test_a_question_is_shown_exactly_approved_by_ones_own_key_and_used(desk: Desk) -> None:
    person(desk)
    held = desk.ask()
    assert held.id in desk.ok("approvals", "list") and "1 of dba" in desk.ok("approvals", "list")
    page = desk.ok("approvals", "show", held.id)
    for part in ("nightly-report", "ada@example.org", "schedule", "billing", "production-safety", "time left",
                 "drop database scratch", '$1 = "it\'s"', "$2 = NULL"):  # fmt: skip
        assert part in page
    assert "\x1b" not in page and "\u202e" not in page and "\\x1b[2J\\u202e" in page
    done = desk.ok("approvals", "approve", held.id, "--reason", "OPS-1412")
    assert f"{held.id} approved by edsger" in done
    assert desk.served.on(desk.served.house.approvals.use(held.id, "s-1", 4)) != ""
    shown = desk.json("approvals", "show", held.id)
    assert [(one["decision"], one["person"], one["reason"]) for one in shown["history"]] == [
        ("approve", "edsger", "OPS-1412"), ("use", "", "")
    ]  # fmt: skip
    assert shown["state"] == "used" and shown["history"][0]["index"] > 0
    again = desk.run("approvals", "approve", held.id, "--reason", "again")
    assert again.exit_code == 1 and "nothing left to decide" in again.stderr


def test_a_denial_is_one_command_too(desk: Desk) -> None:
    signer = person(desk, key="elsewhere")
    held = desk.ask()
    lost = desk.run("approvals", "deny", held.id, "--reason", "no")
    assert lost.exit_code == 1 and "--key" in lost.stderr  # no default key is hers
    assert "denied by edsger" in desk.ok("approvals", "deny", held.id, "--reason", "no", "--key", str(signer.key))


def test_a_stranger_cannot_decide(desk: Desk) -> None:
    person(desk, key="elsewhere")
    stranger = make_person(desk.home, "mallory", "dba")
    held = desk.ask()
    result = desk.run("approvals", "approve", held.id, "--reason", "x", "--key", str(stranger.key))
    assert result.exit_code == 1 and "no registered Person's key" in result.stderr
    assert desk.json("approvals", "show", held.id)["state"] == "waiting"


def test_a_gateway_that_shows_another_statement_is_not_signed_for(desk: Desk) -> None:
    person(desk)
    held = desk.ask()
    database = desk.served.house.data / "muniment.db"
    with sqlite3.connect(database) as connection:
        connection.execute("update approvals set statement = 'select 1'")
    result = desk.run("approvals", "approve", held.id, "--reason", "x")
    assert result.exit_code == 1 and "something else" in result.stderr


def test_a_watch_prints_what_waits(desk: Desk) -> None:
    person(desk)
    held = desk.ask()
    assert held.id in desk.ok("approvals", "watch", "--once")
    assert json.loads(desk.ok("approvals", "watch", "--once", "--json"))["id"] == held.id


def test_an_api_key_is_shown_once_and_revoked(desk: Desk) -> None:
    person(desk)
    made = desk.json("identities", "key", "issue", "nightly-report", "--days", "7")
    assert made["id"] in desk.ok("identities", "key", "list", "nightly-report")
    assert "is revoked" in desk.ok("identities", "key", "revoke", made["id"])
    too_long = desk.run("identities", "key", "issue", "nightly-report", "--days", "365")
    assert too_long.exit_code == 1 and "mend" in too_long.stderr


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A gateway with one session behind it."""
    signer = make_person(tmp_path, "edsger", "dba")

    async def before() -> None:
        house = House(tmp_path / "data")
        await lived(house, signer)
        house.log.checkpoint(house.now_us())
        house.close()

    asyncio.run(before())
    home = tmp_path / "home"
    home.mkdir()
    served = Served(tmp_path / "data")
    yield Desk(served, home, monkeypatch)
    served.close()


def test_sessions_are_listed_by_every_filter_shown_and_replayed(recorded: Desk) -> None:
    desk = recorded
    for filters in (["--identity", "nightly-report"], ["--initiator", "schedule"], ["--run", "4711"],
                    ["--target", "billing"], ["--verb", "drop"], ["--since", "1h"], []):  # fmt: skip
        assert [one["ses"] for one in desk.json("sessions", "list", *filters)] == ["s-1"], filters
    for filters in (["--identity", "x"], ["--run", "x"], ["--verb", "insert"], ["--since", "2999-01-01"]):
        assert desk.json("sessions", "list", *filters) == [], filters
    assert "4711" in desk.ok("sessions", "list")
    assert desk.run("sessions", "list", "--since", "yesterday").exit_code == 1
    page = desk.ok("sessions", "show", "s-1")
    for part in ("select $1, $2", "$1 = '7'", "masked 1 × card_number", "DROP DATABASE scratch", "by edsger",
                 "OPS-1412", "rule production-safety", "refused", "not in a grant", "log index"):  # fmt: skip
        assert part in page, part
    replay = desk.ok("sessions", "replay", "s-1", "--speed", "0")
    for part in ("4111********1111", "SELECT 2", "approve by edsger: OPS-1412", "denied by no-grant", "closed: "):
        assert part in replay, part
    lines = [json.loads(line) for line in desk.ok("sessions", "replay", "s-1", "--json").splitlines()]
    assert [line["t_us"] for line in lines] == sorted(line["t_us"] for line in lines)
    missing = desk.run("sessions", "show", "s-9")
    assert missing.exit_code == 1 and "sessions list" in missing.stderr
    assert desk.run("sessions", "cut", "s-1", "--reason", "x").exit_code == 1  # it is not open


def test_the_evidence_is_exported_and_verified_by_that_very_file(recorded: Desk) -> None:
    desk = recorded
    copy, key = desk.home / "copy", desk.home / "log.pub"
    key.write_text(desk.ok("evidence", "key"))
    desk.served.call(lambda: desk.served.house.log.checkpoint(desk.served.house.now_us()))
    desk.ok("evidence", "export", "-o", str(copy))
    assert (copy / "verify.py").read_bytes() == (Path(__file__).parents[2] / "verifier" / "verify.py").read_bytes()
    ours = desk.run("evidence", "verify", str(copy), "--key", str(key))
    assert "RESULT" in ours.stdout, ours.output
    alone = subprocess.run(
        [sys.executable, "-I", str(copy / "verify.py"), str(copy), "--key", str(key)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ours.exit_code, ours.stdout) == (alone.returncode, alone.stdout)
    records = copy / "log" / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"decision":"deny"', b'"decision":"demy"', 1))
    tampered = desk.run("evidence", "verify", str(copy), "--key", str(key))
    assert tampered.exit_code == 1 and "FAILED" in tampered.stdout
    assert desk.run("evidence", "verify", str(copy)).exit_code == 1  # a copy's own key proves nothing
    assert desk.run("evidence", "export", "-o", str(copy)).exit_code == 1  # not into a folder that holds something
    assert "RESULT" in desk.run("evidence", "verify").stdout


def test_without_a_gateway_the_socket_and_the_mend_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNIMENT_API", f"unix:{tmp_path}/none.sock")
    for command in (["status"], ["sessions", "list"], ["approvals", "list", "--json"], ["logins", "list"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and result.stdout == ""
        assert "none.sock" in result.stderr and "muniment serve" in result.stderr


def test_what_is_not_understood_exits_with_two() -> None:
    for command in (["nonsense"], ["sessions", "list", "--colour"], ["apply"], ["approvals", "approve", "A-1"]):
        assert CliRunner().invoke(app, command).exit_code == 2, command


def test_tcp_with_its_token_file(tmp_path: Path) -> None:
    served = Served(tmp_path, "127.0.0.1:0")
    try:
        runner = CliRunner()
        good = runner.invoke(
            app, ["--api", served.api, "--token-file", str(tmp_path / "api.token"), "status", "--json"]
        )
        assert good.exit_code == 0 and json.loads(good.stdout)["instance"] == "i-00000001"
        (tmp_path / "wrong").write_text("x" * 40)
        for token in ([], ["--token-file", str(tmp_path / "wrong")], ["--token-file", str(tmp_path / "none")]):
            assert runner.invoke(app, ["--api", served.api, *token, "status"]).exit_code == 1
    finally:
        served.close()


@given(st.text(max_size=30))
def test_no_text_of_a_stranger_moves_the_terminal(text: str) -> None:
    assert all(letter.isprintable() or letter == "\n" for letter in clean(text))
    assert text.isprintable() is False or clean(text) == text
