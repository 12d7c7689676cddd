"""Reading the record: a session with its decisions, a replay in order of time, and a copy that a stranger can check."""

from __future__ import annotations

import asyncio
import io
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Coroutine, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.model.entries import EvidenceView, Request, Response
from muniment.model.exchange import Parameter
from muniment.protocols.postgres import frames
from muniment.services import decisions, replaying, views
from muniment.services.approvals import Question
from muniment.services.evidence import Event, verifier
from muniment.store.index import Filters
from muniment.store.recordings import Frame, Recorder, path_of
from tests.kit.cases import READY, described, tag
from tests.scan.frames import row
from tests.services.house import MANIFESTS, House, person_manifest
from tests.services.people import Signer, make_person

RESULT = (
    described(("id", 0, 0, 23), ("card", 0, 0, 25))
    + row(b"1", b"4111********1111")
    + row(b"2", None)
    + tag("SELECT 2")
    + READY
)


def shown(stream: bytes, cuts: Iterable[int] = ()) -> list[replaying.Shown]:
    edges = [0, *sorted(cuts), len(stream)]
    parts = [stream[a:b] for a, b in pairwise(edges)]
    return list(replaying.render("postgres", iter([Frame(7, 1, part) for part in parts])))


def test_rows_notices_errors_and_tags_are_shown_as_psql_does() -> None:
    refusal = frames.error("42501", "denied by rule x", detail="drop table t", hint="ask")
    seen = shown(RESULT + refusal + frames.notice("held"))
    assert [one.what for one in seen] == ["rows", "complete", "error", "notice"]
    assert seen[0].columns == ("id", "card") and seen[0].rows == (("1", "4111********1111"), ("2", None))
    assert seen[0].text.splitlines() == [
        " id |       card", "----+------------------", " 1  | 4111********1111", " 2  |"
    ]  # fmt: skip
    assert seen[1].text == "SELECT 2"
    assert seen[2].text == "ERROR:  denied by rule x (42501)\nDETAIL:  drop table t\nHINT:  ask"


@given(st.lists(st.integers(0, len(RESULT)), max_size=12))
def test_a_recording_cut_anywhere_shows_the_same(cuts: list[int]) -> None:
    assert shown(RESULT, cuts) == shown(RESULT)


@given(st.binary(max_size=200))
def test_damaged_bytes_are_shown_as_far_as_they_go(data: bytes) -> None:
    seen = shown(RESULT + data)
    assert seen[0].rows == (("1", "4111********1111"), ("2", None))


def test_a_long_result_comes_in_parts_and_binary_values_are_read() -> None:
    stream = described(("n", 0, 0, 23), ("b", 0, 0, 16), ("u", 0, 0, 2950), ("x", 0, 0, 17), form=1)
    values = (struct.pack("!i", 5), b"\1", bytes(16), b"\xff")
    stream += row(*values) * 250 + tag("SELECT 250") + READY
    seen = [one for one in shown(stream) if one.what == "rows"]
    assert [len(one.rows) for one in seen] == [100, 100, 50]
    assert seen[0].rows[0] == ("5", "t", "00000000-0000-0000-0000-000000000000", "\\xff")


def test_a_value_cannot_break_the_table_or_move_a_cursor() -> None:
    seen = shown(described(("a\x1b[2J", 0, 0, 25)) + row(b"x\ny\x1b[31m") + tag("SELECT 1") + READY)
    assert "\x1b" not in seen[0].text and len(seen[0].text.splitlines()) == 3


def test_a_protocol_without_a_reader_says_so() -> None:
    assert [one.what for one in replaying.render("mysql", iter([]))] == ["note"]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("s-1:3:ok:2:90::SELECT 2:card=2,ssn=1", [(3, "ok", 2, 90, "", "SELECT 2", {"card": 2, "ssn": 1})]),
        ("s-1:4:error:0:0:42P01::", [(4, "error", 0, 0, "42P01", "", {})]),
        ("s-1:5:unknown", [(5, "unknown", 0, 0, "", "", {})]),
        ("s-11:5:ok", []), ("s-1", []), ("s-1:x:ok:1:1:::", []), ("", []),
    ],
)  # fmt: skip
def test_results_are_read_from_response_lines(text: str, ends: list[tuple[Any, ...]]) -> None:
    assert [
        (one.n, one.status, one.rows, one.bytes, one.code, one.tag, one.masked) for one in views.outcomes([text], "s-1")
    ] == ends


