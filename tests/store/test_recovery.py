from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.journals import (
    ENVIRONMENT,
    INSTANCE,
    check,
    closing,
    lines_of,
    opened,
    opening,
    request,
    response,
    ticks,
)

from muniment.model.entries import Entry, InstanceRecover, InstanceStart, Response, SessionClose
from muniment.model.errors import Unavailable
from muniment.proof import canonical
from muniment.store import journal as journal_module
from muniment.store import payloads, recovery
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.recordings import Closed
from muniment.store.recovery import Recovery

LINES, PAYLOADS = f"journal/{INSTANCE}.jsonl", f"payloads/{INSTANCE}.bin"
MARK, SNAPSHOT = f"journal/{INSTANCE}.mark", f"journal/{INSTANCE}.open"

RUN: list[list[Entry]] = [
    [InstanceStart(boot="boot-1", software="0.1")],
    [opening("s-1")],
    [request(1, "s-1"), request(2, "s-1")],
    [response(1, ses="s-1")],
    [opening("s-2"), request(1, "s-2", "deny"), request(2, "s-2", "hold")],
    [closing("s-1")],
    [request(3, "s-2")],
]


def copy(evidence: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(evidence, to)
    return to


@pytest.fixture
def run(evidence: Path, keys: Keys) -> Path:
    """A run that ended without closing anything, as `kill -9` before any sync would leave it: nothing marked."""
    with opened(evidence, keys) as (journal, _):
        for batch in RUN:
            journal.append(batch)
    (evidence / MARK).unlink()
    (evidence / SNAPSHOT).unlink()
    return evidence


def test_what_was_open_is_reported(run: Path, keys: Keys) -> None:
    with opened(run, keys) as (_, found):
        assert found == Recovery(
            torn_bytes=0,
            last_iseq=10,
            open_sessions=(("s-2", 3),),
            open_exchanges=(("s-2", 3),),
            waiting=(("s-2", 2),),
            boot="boot-1",
        )
        assert not found.clean


def test_a_journal_cut_at_any_byte_is_whole_up_to_its_last_whole_line(run: Path, keys: Keys, tmp_path: Path) -> None:
    data = (run / LINES).read_bytes()
    before = lines_of(run)
    ends = [at for at in range(len(data)) if data[at : at + 1] == b"\n"]
    some = {at + near for at in ends for near in (-1, 0, 1)}
    for size in sorted(some | set(range(ends[-2], len(data))) | set(range(0, len(data), 97))):
        cut = copy(run, tmp_path / "cut")
        os.truncate(cut / LINES, size)
        whole = data[:size].count(b"\n")
        with opened(cut, keys) as (journal, found):
            assert found.last_iseq == whole
            assert found.torn_bytes == size - (data[:size].rfind(b"\n") + 1)
            assert lines_of(cut) == before[:whole]
            journal.append([request(9, "s-9", text="select 'after'")])
        assert len(check(cut, keys)) == whole + 1


def test_payloads_cut_at_any_byte_are_whole_up_to_the_last_block_and_the_rest_is_counted(
    run: Path, keys: Keys, tmp_path: Path
) -> None:
    size = (run / PAYLOADS).stat().st_size
    most = 0
    for cut_at in range(0, size, 11):
        cut = copy(run, tmp_path / "cut")
        os.truncate(cut / PAYLOADS, cut_at)
        with opened(cut, keys) as (journal, found):
            assert (found.last_iseq, found.torn_bytes) == (10, 0)
            most = max(most, found.lost_payloads)
            journal.append([request(9, "s-9", text="select 'after'")])
        check(cut, keys, lost=found.lost_payloads)
    assert most == 7, "with no payloads at all, each line that commits to something is counted"


def test_payloads_of_zeros_are_counted_as_lost(run: Path, keys: Keys) -> None:
    (run / PAYLOADS).write_bytes(bytes((run / PAYLOADS).stat().st_size))
    with opened(run, keys) as (_, found):
        assert found.lost_payloads == 7
    check(run, keys, lost=7)


def test_a_hole_in_unsynced_payloads_is_found_although_their_length_is_right(run: Path, keys: Keys) -> None:
    data = bytearray((run / PAYLOADS).read_bytes())
    data[-10:] = bytes(10)  # a page that a power cut took
    (run / PAYLOADS).write_bytes(data)
    with opened(run, keys) as (_, found):
        assert found.lost_payloads == 1
    check(run, keys, lost=1)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 9])
