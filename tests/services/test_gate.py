"""The order: judged, people asked, recorded durably, then released; over the real journal, reader and policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from muniment.model.effects import Ask
from muniment.model.entries import ApprovalDecide, ApprovalRequest, Request, Response
from muniment.model.exchange import Action, Catalog, Outcome, Parameter, Phase, Relation, Statement
from muniment.model.verdict import Allow, Deny, Hold, Verdict
from muniment.protocols.postgres.meaning import Names
from muniment.protocols.sql import literals
from muniment.protocols.sql.postgres import READER
from muniment.services.gate import Gate
from muniment.services.reading import Reader
from muniment.services.turnstile import Turnstile
from tests.services.house import MANIFESTS, House

INVOICES = Relation(20001, "public", "invoices", "r", ((1, "id"), (2, "total")))
CATALOG = Catalog("billing", 1, 0, {("public", "invoices"): INVOICES}, {20001: INVOICES}, {}, {})
CARD = b"4111111111111111"
NAMES = Names(CATALOG, ("pg_catalog", "public"))


class Half:
    """The session's other half: what it is told, in order. Everything it asked is wanted until it is ruled on."""

    def __init__(self) -> None:
        self.turnstile: Turnstile | None = None
        self.rulings: list[tuple[int, Verdict]] = []
        self.notices: list[str] = []
        self.kept: list[str] = []
        self.failed = ""
        self.wanted: set[int] = set()
        self.on_ruled: Callable[[int, Verdict, Action | None], None] = lambda ticket, verdict, action: None

    def wants(self, ticket: int) -> bool:
        return ticket in self.wanted

    def ruled(self, rulings: Sequence[tuple[int, Verdict, Action | None]]) -> None:
        for ticket, verdict, action in rulings:
            if not isinstance(verdict, Hold):
                self.wanted.discard(ticket)
            self.rulings.append((ticket, verdict))
            self.on_ruled(ticket, verdict, action)

    def told(self, message: str, hint: str) -> None:
        self.notices.append(message)

    def sealed(self, statement: Statement) -> None:
        self.kept.append(statement.text)

    def broken(self, why: str) -> None:
        self.failed = why

    def ask(self, *asks: Ask) -> None:
        assert self.turnstile is not None
        self.wanted |= {ask.ticket for ask in asks}
        self.turnstile.ask(asks)

    def verdict(self, ticket: int) -> Verdict | None:
        """The last word on a ticket."""
        return next((verdict for one, verdict in reversed(self.rulings) if one == ticket), None)


@asynccontextmanager
async def opened(tmp_path: Path, manifests: str = MANIFESTS) -> AsyncIterator[tuple[House, Gate, Half]]:
    house = House(tmp_path / "data")
    await house.registry.start()
    await house.registry.apply([("all.yaml", manifests)], by="test")
    reader = Reader()
    await reader.start()
    running: set[asyncio.Task[None]] = set()

    def spawn(name: str, work: Coroutine[Any, Any, None]) -> object:
        task = asyncio.get_running_loop().create_task(work, name=name)
        running.add(task)
        return task

    gate = Gate(
        house.journal, reader, lambda: house.registry.current, house.approvals, redact=literals.redact,
        reader_version=READER, pseudonym_key=b"k" * 32, now_us=house.now_us, spawn=spawn,
    )  # fmt: skip
    half = Half()
    house.open()
    half.turnstile = Turnstile(gate, house.session(), half)
    try:
        yield house, gate, half
    finally:
        half.turnstile.close()
        for task in running:
            task.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
        reader.close()
        house.close()
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results), results


def ask(ticket: int, text: str, *values: bytes, phase: Phase = Phase.EXECUTE, may_wait: bool = True) -> Ask:
    parameters = tuple(Parameter(25, False, value) for value in values)
    return Ask(ticket, Statement(text, parameters, NAMES, phase, may_wait))


async def until(found: Callable[[], object]) -> None:
    """Let the loop run until this is so."""
    async with asyncio.timeout(10):
        while not found():
            await asyncio.sleep(0.001)