DROP = Question(
    ses="s-1", n=2, identity="nightly-report", owner="ada@example.org", target="billing", database="billing",
    role="report_ro", rule="production-safety", approvers="dba", count=1, within_s=1800,
    statement="DROP DATABASE scratch", parameters=(), question="drop database scratch",
)  # fmt: skip


async def lived(house: House, signer: Signer) -> None:
    """A session with an allowed exchange, one that was held, approved and then ran, and a denied one, recorded."""
    await house.registry.start()
    await house.registry.apply(
        [("a.yaml", MANIFESTS), ("p.yaml", person_manifest("edsger", signer.person.keys[0]))], by="ada"
    )
    house.open()
    parameters = decisions.parameters_json([Parameter(23, False, b"7"), Parameter(25, False, None)]).encode()
    house.journal.append(
        [Request(ses="s-1", n=1, phase="execute", decision="allow", rule="reads-billing", rules=1,
                 touches=("select relation public.t",), statement="select $1, $2", parameters=parameters)]
    )  # fmt: skip
    recorder = Recorder(path_of(house.evidence_dir, "s-1"), house.keys, ses="s-1")
    recorder.write(house.now_us(), 1, RESULT)
    held = await house.approvals.ask(DROP)
    text = decisions.document(
        deployment="gw.example.org", approval=held.id, bound=DROP.bound, identity=DROP.identity, target=DROP.target,
        decision="approve", person="edsger", reason="OPS-1412", t_us=house.now_us(),
    )  # fmt: skip
    await house.approvals.decide(text, signer.sign(text), "OPS-1412")
    leaf = await house.approvals.use(held.id, "s-1", 3)
    house.journal.append(
        [Request(ses="s-1", n=2, phase="execute", decision="hold", rule="production-safety",
                 touches=("drop database scratch",), statement=DROP.statement),
         Request(ses="s-1", n=3, phase="execute", decision="allow", rule="reads-billing", approval=leaf,
                 touches=("drop database scratch",), statement=DROP.statement),
         Request(ses="s-1", n=4, phase="execute", decision="deny", rule="no-grant", touches=("drop table t",),
                 statement="drop table t", why="not in a grant"),
         Response(results=("s-1:1:ok:2:40::SELECT 2:card_number=1", "s-1:3:ok:0:0::DROP DATABASE:",
                           "s-1:4:refused:0:0:42501::"))]
    )  # fmt: skip
    refusal = frames.error("42501", "denied by no-grant")
    recorder.write(house.now_us(), 1, tag("DROP DATABASE") + READY)
    recorder.write(house.now_us(), 2, refusal)
    recorder.close()
    house.end(exchanges=4)
    house.journal.flush()


