"""The index: what it finds is what the log holds, and it can always be made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from muniment.model.entries import ApprovalRequest, Entry, Request, Response, SessionClose, SessionOpen
from muniment.model.errors import Unavailable
from muniment.store import payloads
from muniment.store.database import Database, sessions
from muniment.store.index import Filters, Index, _request
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.lines import Encoder
from muniment.store.log import Log


class Shelf:
    """A journal, its log, and the index over them, in one directory."""

    def __init__(self, directory: Path) -> None:
        ticks = count(1_790_000_000_000_000, 1000)
        self.evidence = directory / "evidence"
        self.keys = Keys.open(directory / "keys")
        self.journal, _ = Journal.open(
            self.evidence, "i-00000001", self.keys, now_us=lambda: next(ticks), reserve_bytes=4096
        )
        self.log = Log.open(self.evidence, "gw.example.org", 2026, self.keys)
        self.journal.add_sink(lambda lines: self._fold([line.line for line in lines]))
        self.database = Database(directory / "muniment.db")
        self.database.upgrade()
        self.index = Index(self.database, self.evidence, self.keys)

    def _fold(self, lines: list[bytes]) -> None:
        self.log.fold(lines)

    def write(self, *entries: Entry) -> list[str]:
        hashes = self.journal.append(entries)
        self.journal.flush()
        self.index.catch_up()
        return hashes

    def close(self) -> None:
        self.journal.close()
        self.log.close()
        self.index.close()
        self.database.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


def opened(ses: str, **changed: str) -> SessionOpen:
    fields = {"identity": "nightly-report", "target": "billing", "initiator": "schedule", "run": "4711"} | changed
    return SessionOpen(ses=ses, protocol="postgres", role="ro", database="billing", **fields)  # type: ignore[arg-type]


def asked(ses: str, n: int, *touches: str, decision: str = "allow") -> Request:
    return Request(ses=ses, n=n, phase="execute", decision=decision, rule="r", touches=touches, statement=f"-- {n}")


def test_a_session_is_found_by_what_it_is_and_what_it_did(shelf: Shelf) -> None:
    shelf.write(
        opened("s-1"),
        asked("s-1", 1, "select relation public.t", "call function f"),
        asked("s-1", 2, "select relation public.t"),
    )
    shelf.write(
        opened("s-2", identity="robot", run="", initiator="user", initiator_id="ada"),
        asked("s-2", 1, "drop table x", decision="deny"),
    )
    shelf.write(SessionClose(ses="s-1", reason="client left", exchanges=2))
    found = shelf.index.session("s-1")
    assert found is not None
    assert (found.identity, found.run, found.initiator, found.requests) == ("nightly-report", "4711", "schedule", 2)
    assert found.closed_us > found.opened_us and found.reason == "client left"
    assert shelf.index.used("s-1") == [("call function f", "allow", 1), ("select relation public.t", "allow", 2)]
    for filters, names in (
        (Filters(), ["s-2", "s-1"]), (Filters(identity="robot"), ["s-2"]), (Filters(run="4711"), ["s-1"]),
        (Filters(initiator="schedule"), ["s-1"]), (Filters(initiator="ada"), ["s-2"]), (Filters(verb="drop"), ["s-2"]),
        (Filters(verb="dr"), []), (Filters(verb="%"), []), (Filters(target="billing", verb="call"), ["s-1"]),
        (Filters(target="other"), []), (Filters(limit=1), ["s-2"]), (Filters(since_us=found.opened_us + 1), ["s-2"]),
    ):  # fmt: skip
        assert [row.ses for row in shelf.index.sessions(filters)] == names, filters


def test_the_lines_of_a_session_are_all_of_its_own_and_no_other(shelf: Shelf) -> None:
    entries: list[Entry] = [opened("s-1"), opened("s-11"), asked("s-1", 1), asked("s-11", 1)]
    entries += [Response(results=("s-1:1:ok:1:10:::", "s-11:1:ok:2:20:::")), Response(results=("s-11:2:ok:0:0:::",))]
    entries += [SessionClose(ses="s-1", reason="x"), opened("s-3")]
    hashes = shelf.write(*entries)
    row = shelf.index.session("s-1")
    assert row is not None
    lines = list(shelf.index.lines(row))
    assert [line.hash for line in lines] == [hashes[n] for n in (0, 2, 4, 6)]
    assert [line.index for line in lines] == [0, 2, 4, 6]
    secrets = shelf.index.payloads(row.inst, [line.fields["iseq"] for line in lines])
    assert [payload.fields.get("statement") for _, payload in sorted(secrets.items())] == [None, b"-- 1"]


def test_a_leaf_is_found_by_its_hash(shelf: Shelf) -> None:
    hashes = shelf.write(opened("s-1"), asked("s-1", 1), ApprovalRequest(approval="A-1", question="why?"))
    assert shelf.index.indexes(hashes) == {hashes[0]: 0, hashes[2]: 2}
    leaf = shelf.index.leaf(hashes[2])
    assert leaf is not None and (leaf.index, leaf.hash, leaf.fields["approval"]) == (2, hashes[2], "A-1")
    assert shelf.index.leaf("00" * 32) is None


def test_folding_in_parts_or_at_once_gives_the_same_tables(shelf: Shelf, tmp_path: Path) -> None:
    for n in range(1, 6):
        shelf.write(opened(f"s-{n}"), asked(f"s-{n}", 1, "select relation t"), asked("s-1", n + 1, "select relation t"))
    again = Database(tmp_path / "again.db")
    again.upgrade()
    other = Index(again, shelf.evidence, shelf.keys)
    other.catch_up()
    assert other.sessions(Filters()) == shelf.index.sessions(Filters())
    assert other.used("s-1") == shelf.index.used("s-1") == [("select relation t", "allow", 6)]
    again.close()


def test_tables_of_another_log_are_made_again(shelf: Shelf) -> None:
    shelf.write(opened("s-1"), asked("s-1", 1))
    with shelf.database.begin() as connection:
        connection.execute(text("UPDATE position SET tail = 'x'"))
        connection.execute(text("UPDATE sessions SET identity = 'wrong'"))
    shelf.index.start()
    shelf.index.catch_up()
    with shelf.database.read() as connection:
        assert connection.execute(select(sessions.c.identity)).scalar_one() == "nightly-report"


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    database = Database(tmp_path / "muniment.db")
    database.upgrade()
    index = Index(database, tmp_path / "evidence", Keys.open(tmp_path / "keys"))
    index.start()
    index.catch_up()
    assert index.sessions(Filters()) == []
    index.close()


def test_a_line_that_is_half_written_waits(shelf: Shelf) -> None:
    shelf.write(opened("s-1"))
    with (shelf.evidence / "log" / "records.jsonl").open("ab") as file:
        file.write(b'{"kind":"session.open","ses":"s-2"')
    shelf.index.catch_up()
    assert [row.ses for row in shelf.index.sessions(Filters())] == ["s-1"]


def test_a_missing_payload_leaves_the_session_findable(shelf: Shelf) -> None:
    (shelf.evidence / "payloads" / "i-00000001.bin").rename(shelf.evidence / "away")
    shelf.write(opened("s-1"))
    row = shelf.index.session("s-1")
    assert row is not None and row.run == ""
    with pytest.raises(Unavailable, match="cannot read"):
        shelf.index.payloads(row.inst, [1])


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['],"v":1', '"ses":"s-2"', ',"kind":"request"', '],"traits":[', '"decision":"deny"', "\\", '\\"', "]", '],"']
)


@given(st.lists(names, max_size=4).map(tuple), st.lists(names, max_size=2).map(tuple), names)
def test_the_quick_reading_of_a_request_is_what_json_says(
    touches: tuple[str, ...], traits: tuple[str, ...], rule: str
) -> None:
    entry = Request(ses="s-1", n=7, phase="execute", decision="hold", rule=rule, touches=touches, traits=traits)
    line, _ = Encoder("i-00000001").encode(entry, 9, "ab" * 32, 5)
    ses, decision, rest = _request(line)
    assert (ses, decision) == (b"s-1", b"hold")
    assert tuple(json.loads(b"{" + rest + b"}").get("touches", ())) == touches


def test_the_opening_of_a_session_is_read_where_the_journal_says_it_is(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the place its payload is looked for from the run's begin, which is all traffic since the start."""

    def looked(file: int, iseq: int) -> int | None:
        raise AssertionError("it was looked for")

    shelf.journal.add_sink(lambda lines: shelf.index.expect("i-00000001", lines))
    shelf.write(asked("s-0", 1, "select relation public.t"))
    with monkeypatch.context() as patch:
        patch.setattr(payloads, "_find", looked)
        shelf.write(opened("s-1", run="4711"), opened("s-2", run="4712"))
    assert [row.run for row in shelf.index.sessions(Filters())] == ["4712", "4711"]