def in_a_house(
    tmp_path: Path, body: Callable[[House, Gate, Half], Awaitable[None]], manifests: str = MANIFESTS
) -> None:
    async def run() -> None:
        async with opened(tmp_path, manifests) as (house, gate, half):
            await body(house, gate, half)

    asyncio.run(run())


def test_an_allowed_read_is_in_the_journal_when_it_is_ruled_on(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        seen: list[int] = []
        half.on_ruled = lambda ticket, verdict, action: seen.append(house.journal.last_iseq)
        before = house.journal.last_iseq
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.rulings)
        assert isinstance(half.verdict(1), Allow)
        assert seen[0] > before
        leaf = house.written(Request)[-1]
        assert (leaf["decision"], leaf["n"], leaf["touches"]) == ("allow", 1, ["select relation public.invoices"])

    in_a_house(tmp_path, body)


def test_a_cached_read_is_ruled_on_before_ask_returns(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.rulings)
        half.ask(ask(2, "SELECT total FROM invoices"), ask(3, "SELECT total FROM invoices"))
        assert [ticket for ticket, _ in half.rulings] == [1, 2, 3]

    in_a_house(tmp_path, body)


def test_what_is_not_granted_is_refused_and_recorded_once_for_parse_and_bind(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "DELETE FROM invoices", phase=Phase.PREPARE), ask(2, "DELETE FROM invoices"))
        await until(lambda: len(half.rulings) == 2)
        assert isinstance(half.verdict(1), Deny)
        assert isinstance(half.verdict(2), Deny)
        assert [leaf["decision"] for leaf in house.written(Request)] == ["deny"]

    in_a_house(tmp_path, body)


def test_what_the_reader_cannot_read_is_refused(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        for ticket, text in enumerate(("DO $$ begin end $$", "SELECT ((", "SELECT 1; DO 'x'"), 1):
            half.ask(ask(ticket, text))
        await until(lambda: len(half.rulings) == 3)
        assert all(isinstance(verdict, Deny) for _, verdict in half.rulings)
        assert all(leaf["complete"] is False for leaf in house.written(Request))

    in_a_house(tmp_path, body)


def test_a_held_statement_is_released_once_it_is_approved_and_not_twice(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "DROP DATABASE scratch"), ask(2, "SELECT total FROM invoices"))
        await until(lambda: half.notices)
        assert isinstance(half.verdict(1), Hold)
        assert half.verdict(2) is None  # it waits behind
        [shown] = await house.approvals.questions()
        await house.approvals.withdraw(shown.asked.id, "s-1", 1, close=True)
        await until(lambda: half.verdict(2))
        assert isinstance(half.verdict(1), Deny)
        assert [leaf["decision"] for leaf in house.written(Request)] == ["hold", "allow"]

    in_a_house(tmp_path, body)


def test_a_hold_that_may_not_wait_is_refused_with_the_approvals_id(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "DROP DATABASE scratch", may_wait=False))
        await until(lambda: half.rulings)
        [shown] = await house.approvals.questions()
        verdict = half.verdict(1)
        assert isinstance(verdict, Deny)
        assert shown.asked.id in verdict.detail
        assert shown.asked.state == "waiting"

    in_a_house(tmp_path, body)