def walk(test: Callable[[House, Signer], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Run a test on an event loop of its own, in a house where that session took place."""

    def run(tmp_path: Path) -> None:
        async def all_of_it() -> None:
            house = House(tmp_path)
            signer = make_person(tmp_path, "edsger", "dba")
            await lived(house, signer)
            try:
                await test(house, signer)
            finally:
                house.close()

        asyncio.run(all_of_it())

    run.__name__ = test.__name__
    return run


@walk
async def test_a_session_is_shown_with_every_decision_and_its_place_in_the_log(house: House, _: Signer) -> None:
    view = await house.evidence.show("s-1", "ada@desk")
    assert view is not None and not view.live and not view.more
    assert (view.row.run, view.hidden["sub"], view.closed["reason"]) == ("4711", "repo:acme", "the client left")
    first, held, released, denied = view.exchanges
    assert (first.statement, first.parameters, first.status, first.rows) == ("select $1, $2", ("7", None), "ok", 2)
    assert first.masked == {"card_number": 1}
    assert (denied.decision, denied.rule, denied.why, denied.status) == (
        "deny",
        "no-grant",
        "not in a grant",
        "refused",
    )
    (asked,) = held.approvals
    assert (held.decision, released.decision, released.approvals) == ("hold", "allow", ())
    assert released.released_by == asked.id and released.tag == "DROP DATABASE"
    assert (asked.state, asked.rule, asked.statement) == ("used", "production-safety", "DROP DATABASE scratch")
    assert asked.question == "drop database scratch"  # from the sealed payload: the database has it no more
    approved, used = asked.history
    assert (approved.decision, approved.person, approved.reason) == ("approve", "edsger", "OPS-1412")
    assert (used.decision, used.ses, used.n) == ("use", "s-1", 3)
    lines = (house.evidence_dir / "log" / "records.jsonl").read_bytes().splitlines()
    for index, kind in (
        (asked.index, b"approval.request"),
        (approved.index, b"approval.decide"),
        (held.index, b"request"),
    ):
        assert b'"kind":"' + kind + b'"' in lines[index]
    assert [(one["what"], one["object"]) for one in house.written(EvidenceView)] == [("show", "s-1")]


@walk
async def test_pages_of_a_session_join_without_a_gap(house: House, _: Signer) -> None:
    one = await house.evidence.show("s-1", "ada", limit=2)
    assert one is not None and one.more and [exchange.n for exchange in one.exchanges] == [1, 2]
    two = await house.evidence.show("s-1", "ada", after=2, limit=2)
    assert two is not None and not two.more and [exchange.n for exchange in two.exchanges] == [3, 4]


@walk
async def test_a_replay_tells_everything_in_order_of_time(house: House, _: Signer) -> None:
    events = await house.evidence.replay("s-1", "ada")
    assert events is not None
    told: list[Event] = list(events)
    assert [event.t_us for event in told] == sorted(event.t_us for event in told)
    assert [event.what for event in told if event.what not in ("outcome",)] == [
        "session", "request", "rows", "complete", "question", "decision", "decision", "request", "request", "request",
        "complete", "error", "end",
    ]  # fmt: skip
    assert "$1 = '7'" in told[1].text and "$2 = NULL" in told[1].text
    assert [(event.decision, event.person) for event in told if event.what == "decision"] == [
        ("approve", "edsger"), ("use", "")
    ]  # fmt: skip


@walk
async def test_without_the_payloads_the_readable_part_is_shown(house: House, _: Signer) -> None:
    (house.evidence_dir / "payloads" / "i-00000001.bin").rename(house.data / "away")
    view = await house.evidence.show("s-1", "ada")
    assert view is not None and view.exchanges[0].touches == ("select relation public.t",)
    assert view.exchanges[0].statement == "" and "cannot read" in view.exchanges[0].sealed


@walk
async def test_a_damaged_recording_is_replayed_as_far_as_it_goes(house: House, _: Signer) -> None:
    path = path_of(house.evidence_dir, "s-1")
    path.write_bytes(path.read_bytes()[:-5])
    events = await house.evidence.replay("s-1", "ada")
    assert events is not None
    assert any(event.what == "note" and "recording" in event.text for event in events)


@walk
async def test_what_is_not_there_is_none(house: House, _: Signer) -> None:
    assert await house.evidence.show("s-9", "ada") is None
    assert await house.evidence.replay("s-9", "ada") is None
    assert await house.evidence.approval("A-2222-2222") is None
    assert [found.ses for found in await house.evidence.sessions(Filters(verb="drop"))] == ["s-1"]


@walk
async def test_an_export_holds_the_evidence_and_its_verifier_and_no_key(house: House, _: Signer) -> None:
    house.log.checkpoint(house.now_us())
    with (house.evidence_dir / "log" / "records.jsonl").open("ab") as file:
        file.write(b'{"half":')  # a line that is being written while the copy is taken
    parts = await house.evidence.export("ada")
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        names = archive.getnames()
        assert (
            names[:2] == ["log/checkpoints.jsonl", "log/checkpoint"]
            and "verify.py" in names
            and "recordings/s-1.rec" in names
        )
        records = archive.extractfile("log/records.jsonl")
        assert records is not None and records.read().endswith(b"}\n")
    assert not any("kek" in name or name.endswith((".db", "log.key")) for name in names)
    assert [name for name in names if name.endswith((".mark", ".open", ".reserve", ".new"))] == []


@walk
async def test_a_copy_that_is_taken_while_checkpoints_are_signed_holds(house: House, _: Signer) -> None:
    house.log.checkpoint(house.now_us())
    parts = []
    for part in await house.evidence.export("ada"):
        parts.append(part)
        house.open(f"s-{len(parts) + 10}")
        house.end(f"s-{len(parts) + 10}")
        house.journal.flush()
        house.log.checkpoint(house.now_us())
    copy = house.data / "copy"
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        archive.extractall(copy)  # our own files; `filter` is missing before Python 3.11.4
    command = [sys.executable, str(verifier()), str(copy), "--key", str(house.evidence_dir / "log" / "key.pub")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert "is older than" not in done.stdout and "was cut" not in done.stdout, done.stdout
