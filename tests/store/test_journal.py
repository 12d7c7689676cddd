from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from hashlib import sha256
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

from muniment.model.entries import Entry, InstanceFail, Request
from muniment.model.errors import ConfigError, Unavailable
from muniment.proof.canonical import CanonicalError
from muniment.store import journal as journal_module
from muniment.store import payloads, recovery
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.replay import SyncedLine

ENTRIES: list[Entry] = [opening(), request(1), request(2, decision="deny"), response(1, 2), closing()]


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)


def synced_to(evidence: Path) -> int:
    file = os.open(evidence / "journal" / f"{INSTANCE}.mark", os.O_RDONLY)
    try:
        return recovery.read_mark(file).iseq
    finally:
        os.close(file)


def test_what_append_wrote_is_in_the_files_when_it_returns(evidence: Path, keys: Keys) -> None:
    with opened(evidence, keys) as (journal, _):
        for number, entry in enumerate(ENTRIES, 1):
            hashes = journal.append([entry])
            assert [sha256(b"\0" + lines_of(evidence)[-1]).hexdigest()] == hashes
            assert len(check(evidence, keys)) == journal.last_iseq == number


def test_a_request_that_comes_again_is_written_as_any_other(evidence: Path, keys: Keys) -> None:
    offered: list[SyncedLine] = []
    with opened(evidence, keys) as (journal, _):
        journal.add_sink(offered.extend)
        assert journal.again(request(1)) is None  # the very first line names no line before it
        journal.append([opening(), request(1)])
        again = journal.again(request(1))
        assert again is not None
        for n in range(2, 5):
            journal.append_again(again, n, b"select 1", b"\x00\x01" if n != 3 else b"")
            assert len(check(evidence, keys)) == journal.last_iseq == n + 1
        journal.append([response(1, 2, 3)])
        journal.flush()
        assert [line.line for line in offered] == lines_of(evidence)
        fields = [payloads.read(evidence, INSTANCE, keys, line.iseq, line.payload) for line in offered[1:5]]
        assert [each.fields.get("parameters") for each in fields if each] == [b"\0\1", b"\0\1", None, b"\0\1"]
    with opened(evidence, keys) as (_, found):
        assert found.open_exchanges == (("s-1", 4),)