def test_a_hang_up_leaves_the_question_open_and_a_cancel_closes_it(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        assert half.turnstile is not None
        for ticket, close in ((1, False), (2, True)):
            half.notices.clear()
            half.ask(ask(ticket, "DROP DATABASE scratch"))
            await until(lambda: half.notices)
            half.wanted.clear()
            half.turnstile.withdraw(ticket, close=close)
            await until(lambda wanted=ticket: len(house.written(ApprovalDecide)) == wanted)
        assert len(house.written(ApprovalRequest)) == 1  # the second joined the first's question
        async with asyncio.timeout(10):  # the entry stands before the question is closed in the database
            while await house.approvals.questions():
                await asyncio.sleep(0.001)

    in_a_house(tmp_path, body)


def test_rules_that_change_while_it_waits_are_the_ones_that_count(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.rulings)
        less = MANIFESTS.replace("verbs: [select, drop]", "verbs: [drop]")
        await house.registry.apply([("all.yaml", less)], by="test")
        half.ask(ask(2, "SELECT total FROM invoices"))
        assert isinstance(half.verdict(2), Deny)

    in_a_house(tmp_path, body)


HELD_TABLES = MANIFESTS.replace("{verbs: [drop], objects: [database]", "{verbs: [drop], objects: [database, table]")
APP = Names(
    Catalog("billing", 2, 0, {("app", "invoices"): INVOICES, ("public", "invoices"): INVOICES}, {}, {}, {}),
    ("pg_catalog", "app"),
)


def test_an_approval_is_not_spent_on_what_the_same_text_means_under_another_path(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(Ask(1, Statement("DROP TABLE invoices", (), NAMES, Phase.EXECUTE, False)))
        await until(lambda: isinstance(half.verdict(1), Deny))
        half.ask(Ask(2, Statement("DROP TABLE invoices", (), APP, Phase.EXECUTE, False)))
        await until(lambda: isinstance(half.verdict(2), Deny))
        one, other = house.written(ApprovalRequest)
        assert one["approval"] != other["approval"]

    in_a_house(tmp_path, body, HELD_TABLES)


def test_what_is_only_named_is_not_put_to_people(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        names = NAMES.replaced(prepared={"p": "DROP TABLE public.invoices"})
        half.ask(Ask(1, Statement("EXECUTE p", (), names)))
        await until(lambda: half.verdict(1))
        assert isinstance(half.verdict(1), Deny)
        assert not house.written(ApprovalRequest)

    in_a_house(tmp_path, body, HELD_TABLES)


def test_a_failed_journal_rules_on_nothing(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.rulings)
        house.journal.failed = "no space left on device"
        half.ask(ask(2, "SELECT total FROM invoices"))
        assert half.verdict(2) is None
        assert half.failed
        house.journal.failed = ""

    in_a_house(tmp_path, body)


def test_outcomes_are_written_together(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        assert half.turnstile is not None
        for ticket in (1, 2, 3):
            half.ask(ask(ticket, "SELECT total FROM invoices"))
        await until(lambda: len(half.rulings) == 3)
        for ticket in (1, 2, 3):
            half.turnstile.ended(ticket, Outcome("ok", 1, 9, "", "SELECT 1", (("email", 2),)))
        gate.flush()
        [leaf] = house.written(Response)
        assert leaf["results"][0] == "s-1:1:ok:1:9::SELECT 1:email=2"
        assert len(leaf["results"]) == 3

    in_a_house(tmp_path, body)


MASKED = (
    MANIFESTS.replace("labels: {environment: production}", "labels: {environment: production, scope: pci}")
    + """\
---
apiVersion: muniment/v1
kind: Mask
metadata: {name: totals}
spec: {target: {labels: {scope: pci}}, columns: {total: [public.invoices.total]}, detect: [card_number]}
"""
)


def test_values_of_a_statement_on_protected_data_stay_out_of_the_journal(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(
            ask(1, "SELECT total FROM invoices WHERE id = 'zebra'"), ask(2, "SELECT $1::text", b"4111111111111111")
        )
        await until(lambda: len(half.rulings) == 2)
        first, second = half.verdict(1), half.verdict(2)
        assert isinstance(first, Allow)
        assert isinstance(second, Allow)
        assert first.masks is not None
        assert "zebra" not in (first.shown or "zebra")
        assert second.shown is not None
        assert half.kept == ["SELECT total FROM invoices WHERE id = 'zebra'", "SELECT $1::text"]
        assert [leaf["redacted"] for leaf in house.written(Request)] == [True, True]

    in_a_house(tmp_path, body, MASKED)


def test_what_cannot_be_masked_is_refused_before_release(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "COPY invoices TO STDOUT"), ask(2, "DECLARE c CURSOR FOR SELECT total FROM invoices"))
        await until(lambda: len(half.rulings) == 2)
        assert all(isinstance(verdict, Deny) for _, verdict in half.rulings)

    in_a_house(tmp_path, body, MASKED.replace("verbs: [select, drop]", "verbs: [select, drop, copy]"))


def test_a_repeated_read_has_the_line_of_a_first_one(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        for ticket in range(1, 4):
            half.ask(ask(ticket, "SELECT total FROM invoices WHERE total = $1", str(ticket).encode()))
            await until(lambda: len(half.rulings) == ticket)  # noqa: B023
        half.ask(ask(4, "SELECT total FROM invoices WHERE total = 9"))
        await until(lambda: len(half.rulings) == 4)
        half.ask(ask(5, "SELECT total FROM invoices WHERE total = 10"))
        assert len(half.rulings) == 5
        leaves = house.written(Request)
        assert [leaf.pop("n") for leaf in leaves] == [1, 2, 3, 4, 5]
        for leaf in leaves:
            for name in ("iseq", "iprev", "t", "sd"):
                leaf.pop(name)
        assert leaves == leaves[:1] * 5
        for ticket, (_, verdict) in enumerate(half.rulings, 1):
            assert verdict == half.verdict(1)
            half.turnstile.ended(ticket, Outcome("ok"))  # type: ignore[union-attr]
        gate.flush()
        results = house.written(Response)[-1]["results"]
        assert [result.split(":")[1] for result in results] == ["1", "2", "3", "4", "5"]

    in_a_house(tmp_path, body)


def test_a_repeated_read_under_other_names_is_judged_anew(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.rulings)
        elsewhere = Statement("SELECT total FROM invoices", names=Names(CATALOG, ("pg_catalog",)))
        half.ask(Ask(2, elsewhere))
        await until(lambda: len(half.rulings) == 2)
        first, second = house.written(Request)
        assert first["touches"] == ["select relation public.invoices"]
        assert second["touches"] != first["touches"]

    in_a_house(tmp_path, body)


def test_a_repeated_read_with_values_to_hide_is_recorded_without_them(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        for ticket, value in enumerate([b"one", b"two", b"4111111111111111", b"three"], 1):
            half.ask(ask(ticket, "SELECT $1::text", value))
            await until(lambda: len(half.rulings) == ticket)  # noqa: B023
        for ticket, text in ((5, "1234"), (6, "4111111111111111"), (7, "4111111111111111")):
            half.ask(ask(ticket, f"SELECT '{text}'"))
            await until(lambda: len(half.rulings) == ticket)  # noqa: B023
        hidden = [leaf.get("redacted", False) for leaf in house.written(Request)]
        assert hidden == [False, False, True, False, False, True, True]

    in_a_house(tmp_path, body, MASKED)


def test_a_repeated_read_is_ruled_on_no_more_once_the_journal_failed(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        for ticket in (1, 2):
            half.ask(ask(ticket, "SELECT total FROM invoices"))
            await until(lambda: len(half.rulings) == ticket)  # noqa: B023
        house.journal.failed = "the disk is gone"
        half.ask(ask(3, "SELECT total FROM invoices"))
        assert len(half.rulings) == 2
        assert half.failed

    in_a_house(tmp_path, body)


def test_what_a_lying_target_says_was_done_always_fits_in_the_record(tmp_path: Path) -> None:
    async def body(house: House, gate: Gate, half: Half) -> None:
        assert half.turnstile is not None
        half.ask(ask(1, "SELECT total FROM invoices"))
        await until(lambda: half.rulings)
        half.turnstile.ended(1, Outcome("error", 0, 0, "9" * 90_000, "\x01\ud800:é" + "X" * 90_000, ()))
        gate.flush()
        [leaf] = house.written(Response)
        assert leaf["results"] == ["s-1:1:error:0:0:99999:    " + "X" * 60 + ":"]

    in_a_house(tmp_path, body)