def test_more_than_a_torn_line_is_kept_beside(run: Path, keys: Keys, at: int) -> None:
    lines = (run / LINES).read_bytes().splitlines(keepends=True)
    damaged = lines[at].replace(b'"iseq"', b'"isep"')
    (run / LINES).write_bytes(b"".join([*lines[:at], damaged, *lines[at + 1 :]]))
    with opened(run, keys) as (_, found):
        assert found.last_iseq == at
        assert found.torn_bytes == len(b"".join(lines[at:]))
    assert (run / f"journal/{INSTANCE}.cut-{at + 1}").read_bytes() == damaged + b"".join(lines[at + 1 :])
    check(run, keys)
    (run / MARK).unlink()
    with (run / LINES).open("ab") as file:
        file.write(b"again\n")
    with opened(run, keys):
        assert (run / f"journal/{INSTANCE}.cut-{at + 1}-2").read_bytes() == b"again\n"


@pytest.mark.parametrize("junk", [b"\n", b"null\n", b"[]\n", b"{}\n", b'{"kind":"request"}\n', b"[" * 9000 + b"\n"])
def test_lines_that_are_none_of_ours_are_cut(run: Path, keys: Keys, junk: bytes) -> None:
    with (run / LINES).open("ab") as file:
        file.write(junk)
    with opened(run, keys) as (_, found):
        assert (found.last_iseq, found.torn_bytes) == (10, len(junk))
    check(run, keys)


