"""Approvals: signed by people, bound to one request, used once, and alive across restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.model.entries import ApprovalDecide, ApprovalRequest
from muniment.model.errors import Unavailable
from muniment.model.exchange import Parameter
from muniment.model.rules import Rules
from muniment.model.verdict import Hold
from muniment.proof import sshsig
from muniment.services import decisions
from muniment.services.approvals import MAX_OPEN_PER_IDENTITY, Approvals, Decided, Held, Question
from muniment.services.decisions import NotAccepted
from muniment.store.database import Database
from tests.services.people import Notes, Signer, make_person

DROP = Question(
    ses="s-1", n=4, identity="nightly-report", owner="ada@example.org", target="billing", database="billing",
    role="report_rw", rule="production-safety", approvers="dba", count=1, within_s=1800,
    statement="DROP DATABASE scratch", parameters=(Parameter(25, False, b"x"), Parameter(0, True, b"\0\xff"),
    Parameter(23, False, None)), question="drop a database?", initiator="carol@example.org",
)  # fmt: skip


class Office:
    """The approvals of one deployment, the people who decide, and a clock that is turned by hand."""

    def __init__(self, directory: Path) -> None:
        self.now = 1_790_000_000_000_000
        self.notes = Notes()
        self.database = Database(directory / "muniment.db")
        self.database.upgrade()
        self.people = {
            name: make_person(directory, name, *groups)
            for name, groups in {"ada": ["dba"], "grace": ["dba"], "edsger": ["dba"], "carol": ["dba"],
                                 "mallory": ["guests"]}.items()
        }  # fmt: skip
        self.rules = Rules(
            version=1,
            persons={name: signer.person for name, signer in self.people.items()},
            refs={"Person/grace": "ab" * 32},
        )
        self.start()

    def start(self) -> None:
        """As after a restart: nothing but the database is left."""
        self.approvals = Approvals(
            self.database, self.notes, lambda: self.rules, deployment="gw.example.org", now_us=lambda: self.now
        )

    def document(
        self, held: Held, who: str, decision: str = "approve", reason: str = "ticket OPS-1", **changed: Any
    ) -> str:
        question = changed.pop("question", DROP)
        fields = {
            "deployment": "gw.example.org", "approval": held.id, "bound": question.bound,
            "identity": question.identity, "target": question.target, "decision": decision, "person": who,
            "reason": reason, "t_us": self.now,
        }  # fmt: skip
        return decisions.document(**(fields | changed))

    async def decide(
        self, held: Held, who: str, decision: str = "approve", reason: str = "ticket OPS-1", **changed: Any
    ) -> Decided | NotAccepted:
        signer: Signer = changed.pop("signer", None) or self.people[who]
        text = self.document(held, who, decision, reason, **changed)
        return await self.approvals.decide(text, signer.sign(text), reason)

    def written(self) -> list[str]:
        return [entry.decision for entry in self.notes.entries if isinstance(entry, ApprovalDecide)]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


Walk = Callable[[Office], Coroutine[Any, Any, None]]


def walk(test: Walk) -> Callable[[Office], None]:
    """Run a test on an event loop of its own."""

    def run(office: Office) -> None:
        asyncio.run(test(office))

    run.__name__ = test.__name__
    return run


@walk
async def test_a_signed_approval_releases_the_one_who_waits_and_is_used_once(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    assert held.state == "waiting" and not held.decided.done()
    assert await office.approvals.use(held.id, "s-1", 4) == ""  # not before somebody approved
    decided = await office.decide(held, "grace")
    assert isinstance(decided, Decided) and (decided.state, decided.missing) == ("approved", 0)
    decision = await held.decided
    assert (decision.approved, decision.person, decision.leaf) == (True, "grace", decided.leaf)
    assert await office.approvals.use(held.id, "s-1", 4) == decided.leaf
    assert await office.approvals.use(held.id, "s-1", 4) == ""
    asked, approved, used = office.notes.entries
    assert isinstance(asked, ApprovalRequest) and asked.bound == DROP.bound
    assert isinstance(approved, ApprovalDecide) and isinstance(used, ApprovalDecide)
    assert approved.person_ref == "ab" * 32 and approved.request == held.leaf
    line = office.people["grace"].person.keys[0]
    assert approved.key == " ".join(line.split()[:2])  # no comment: it may hold a name
    sshsig.verify(approved.signature, approved.document.encode(), decisions.NAMESPACE, [approved.key])
    assert "OPS-1" not in approved.document and approved.reason == "ticket OPS-1"
    assert (used.decision, used.ses, used.n) == ("use", "s-1", 4)


@walk
async def test_everything_is_durable_before_anybody_is_told(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    assert office.notes.synced == 1
    held.decided.add_done_callback(lambda _: told.append(office.notes.synced))
    told: list[int] = []
    await office.decide(held, "grace")
    await asyncio.sleep(0)
    assert told == [2]


@walk
async def test_who_may_not_decide(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    for who, why in {
        "mallory": "not a Person of the group", "nobody": "not a Person of the group",
        "ada": "only approver", "carol": "requester",
    }.items():  # fmt: skip
        result = await office.decide(held, who, signer=office.people.get(who, office.people["mallory"]))
        assert isinstance(result, NotAccepted) and why in result.what and result.mend
    assert office.written() == []
    robot = replace(DROP, statement="DROP DATABASE other", identity="grace")
    result = await office.decide(await office.approvals.ask(robot), "grace", question=robot)
    assert isinstance(result, NotAccepted) and "requester" in result.what


@walk
async def test_a_signature_must_be_by_the_persons_own_key_for_this_purpose(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    result = await office.decide(held, "grace", signer=office.people["mallory"])
    assert isinstance(result, NotAccepted) and "signature" in result.what
    text = office.document(held, "grace")
    for_git = await office.approvals.decide(text, office.people["grace"].sign(text, "git"), "ticket OPS-1")
    assert isinstance(for_git, NotAccepted) and "made for" in for_git.what
    other_reason = await office.approvals.decide(text, office.people["grace"].sign(text), "another reason")
    assert isinstance(other_reason, NotAccepted) and "reason" in other_reason.what
    assert office.written() == []


@walk
async def test_a_document_that_is_not_exactly_about_this_question_does_not_count(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    for changed in (
        {"deployment": "staging.example.org"}, {"bound": "00" * 32}, {"identity": "other"}, {"target": "other"},
        {"t_us": office.now - 301_000_000}, {"t_us": office.now + 301_000_000}, {"decision": "maybe"}, {"reason": " "},
        {"approval": "A-2222-2222"},
    ):  # fmt: skip
        text = office.document(held, "grace", **changed)
        result = await office.approvals.decide(
            text, office.people["grace"].sign(text), str(changed.get("reason", "ticket OPS-1"))
        )
        assert isinstance(result, NotAccepted), changed
    text = office.document(held, "grace")
    more = json.dumps(json.loads(text) | {"note": "x"}, sort_keys=True, separators=(",", ":"))
    for odd in (text + " ", more, text.replace('"decision"', '"decision":"deny","decision"'), "[]", "{", "x" * 5000):
        result = await office.approvals.decide(odd, office.people["grace"].sign(odd), "ticket OPS-1")
        assert isinstance(result, NotAccepted), odd
    assert office.written() == []


@walk
async def test_two_approvers_are_two_human_beings_and_not_the_owner_alone(office: Office) -> None:
    question = replace(DROP, count=2)
    held = await office.approvals.ask(question)
    first = await office.decide(held, "ada")  # the owner may be one of two
    assert isinstance(first, Decided) and (first.state, first.missing) == ("waiting", 1)
    again = await office.decide(held, "ada")
    assert isinstance(again, NotAccepted) and "already" in again.what
    twin = make_person(Path(), "twin", "dba", email="ADA@example.org", key=office.people["edsger"].key)
    office.rules = replace(office.rules, persons={**office.rules.persons, "twin": twin.person})
    result = await office.decide(held, "twin", signer=twin)
    assert isinstance(result, NotAccepted) and "already" in result.what
    assert not held.decided.done()
    second = await office.decide(held, "grace")
    assert isinstance(second, Decided) and second.state == "approved"
    assert (await held.decided).approved


@walk
async def test_one_refusal_is_enough(office: Office) -> None:
    held = await office.approvals.ask(replace(DROP, count=2))
    await office.decide(held, "grace")
    denied = await office.decide(held, "edsger", "deny", "not on a Friday")
    assert isinstance(denied, Decided) and denied.state == "denied"
    decision = await held.decided
    assert (decision.approved, decision.how, decision.reason) == (False, "deny", "not on a Friday")
    late = await office.decide(held, "carol")
    assert isinstance(late, NotAccepted) and "denied" in late.what
    assert (await office.approvals.ask(DROP)).id != held.id  # a retry asks anew


@walk
async def test_an_approval_given_while_the_job_was_away_is_found_after_a_restart(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    await office.approvals.withdraw(held.id, "s-1", 4, close=False)
    assert (await held.decided).how == "withdraw"
    office.start()
    await office.decide(held, "grace")
    office.start()
    retried = await office.approvals.ask(replace(DROP, ses="s-2", n=1))
    assert (retried.id, retried.state) == (held.id, "approved")
    assert (await retried.decided).person == "grace"
    assert await office.approvals.use(retried.id, "s-2", 1) == (await retried.decided).leaf
    office.start()
    assert await office.approvals.use(retried.id, "s-2", 1) == ""
    assert (await office.approvals.ask(DROP)).id != held.id
    assert office.written() == ["withdraw", "approve", "use"]


@walk
async def test_any_other_request_needs_its_own_approval(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    await office.decide(held, "grace")
    for changed in (
        {"statement": "DROP DATABASE Scratch"}, {"identity": "other"}, {"target": "other"}, {"database": "other"},
        {"role": "other"}, {"parameters": DROP.parameters[:2]}, {"rule": "stricter"}, {"approvers": "leads"},
        {"count": 2}, {"parameters": (Parameter(25, True, b"x"), *DROP.parameters[1:])},
    ):  # fmt: skip
        other = await office.approvals.ask(replace(DROP, **changed))  # type: ignore[arg-type]
        assert other.id != held.id and other.state == "waiting", changed


@walk
async def test_an_approval_ends_when_its_giver_may_not_approve_any_more(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    await office.decide(held, "grace")
    grace = office.rules.persons["grace"]
    for weaker in (replace(grace, groups=frozenset()), replace(grace, keys=office.rules.persons["ada"].keys), None):
        others = {name: person for name, person in office.rules.persons.items() if name != "grace"}
        before = office.rules
        office.rules = replace(before, persons=others | ({"grace": weaker} if weaker else {}))
        assert await office.approvals.use(held.id, "s-1", 4) == ""
        assert (await office.approvals.ask(DROP)).id != held.id
        office.rules = before
    assert await office.approvals.use(held.id, "s-1", 4) != ""


@walk
async def test_a_question_expires_also_when_it_was_approved_and_never_used(office: Office) -> None:
    waiting = await office.approvals.ask(DROP)
    approved = await office.approvals.ask(replace(DROP, statement="DROP DATABASE b"))
    await office.decide(approved, "grace", question=replace(DROP, statement="DROP DATABASE b"))
    office.now += 1800 * 1_000_000
    late = await office.decide(waiting, "grace")
    assert isinstance(late, NotAccepted) and "expired" in late.what
    assert await office.approvals.use(approved.id, "s-1", 4) == ""
    assert await office.approvals.expire() == 0
    decision = await waiting.decided
    assert (decision.approved, decision.how) == (False, "expire")
    assert [shown.asked.state for shown in await office.approvals.questions(open_only=False)] == ["expired"] * 2
    assert office.written() == ["approve", "expire", "expire"]


@walk
async def test_the_running_task_expires_on_time(office: Office) -> None:
    async with asyncio.timeout(20):
        office.now = 0
        running = asyncio.ensure_future(office.approvals.run())
        held = await office.approvals.ask(replace(DROP, within_s=1))
        office.now = 2_000_000
        assert (await held.decided).how == "expire"
        running.cancel()


@walk
async def test_ctrl_c_closes_the_question_unless_another_one_waits_for_it(office: Office) -> None:
    one = await office.approvals.ask(DROP)
    two = await office.approvals.ask(replace(DROP, ses="s-2", n=9))
    assert one.id == two.id
    await office.approvals.withdraw(one.id, "s-1", 4, close=True)
    assert one.decided.done() and not two.decided.done()
    await office.approvals.withdraw(two.id, "s-2", 9, close=True)
    assert (await two.decided).how == "withdraw"
    late = await office.decide(one, "grace")
    assert isinstance(late, NotAccepted) and "withdrawn" in late.what
    shown = await office.approvals.show(one.id)
    assert shown is not None and [row.ses for row in shown.history] == ["s-1", "s-2"]


@walk
async def test_an_approval_under_older_rules_is_not_spent_where_the_rules_now_want_more(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    await office.decide(held, "grace")
    hold = Hold(DROP.rule, "why?", DROP.approvers, DROP.count, 60)
    for stricter in (replace(hold, count=2), replace(hold, approvers="leads"), replace(hold, rule="other")):
        assert await office.approvals.use(held.id, "s-1", 4, stricter) == ""
    assert await office.approvals.use(held.id, "s-1", 4, hold) != ""


@walk
async def test_two_at_once_cannot_both_spend_it(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    await office.decide(held, "grace")
    spent = await asyncio.gather(*(office.approvals.use(held.id, "s-1", n) for n in range(8)))
    assert sum(leaf != "" for leaf in spent) == 1


@walk
async def test_without_the_journal_nothing_is_asked_approved_or_spent(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    office.notes.down = True
    with pytest.raises(Unavailable):
        await office.approvals.ask(replace(DROP, statement="DROP DATABASE b"))
    with pytest.raises(Unavailable):
        await office.decide(held, "grace")
    assert not held.decided.done()
    office.notes.down = False
    await office.decide(held, "grace")
    office.notes.down = True
    with pytest.raises(Unavailable):
        await office.approvals.use(held.id, "s-1", 4)
    office.notes.down = False
    assert await office.approvals.use(held.id, "s-1", 4) == ""  # lost, and not used twice


@walk
async def test_what_was_asked_is_shown_exactly_and_kept_in_clear_no_longer_than_needed(office: Office) -> None:
    held = await office.approvals.ask(DROP)
    shown = await office.approvals.show(held.id)
    assert shown is not None and shown.asked.statement == DROP.statement
    assert decisions.parameters_from(shown.asked.parameters) == DROP.parameters
    await office.decide(held, "grace", "deny")
    closed = await office.approvals.show(held.id)
    assert closed is not None
    assert (closed.asked.statement, closed.asked.parameters, closed.asked.question) == ("", "", "")


@walk
async def test_one_job_cannot_flood_the_approvers(office: Office) -> None:
    for n in range(MAX_OPEN_PER_IDENTITY):
        await office.approvals.ask(replace(DROP, statement=f"DROP DATABASE d{n}"))
    with pytest.raises(Unavailable, match="open questions"):
        await office.approvals.ask(replace(DROP, statement="DROP DATABASE one_more"))
    await office.approvals.ask(replace(DROP, identity="other", statement="DROP DATABASE one_more"))


parameter = st.builds(Parameter, st.integers(0, 1 << 32), st.booleans(), st.none() | st.binary(max_size=20))


@given(st.lists(parameter, max_size=4))
def test_parameters_survive_the_way_to_people_and_back(parameters: list[Parameter]) -> None:
    assert decisions.parameters_from(decisions.parameters_json(parameters)) == tuple(parameters)


@given(st.lists(st.text(max_size=5), min_size=6, max_size=6), st.lists(st.text(max_size=5), min_size=6, max_size=6))
def test_different_requests_have_different_digests(one: list[str], two: list[str]) -> None:
    same = decisions.bound(*one[:5], (), one[5]) == decisions.bound(*two[:5], (), two[5])
    assert same == (one == two)
