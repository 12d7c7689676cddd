"""What may go wrong between the question and the release: rules that change, people who cannot be asked, our faults."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from muniment.model.effects import Side
from muniment.model.entries import ApprovalDecide, Request
from muniment.model.errors import ProtocolError, Unavailable
from muniment.model.exchange import Action
from muniment.model.verdict import Allow, Deny, Hold, Verdict
from muniment.services.approvals import Decision, Question
from muniment.services.gate import Gate
from muniment.store import approvals as rows
from tests.services.house import MANIFESTS, House
from tests.services.test_gate import Half, ask, in_a_house, until

TEXT = "DROP DATABASE scratch"
LESS = MANIFESTS.replace("verbs: [select, drop]", "verbs: [select]")
OTHER = MANIFESTS.replace("production-safety", "safety-of-databases")


@pytest.mark.parametrize("rules", [LESS, OTHER], ids=["withdrawn", "another-guard"])
def test_rules_that_change_while_an_approval_is_spent_are_the_ones_that_count(tmp_path: Path, rules: str) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        use = house.approvals.use

        async def late(approval: str, ses: str, n: int, hold: Hold | None = None) -> str:
            leaf = await use(approval, ses, n, hold)
            assert leaf
            await house.registry.apply([("all.yaml", rules)], by="test")
            return leaf

        house.approvals.use = late  # type: ignore[method-assign]
        half.ask(ask(1, TEXT))
        await until(lambda: half.notices)
        await approve(house)
        await until(lambda: isinstance(half.verdict(1), Deny))
        assert "allow" not in [leaf["decision"] for leaf in house.written(Request)]

    in_a_house(tmp_path, body)


async def approve(house: House) -> None:
    """Have the only open question approved, without a signature: what decides here is not who may."""
    [shown] = await house.approvals.questions()
    house.approvals._stands = _yes  # type: ignore[method-assign,assignment]
    row = await house.approvals._write(
        ApprovalDecide(approval=shown.asked.id, request=shown.asked.leaf, decision="approve", person="grace")
    )
    rows.record(house.database, row, before="waiting", after="approved", settles=True)
    house.approvals._tell(shown.asked.id, Decision(True, "approve", "grace", "", row.leaf))


async def _yes(asked: rows.AskedRow) -> bool:
    return True


def test_an_approved_statement_is_released(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, TEXT))
        await until(lambda: half.notices)
        await approve(house)
        await until(lambda: isinstance(half.verdict(1), Allow))
        assert [leaf["decision"] for leaf in house.written(Request)] == ["hold", "allow"]

    in_a_house(tmp_path, body)


def test_what_was_withdrawn_while_its_approval_was_spent_is_not_recorded_as_released(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        use = house.approvals.use

        async def late(approval: str, ses: str, n: int, hold: Hold | None = None) -> str:
            leaf = await use(approval, ses, n, hold)
            half.wanted.clear()  # Ctrl-C
            return leaf

        house.approvals.use = late  # type: ignore[method-assign]
        half.ask(ask(1, TEXT), ask(2, "SELECT total FROM invoices"))
        await until(lambda: half.notices)
        half.wanted.add(2)
        await approve(house)
        await asyncio.sleep(0.3)
        assert "allow" not in [leaf["decision"] for leaf in house.written(Request) if leaf["touches"][0][:4] == "drop"]

    in_a_house(tmp_path, body)


def test_a_question_that_cannot_be_put_is_a_refusal_and_the_session_goes_on(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        async def full(question: Question) -> object:
            raise Unavailable("nightly-report has 50 open questions", "decide them")

        house.approvals.ask = full  # type: ignore[method-assign,assignment]
        half.ask(ask(1, TEXT), ask(2, "SELECT total FROM invoices"))
        await until(lambda: half.verdict(2))
        first = half.verdict(1)
        assert isinstance(first, Deny)
        assert "50 open questions" in first.message
        assert isinstance(half.verdict(2), Allow)
        assert not half.failed

    in_a_house(tmp_path, body)


@pytest.mark.parametrize("fault", [ProtocolError(Side.CLIENT, "unknown message"), ValueError("our own")])
def test_a_fault_behind_a_ruling_ends_the_session(tmp_path: Path, fault: Exception) -> None:
    """It came out of a task, and the session was never ruled on again: it hung until it was as old as it may get."""
    failed = []

    async def body(house: House, gate: Gate, half: Half) -> None:
        def ruled(rulings: Sequence[tuple[int, Verdict, Action | None]]) -> None:
            raise fault

        half.ruled = ruled  # type: ignore[method-assign]
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.failed)
        failed.append(half.failed)

    ours = isinstance(fault, ValueError)  # that one is passed on, and whoever spawned the task complains of it
    with pytest.raises(AssertionError, match="our own") if ours else contextlib.nullcontext():
        in_a_house(tmp_path, body)
    assert failed == ["internal error" if ours else str(fault)]


def test_what_a_ruling_lets_in_is_ruled_on_without_another_call_within(tmp_path: Path) -> None:
    """A pipeline of thousands comes in by and by, each part let in by the rulings on the part before."""

    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.rulings)
        turns: list[int] = []
        loop = asyncio.get_running_loop()
        loop.call_soon(turns.append, 0)

        def more(ticket: int, verdict: Verdict, action: Action | None) -> None:
            if 0 < ticket < 3_000:
                half.ask(ask(ticket + 1, "SELECT total FROM invoices"), ask(-ticket, "SELECT total FROM invoices"))
            if ticket == 1_500:
                assert turns  # others had their turn

        half.on_ruled = more
        half.ask(ask(2, "SELECT total FROM invoices"), ask(-1, "SELECT total FROM invoices"))
        await until(lambda: half.verdict(3_000))

    in_a_house(tmp_path, body)
