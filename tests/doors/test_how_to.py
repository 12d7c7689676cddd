"""The how-to pages, held true: every command that they show runs, in the order of the page."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muniment.judge import manifests
from tests.doors.test_cli import Desk, desk, person
from tests.services.people import make_person
from tests.services.test_evidence import lived

__all__ = ["desk"]
PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def commands(page: str) -> Iterator[list[str]]:
    """The words of every line in the page's blocks without a language."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", (PAGES / page).read_text("utf-8"), re.M | re.S):
        if not language:
            yield from (shlex.split(line, comments=True) for line in block.splitlines())


def test_an_approver_can_do_what_the_page_says(desk: Desk) -> None:
    person(desk)
    (desk.home / "manifests").mkdir()
    (desk.home / "rules.yaml").rename(desk.home / "manifests" / "rules.yaml")
    held = desk.ask()
    shown = [words for words in commands("approve.md") if words]
    assert len(shown) == 9
    said = []
    for words in shown:
        if words[1:3] == ["approvals", "deny"]:  # the first one is used up: somebody asks again
            desk.served.on(desk.served.house.approvals.use(held.id, "s-1", 5))
            held = desk.ask()
        words = [held.id if word == "ID" else word for word in words[1:]]
        said.append(desk.ok(*words, *(["--once"] if words[1] == "watch" else [])))
    assert f"{held.id} denied by edsger" in said[6]
    assert "edsger" in said[8] and "Not before the backup" in said[8]


def test_the_person_of_the_page_is_a_manifest_as_written() -> None:
    whole = re.findall(r"```yaml\n(apiVersion.*?)```", (PAGES / "approve.md").read_text("utf-8"), re.DOTALL)
    [found] = manifests.parse([("approve.md", text) for text in whole], 0).persons.values()
    assert (found.name, found.groups) == ("edsger", frozenset({"dba"}))


def test_an_auditor_can_do_what_the_page_says(desk: Desk) -> None:
    house = desk.served.house
    signer = make_person(desk.home / ".ssh", "edsger", "dba")
    desk.served.on(lived(house, signer))
    desk.served.call(lambda: house.log.checkpoint(house.now_us()))
    desk.served.call(house.index.catch_up)
    (desk.home / "held-checkpoint").write_bytes((house.evidence_dir / "log" / "checkpoint").read_bytes())
    [question] = desk.json("approvals", "list", "--all")
    names = {"SESSION": "s-1", "ID": question["id"]}
    ran = 0
    for words in commands("verify.md"):
        words = [names.get(word, word) for word in words]
        if words[0] == "muniment":
            out = desk.ok(*words[1:])
            if words[1:] == ["evidence", "key"]:
                (desk.home / "key.pub").write_text(out)
        else:
            words = ["2026-01-01T00:00:00Z" if word.startswith("2026-12") else word for word in words]
            done = subprocess.run([sys.executable, *words[1:]], cwd=desk.home, capture_output=True, text=True)
            assert "RESULT" in done.stdout, done.stderr
            assert not [line for line in done.stdout.splitlines() if "checkpoint" in line and "FAILED" in line]
        ran += 1
    assert ran == 8


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_every_option_that_a_page_shows_exists(page: str) -> None:
    from typer.main import get_command

    from muniment.doors.cli.main import app

    for words in commands(page):
        if words[:1] != ["muniment"]:
            continue
        command = get_command(app)
        for word in words[1:]:
            command = getattr(command, "commands", {}).get(word, command)
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, f"{page}: {' '.join(words)}"