@pytest.mark.parametrize("name", [LINES, PAYLOADS])
def test_what_was_synced_and_is_gone_or_changed_is_damage_and_nothing_is_touched(
    evidence: Path, keys: Keys, tmp_path: Path, name: str
) -> None:
    with opened(evidence, keys) as (journal, _):
        for batch in RUN:
            journal.append(batch)
        journal.flush()
    (evidence / SNAPSHOT).unlink()
    size = (evidence / name).stat().st_size
    for cut_at in (size - 1, size // 2, 0):
        cut = copy(evidence, tmp_path / "cut")
        os.truncate(cut / name, cut_at)
        before = (cut / name).read_bytes()
        with pytest.raises(Unavailable, match="damaged") as caught:
            Journal.open(cut, INSTANCE, keys, now_us=ticks())
        assert "copy" in caught.value.mend
        assert (cut / name).read_bytes() == before
    changed = copy(evidence, tmp_path / "changed")
    data = bytearray((changed / LINES).read_bytes())
    data[len(data) // 2] ^= 1
    (changed / LINES).write_bytes(data)
    with pytest.raises(Unavailable, match="damaged"):
        Journal.open(changed, INSTANCE, keys, now_us=ticks())


def test_a_journal_that_ends_before_what_the_log_holds_is_damage_without_any_mark(run: Path, keys: Keys) -> None:
    before = (run / LINES).read_bytes()
    (run / LINES).write_bytes(before[:-40])
    with pytest.raises(Unavailable, match="whole to line 10"):
        Journal.open(run, INSTANCE, keys, now_us=ticks(), folded=10)
    assert (run / LINES).read_bytes() == before[:-40]
    with opened(run, keys, folded=9) as (_, found):
        assert found.last_iseq == 9


def test_a_start_with_another_key_is_refused_and_touches_nothing(run: Path, tmp_path: Path) -> None:
    before = (run / PAYLOADS).read_bytes()
    with pytest.raises(Unavailable, match="sealed with key"):
        Journal.open(run, INSTANCE, Keys.open(tmp_path / "other"), now_us=ticks())
    assert (run / PAYLOADS).read_bytes() == before


def test_a_start_with_another_key_is_refused_also_when_everything_was_synced(
    evidence: Path, keys: Keys, tmp_path: Path
) -> None:
    with opened(evidence, keys) as (journal, _):
        journal.append([opening()])
    with pytest.raises(Unavailable, match="sealed with key"):
        Journal.open(evidence, INSTANCE, Keys.open(tmp_path / "other"), now_us=ticks())


def test_a_batch_torn_between_its_lines_leaves_no_payload_to_the_lines_that_follow(run: Path, keys: Keys) -> None:
    kept = lines_of(run)[:6]  # the batch of lines 5 to 7 is torn behind its second line
    (run / LINES).write_bytes(b"\n".join(kept) + b"\n")
    with opened(run, keys) as (journal, _):
        journal.append([request(9, "s-9", text="select 'after'")])
        journal.flush()
        *_, line = [line for batch in journal.replay_from(1) for line in batch]
        assert line.iseq == 7
        assert payloads.read(run, INSTANCE, keys, 7, line.payload).fields["statement"] == b"select 'after'"
        assert payloads.read(run, INSTANCE, keys, 7).fields["statement"] == b"select 'after'"
    check(run, keys)


def test_payloads_whose_lines_are_gone_are_cut_whole(run: Path, keys: Keys) -> None:
    (run / LINES).write_bytes(b"\n".join(lines_of(run)[:2]) + b"\n")
    with opened(run, keys) as (journal, _):
        size = (run / PAYLOADS).stat().st_size
        with (run / PAYLOADS).open("rb") as file:
            found = list(payloads.walk(file.fileno(), 0, size))
        assert found[-1].end == size
        assert [block.first for block in found] == [0, 2, 0], "the first run's key and its one line, and our own key"
        journal.append([request(9, "s-9")])
    check(run, keys)


def test_a_line_that_was_changed_no_longer_leads_to_the_next(run: Path, keys: Keys) -> None:
    lines = lines_of(run)
    lines[2] = lines[2].replace(b'"allow"', b'"deny"')
    (run / LINES).write_bytes(b"\n".join(lines) + b"\n")
    with opened(run, keys) as (_, found):
        assert found.last_iseq == 3


def test_a_torn_mark_counts_as_nothing_synced(run: Path, keys: Keys) -> None:
    (run / MARK).write_bytes(b"\x00" * 20)
    with opened(run, keys) as (_, found):
        assert found.last_iseq == 10


exchanges = st.lists(
    st.one_of(
        st.builds(opening, st.sampled_from("abc")),
        st.builds(request, st.integers(1, 5), st.sampled_from("abc"), st.sampled_from(["allow", "deny", "hold"])),
        st.builds(lambda n, ses: response(n, ses=ses), st.integers(1, 5), st.sampled_from("abc")),
        st.builds(closing, st.sampled_from("abc")),
    ),
    max_size=30,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=exchanges)
def test_a_snapshot_only_saves_time(
    entries: list[Entry], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SNAPSHOT_EVERY_BYTES", 1)
    home = tmp_path_factory.mktemp("snapshot")
    keys = Keys.open(home / "keys")
    with opened(home / "evidence", keys) as (journal, _):
        for entry in entries:
            journal.append([entry])
    with opened(home / "evidence", keys) as (_, with_snapshot):
        pass
    (home / "evidence" / SNAPSHOT).unlink()
    with opened(home / "evidence", keys) as (_, without):
        assert with_snapshot == without


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"at": [1, "x", 1, 5, 5], "sessions": {"s": 1}, "exchanges": [], "boot": ""}', b"{}"]
)
def test_a_broken_or_foreign_snapshot_is_passed_over(evidence: Path, keys: Keys, text: bytes) -> None:
    with opened(evidence, keys) as (journal, _):
        for batch in RUN:
            journal.append(batch)
    (evidence / SNAPSHOT).write_bytes(text)
    with opened(evidence, keys) as (_, found):
        assert (found.last_iseq, found.open_sessions) == (10, (("s-2", 3),))


def nothing_recorded(_: str) -> tuple[Closed | None, Closed | None]:
    return None, None


def test_after_settling_the_next_start_finds_nothing_open(run: Path, keys: Keys) -> None:
    shown = Closed(3, "ab" * 32, "cd" * 32)
    with opened(run, keys) as (journal, found):
        journal.append(list(recovery.settle(found, "boot-2", lambda ses: (shown, None))))
    lines = check(run, keys)[10:]
    assert [line["kind"] for line in lines] == ["instance.recover", "response", "session.close"]
    assert lines[0]["sessions"] == ["s-2"]
    assert lines[1]["results"] == ["s-2:3:unknown:0:0:::", "s-2:2:withdrawn:0:0:::"]
    assert (lines[2]["exchanges"], lines[2]["frames"], lines[2]["recording"]) == (3, 3, "ab" * 32)
    with opened(run, keys) as (_, found):
        assert found.clean
        assert list(recovery.settle(found, "boot-3", nothing_recorded)) == []


def test_settling_very_many_sessions_fits_in_lines() -> None:
    found = Recovery(
        torn_bytes=5,
        open_sessions=tuple((f"s-{n:032x}", 7) for n in range(3000)),
        open_exchanges=tuple((f"s-{n:032x}", 7) for n in range(3000)),
        lost_payloads=2,
    )
    entries = list(recovery.settle(found, "boot", nothing_recorded))
    for entry in entries:
        canonical.encode(recovery_header(entry))
    recovered = [entry for entry in entries if isinstance(entry, InstanceRecover)]
    assert sum(len(entry.sessions) for entry in recovered) == 3000
    assert sum(entry.torn_bytes for entry in recovered) == 5
    assert sum(len(entry.results) for entry in entries if isinstance(entry, Response)) == 3000
    assert sum(isinstance(entry, SessionClose) for entry in entries) == 3000


def recovery_header(entry: Entry) -> dict[str, object]:
    from muniment.model.entries import header

    return header(entry)


KILLED = """
import pathlib, sys
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from tests.store.journals import opening, request, response
import time
home = pathlib.Path(sys.argv[1])
journal, _ = Journal.open(home / "evidence", "i-00000001", Keys.open(home / "keys"),
                          now_us=lambda: time.time_ns() // 1000, reserve_bytes=4096)
ses = sys.argv[2]
journal.append([opening(ses)])
for n in range(1, 1_000_000):
    journal.append([request(3 * n, ses), request(3 * n + 1, ses), request(3 * n + 2, ses, text="x" * 40_000)])
    print(journal.last_iseq, 3 * n + 2, flush=True)  # released: whatever is printed must be in the record
"""


def test_after_kill_9_the_record_is_whole_up_to_the_last_released_exchange(
    tmp_path: Path, evidence: Path, keys: Keys
) -> None:
    before = 0
    for round_number in range(6):
        ses = f"s-{round_number}"
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path, ses], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(random.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        released = child.stdout.read().split("\n")[-2:-1]
        child.wait()
        with opened(evidence, keys) as (journal, found):
            if released:
                iseq, n = map(int, released[0].split())
                assert found.last_iseq >= iseq
                assert dict(found.open_sessions)[ses] >= n
                assert (ses, n) in found.open_exchanges
            assert found.last_iseq > before
            assert [name for name, _ in found.open_sessions] == [ses]
            journal.append(list(recovery.settle(found, "boot", nothing_recorded)))
            before = journal.last_iseq
    assert len(check(evidence, keys)) == before
