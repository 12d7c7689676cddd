"""Statements that try to look harmless, each with the verdict and the findings that a person wrote for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from muniment.judge.policy import context, judge
from muniment.model.rules import AllowRule, ApiKeyLogin, Grant, IdentityRule, Role, Rules, Selector, Target
from muniment.model.verdict import Allow
from tests.protocols.sql.world import DATABASE, action

FILE = Path(__file__).parent / "postgres.txt"
HEAD = re.compile(r"(allow|deny|unread)((?: \+[a-z-]+)*)(?: ?([:=]) (.*))?")

TARGET = Target("billing", "postgres", "db.internal", 5432, "disable", (Role("report_ro", None),))
JOB = IdentityRule("report", "ci-job", "ada@example.org", "Tests.", (ApiKeyLogin(60),))
ALLOW = (
    AllowRule(frozenset({"select"}), ("public.invoices",)),
    AllowRule(frozenset({"update"}), ("public.orders",)),
    AllowRule(frozenset({"call"}), ("public.fx_rate",)),
)
GRANT = Grant("reads", "report", "", Selector("billing"), "report_ro", (DATABASE,), ALLOW)
RULES = Rules(identities={"report": JOB}, targets={"billing": TARGET}, grants={"reads": GRANT})
CONTEXT = context(RULES, "report", (), TARGET, DATABASE, 0)


class Case(NamedTuple):
    verdict: str
    traits: frozenset[str]
    touches: frozenset[str]
    exact: bool
    text: str


def cases() -> list[Case]:
    found = []
    for block in re.split(r"\n\s*\n", FILE.read_text()):
        lines = [line for line in block.split("\n") if line and not line.startswith("#")]
        if not lines:
            continue
        head = HEAD.fullmatch(lines[0])
        assert head and len(lines) > 1, block
        traits = frozenset(word.removeprefix("+") for word in head[2].split())
        touches = frozenset(touch.strip() for touch in (head[4] or "").split(";") if touch.strip())
        found.append(Case(head[1], traits, touches, head[3] == "=", "\n".join(lines[1:])))
    return found


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[case.text.split("\n")[0][:70] for case in CASES])
def test_an_evasion_gets_the_verdict_that_a_person_wrote_for_it(case: Case) -> None:
    found = action(case.text)
    touches = {f"{touch.verb} {touch.kind} {touch.name}" for touch in found.touches}
    verdict = judge(CONTEXT, found)
    kind = "unread" if not found.complete else "allow" if isinstance(verdict, Allow) else "deny"
    assert (kind, found.why) == (case.verdict, found.why if case.verdict == "unread" else "")
    assert not isinstance(verdict, Allow) or kind == "allow"
    assert case.traits <= found.traits
    assert case.touches == touches if case.exact else case.touches <= touches


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 220