def test_a_failed_journal_takes_no_request_that_comes_again(evidence: Path, keys: Keys) -> None:
    with opened(evidence, keys) as (journal, _):
        journal.append([opening(), request(1)])
        again = journal.again(request(1))
        assert again is not None
        os.close(journal._files.payloads)
        with pytest.raises(Unavailable):
            journal.append_again(again, 2, b"select 1", b"")
        assert journal.failed
        with pytest.raises(Unavailable):
            journal.append_again(again, 3, b"select 1", b"")
        journal._files.payloads = os.open(os.devnull, os.O_WRONLY)
        assert len(lines_of(evidence)) == 2


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.sampled_from(ENTRIES), max_size=5), max_size=6), reopen=st.integers(0, 6))
def test_any_batches_over_any_restart_are_one_chain(
    batches: list[list[Entry]], reopen: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("chain")
    keys = Keys.open(home / "keys")
    hashes: list[str] = []
    for part in (batches[:reopen], batches[reopen:]):
        with opened(home / "evidence", keys) as (journal, found):
            assert found.last_iseq == len(hashes)
            for batch in part:
                hashes += journal.append(batch)
    check(home / "evidence", keys)
    assert [sha256(b"\0" + line).hexdigest() for line in lines_of(home / "evidence")] == hashes


def test_times_never_go_back_even_when_the_clock_does(evidence: Path, keys: Keys) -> None:
    clock = iter([5_000_000, 4_000_000, 6_000_000])
    with opened(evidence, keys, now_us=clock.__next__) as (journal, _):
        for _ in range(3):
            journal.append([request(1)])
    with opened(evidence, keys, now_us=lambda: 1) as (journal, _):
        journal.append([request(1)])
    assert [line["t"] for line in check(evidence, keys)] == [5_000_000, 5_000_000, 6_000_000, 6_000_000]


def test_an_entry_that_does_not_fit_writes_nothing_and_the_journal_lives_on(evidence: Path, keys: Keys) -> None:
    with opened(evidence, keys) as (journal, _):
        with pytest.raises(CanonicalError):
            journal.append([request(1), Request(ses="s-1", touches=("x" * 40_000,), statement="x")])
        assert (journal.last_iseq, journal.failed) == (0, "")
        journal.append([request(1)])
    check(evidence, keys)


def test_no_statement_or_parameter_stands_readable_in_any_file(evidence: Path, keys: Keys) -> None:
    with opened(evidence, keys) as (journal, _):
        journal.append([opening(), request(1, text="select 'canary-4711'")])
    for path in evidence.rglob("*"):
        if path.is_file():
            assert b"canary-4711" not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0
    assert payloads.read(evidence, INSTANCE, keys, 2).fields["statement"] == b"select 'canary-4711'"


def test_a_second_gateway_on_the_same_data_is_told_so(evidence: Path, keys: Keys, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from muniment.store.keys import Keys\n"
        "from muniment.store.journal import Journal\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "Journal.open(home / 'evidence', 'i-00000001', Keys.open(home / 'keys'), now_us=lambda: 0)\n"
    )
    with opened(evidence, keys) as (journal, _):
        with pytest.raises(Unavailable, match="another gateway runs on this data directory"):
            Journal.open(evidence, INSTANCE, keys, now_us=ticks())
        other = python("-c", program, tmp_path)
        assert other.returncode == 1
        assert "another gateway runs on this data directory" in other.stderr
        journal.append([request(1)])
    check(evidence, keys)


@pytest.mark.parametrize("instance", ["", "../x", "a/b", "I-1", "x" * 64, "i-\n"])
def test_an_instance_id_that_is_no_file_name_is_refused(evidence: Path, keys: Keys, instance: str) -> None:
    with pytest.raises(ConfigError, match="not the id of an instance"):
        Journal.open(evidence, instance, keys, now_us=ticks())


def test_a_directory_that_cannot_be_written_is_a_clear_refusal(tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot open the journal"):
        Journal.open(tmp_path / "file" / "evidence", INSTANCE, keys, now_us=ticks())


def test_durable_returns_when_everything_before_it_is_synced(evidence: Path, keys: Keys) -> None:
    async def exchange(journal: Journal, count: int) -> None:
        for n in range(count):
            journal.append([request(n)])
            wanted = journal.last_iseq
            await journal.durable()
            assert synced_to(evidence) >= wanted

    async def many(journal: Journal) -> None:
        await asyncio.gather(*(exchange(journal, 10) for _ in range(8)))
        await journal.durable()

    with opened(evidence, keys) as (journal, _):
        asyncio.run(many(journal))
        assert journal.last_iseq == 80
    check(evidence, keys)


def test_payloads_are_synced_before_lines_and_lines_before_the_mark(
    evidence: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    real = os.fdatasync

    def spy(file: int) -> None:
        real(file)
        synced.append((Path(os.readlink(f"/proc/self/fd/{file}")).suffix, synced_to(evidence)))

    with opened(evidence, keys) as (journal, _):
        monkeypatch.setattr(os, "fdatasync", spy)
        journal.append([request(1)])
        asyncio.run(journal.durable())
        journal.append([response(1)])  # it has no payload
        asyncio.run(journal.durable())
        assert synced == [(".bin", 0), (".jsonl", 0), (".jsonl", 1)]


def test_a_waiter_that_gave_up_does_not_hurt_the_others(evidence: Path, keys: Keys) -> None:
    async def both(journal: Journal) -> None:
        journal.append([request(1)])
        given_up = asyncio.ensure_future(journal.durable())
        await asyncio.sleep(0)
        given_up.cancel()
        await journal.durable()

    with opened(evidence, keys) as (journal, _):
        asyncio.run(both(journal))


def test_what_nobody_waits_for_is_synced_too(evidence: Path, keys: Keys) -> None:
    synced = threading.Event()
    with opened(evidence, keys) as (journal, _):
        journal.add_sink(lambda _: synced.set())
        journal.append([request(1)])
        assert synced.wait(20)
        assert synced_to(evidence) == 1


@pytest.mark.parametrize("in_memory", [1 << 15, 3])
def test_sinks_get_every_synced_line_once_and_in_order(
    evidence: Path, keys: Keys, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_MAX_FRESH", in_memory)  # small: the lines are read from the file again
    got: list[SyncedLine] = []

    def sink(batch: list[SyncedLine]) -> None:
        assert batch[-1].iseq <= synced_to(evidence)
        got.extend(batch)

    with opened(evidence, keys) as (journal, _):
        journal.append([opening("s-0")])
        journal.add_sink(sink)
        for n in range(1, 60):
            journal.append([request(2 * n), response(2 * n), request(2 * n + 1)])
            if n % 20 == 0:
                journal.flush()
        journal.flush()
        journal.append(ENTRIES)
    lines = lines_of(evidence)
    assert [line.iseq for line in got] == list(range(2, len(lines) + 1))
    assert [line.line for line in got] == lines[1:]
    for line in got:
        assert line.hash == sha256(b"\0" + line.line).hexdigest()
        assert (line.payload >= 0) == (b'"sd":' in line.line)
        if line.payload >= 0:
            assert payloads.read(evidence, INSTANCE, keys, line.iseq, line.payload).iseq == line.iseq


def test_a_log_that_takes_no_more_lines_stops_the_traffic(evidence: Path, keys: Keys) -> None:
    def sink(_: list[SyncedLine]) -> None:
        raise Unavailable("the log is full")

    with opened(evidence, keys) as (journal, _):
        journal.add_sink(sink)
        journal.append([request(1)])
        with pytest.raises(Unavailable, match="the log is full"):
            journal.flush()
        with pytest.raises(Unavailable, match="no traffic passes"):
            journal.append([request(2)])
        journal.append_closing([closing()])
    assert [line["kind"] for line in check(evidence, keys)] == ["request", "session.close"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_sink_stops_the_traffic_too(evidence: Path, keys: Keys) -> None:
    def sink(_: list[SyncedLine]) -> None:
        raise ZeroDivisionError

    with opened(evidence, keys) as (journal, _):
        journal.add_sink(sink)
        journal.append([request(1)])
        with pytest.raises(Unavailable):
            journal.flush()


@pytest.mark.parametrize("start", [1, 2, 3, 700, 1500, 1501, 2999, 3000, 3001, 3002])
def test_lines_are_replayed_from_any_number(evidence: Path, keys: Keys, start: int) -> None:
    for run in range(2):
        with opened(evidence, keys) as (journal, _):
            for n in range(0, 1500, 3):
                journal.append([request(n), response(run, *range(40)), request(n + 1)])
    with opened(evidence, keys) as (journal, _):
        found = [line for batch in journal.replay_from(start) for line in batch]
        lines = lines_of(evidence)
        assert [(line.iseq, line.line) for line in found] == list(enumerate(lines, 1))[start - 1 :]
        for line in found[:: len(found) // 20 or 1]:
            if line.payload >= 0:
                assert payloads.read(evidence, INSTANCE, keys, line.iseq, line.payload).iseq == line.iseq
            else:
                assert b'"sd":' not in line.line


def test_after_a_failed_sync_nothing_counts_as_synced_and_no_traffic_passes(evidence: Path, keys: Keys) -> None:
    got: list[SyncedLine] = []

    async def fails(journal: Journal) -> None:
        journal.append([request(1)])
        await journal.durable()
        nowhere = os.open("/dev/null", os.O_RDWR)  # takes every write, refuses every sync
        os.dup2(nowhere, journal._files.lines)
        os.close(nowhere)
        journal.append([request(2)])
        with pytest.raises(Unavailable, match="cannot sync"):
            await journal.durable()
        with pytest.raises(Unavailable, match="cannot sync"):
            await journal.durable()
        with pytest.raises(Unavailable, match="cannot sync"):
            journal.append([request(3)])

    with opened(evidence, keys) as (journal, _):
        journal.add_sink(got.extend)
        asyncio.run(fails(journal))
        assert synced_to(evidence) == 1
    assert [line.iseq for line in got] == [1]


CUT_WRITES = """
import asyncio, pathlib, resource, sys
from muniment.model.errors import Unavailable
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from tests.store.journals import closing, opening, request, ticks
home = pathlib.Path(sys.argv[1])
keys = Keys.open(home / "keys")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in map(int, sys.argv[2:]):
    journal, _ = Journal.open(home / str(limit), "i-00000001", keys, now_us=ticks(), reserve_bytes=4096)
    journal.append([opening()])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # a write stops in its middle, as on a full disk
    released = 1
    try:
        while True:
            journal.append([request(released), request(released + 1)])
            released += 2
    except Unavailable as error:
        assert "cannot write" in str(error), error
    for refused in (lambda: journal.append([request(999)]), lambda: asyncio.run(journal.durable())):
        try:
            refused()
            raise SystemExit("something passed after the failure")
        except Unavailable as error:
            assert "no traffic passes" in str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    journal.append_closing([closing()])
    journal.close()
    print(limit, released)
"""


def test_a_write_that_stops_in_its_middle_is_taken_back_and_the_end_can_be_written(tmp_path: Path, keys: Keys) -> None:
    limits = [str(limit) for limit in range(2500, 4200, 53)]
    run = python("-c", CUT_WRITES, tmp_path, *limits)
    assert run.returncode == 0, run.stderr
    for limit, released in map(str.split, run.stdout.splitlines()):
        found = check(tmp_path / limit, keys)
        assert [line["kind"] for line in found[-2:]] == ["request", "session.close"]
        assert len(found) == int(released) + 1
        with opened(tmp_path / limit, keys) as (_, recovered):
            assert recovered.clean, "what was refused is not reported as released"
    assert len(run.stdout.splitlines()) == len(limits)


FULL_DISK = """
import os, pathlib, sys
from muniment.model.entries import InstanceFail
from muniment.model.errors import Unavailable
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from tests.store.journals import check, closing, opening, request, ticks
home = pathlib.Path(sys.argv[1])
keys = Keys.open(home / "keys")
journal, _ = Journal.open(home / "evidence", "i-00000001", keys, now_us=ticks(), reserve_bytes=256 << 10)
journal.append([opening()])
n = 0
try:
    while True:
        journal.append([request(n := n + 1, text="x" * 5000)])
except Unavailable as error:
    assert "No space left" in str(error), error
journal.append_closing([InstanceFail(what=journal.failed), closing()])
journal.close()
kinds = [line["kind"] for line in check(home / "evidence", keys)]
assert kinds[-2:] == ["instance.fail", "session.close"], kinds[-3:]
assert kinds.count("request") == n - 1, (kinds, n)
try:
    Journal.open(home / "evidence", "i-00000001", keys, now_us=ticks(), reserve_bytes=1 << 20)
    sys.exit("it opened without a reserve")
except Unavailable as error:
    assert "no room for the journal" in str(error), error
Journal.open(home / "evidence", "i-00000001", keys, now_us=ticks(), reserve_bytes=4096)[0].close()
print("held")
"""


def test_the_end_is_written_out_of_the_reserve_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path / "disk")]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    program = tmp_path / "program.py"
    program.write_text(FULL_DISK)
    script = f"mount -t tmpfs -o size=1m none {tmp_path}/disk && exec {sys.executable} {program} {tmp_path}/disk"
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert (run.returncode, run.stdout) == (0, "held\n"), run.stderr


def test_a_closed_journal_takes_nothing_more(evidence: Path, keys: Keys) -> None:
    with opened(evidence, keys) as (journal, _):
        journal.append([request(1)])
    with pytest.raises(Unavailable, match="closed"):
        journal.append([request(2)])
    with pytest.raises(Unavailable, match="closed"):
        journal.append_closing([InstanceFail(what="x")])
    journal.close()
    with pytest.raises(Unavailable, match="closed"):
        asyncio.run(journal.durable())
    assert len(check(evidence, keys)) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_sync_thread_leaves_nobody_waiting(evidence: Path, keys: Keys) -> None:
    async def waits(journal: Journal) -> None:
        journal.append([request(1)])
        journal._files.mark = "no file"  # type: ignore[assignment]
        journal.append([request(2)])
        with pytest.raises(Unavailable, match="stopped"):
            await asyncio.wait_for(journal.durable(), 20)
        journal._files.mark = -1

    with opened(evidence, keys) as (journal, _):
        asyncio.run(waits(journal))


def test_appends_from_many_threads_are_one_chain(evidence: Path, keys: Keys) -> None:
    with opened(evidence, keys) as (journal, _):
        threads = [
            threading.Thread(target=lambda: [journal.append([request(n), response(n)]) for n in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(check(evidence, keys)) == 400
