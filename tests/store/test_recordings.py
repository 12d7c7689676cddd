from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.journals import ENVIRONMENT

from muniment.model.errors import Unavailable
from muniment.proof.tree import EMPTY_ROOT, leaf_hash, root
from muniment.store import chunks, recordings
from muniment.store.keys import Keys
from muniment.store.recordings import Closed, Frame, Recorder, RecordingError, Unfinished, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.stop()


def record(path: Path, keys: Keys, frames: list[Frame], worker: Worker | None = None) -> Closed:
    recorder = Recorder(path, keys, ses=path.stem, worker=worker)
    for frame in frames:
        recorder.write(*frame)
    return recorder.close()


def merged(frames: list[Frame]) -> list[tuple[int, int, bytes]]:
    """Neighbours of one time and channel as one: where a large frame is cut into chunks is not part of its meaning."""
    out: list[tuple[int, int, bytes]] = []
    for t_us, channel, data in frames:
        if out and out[-1][:2] == (t_us, channel):
            out[-1] = (t_us, channel, out[-1][2] + data)
        else:
            out.append((t_us, channel, data))
    return out


def readable(path: Path, keys: Keys) -> tuple[list[Frame], RecordingError | None]:
    """What can be read, and how it stopped."""
    found = []
    try:
        for frame in recordings.read(path, keys):
            found.append(frame)
    except RecordingError as error:
        return found, error
    return found, None


SOME = [Frame(1_000_000 + n, n % 3, b"row %d " % n * 40) for n in range(60)]


def in_chunks(path: Path, keys: Keys, worker: Worker, count: int = 3) -> tuple[Closed, list[list[Frame]]]:
    """A recording of `count` small chunks, each written on its own."""
    recorder = Recorder(path, keys, ses=path.stem, worker=worker)
    parts = [SOME[n * 3 : n * 3 + 3] for n in range(count)]
    for part in parts:
        for frame in part:
            recorder.write(*frame)
        worker.hurry()
        wait_until(lambda: not recorder._frames and recorder._put_away == recorder._taken_in)
    return recorder.close(), parts


def wait_until(true: object) -> None:
    ticker = threading.Event()
    for _ in range(10_000):
        if true():  # type: ignore[operator]
            return
        ticker.wait(0.001)
    raise AssertionError("it never came true")


frames = st.lists(
    st.builds(
        Frame,
        st.integers(0, (1 << 64) - 1),
        st.integers(0, 3),
        st.one_of(st.binary(max_size=50), st.just(b"x" * 300_000)),
    ),
    max_size=8,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=frames)
def test_what_was_sent_is_what_is_read(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("rec")
    keys = Keys.open(home / "keys")
    path = home / "s-1.rec"
    closed = record(path, keys, frames)
    assert merged(list(recordings.read(path, keys))) == merged(frames)
    assert recordings.examine(path, keys) == closed
    assert closed.stored_sha256 == sha256(path.read_bytes()).hexdigest()
    assert closed.failed == ""


def test_the_root_is_over_the_digests_of_the_plain_chunks(tmp_path: Path, keys: Keys, worker: Worker) -> None:
    path = tmp_path / "s-1.rec"
    closed, parts = in_chunks(path, keys, worker)
    plain = [chunk.plain for chunk in chunks.chunks(path, keys) if chunk.plain]
    assert closed.frames == len(plain) == len(parts)
    assert closed.shown_root == root(leaf_hash(sha256(one).digest()) for one in plain).hex()


def test_two_recordings_of_the_same_bytes_share_no_digest(tmp_path: Path, keys: Keys) -> None:
    one, other = record(tmp_path / "s-1.rec", keys, SOME), record(tmp_path / "s-2.rec", keys, SOME)
    assert one.shown_root != other.shown_root
    assert one.stored_sha256 != other.stored_sha256


def test_nothing_readable_is_in_the_file_and_only_we_can_open_it(tmp_path: Path, keys: Keys) -> None:
    path = recordings.path_of(tmp_path, "s-1", original=True)
    record(path, keys, [Frame(1, 1, b"canary-4711" * 3)])
    assert b"canary" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_an_empty_recording_has_an_end_and_the_empty_root(tmp_path: Path, keys: Keys) -> None:
    closed = record(tmp_path / "s-1.rec", keys, [])
    assert (closed.frames, closed.shown_root) == (0, EMPTY_ROOT.hex())
    assert list(recordings.read(tmp_path / "s-1.rec", keys)) == []


def test_a_frame_is_in_the_file_soon_while_the_session_goes_on(tmp_path: Path, keys: Keys, worker: Worker) -> None:
    recorder = Recorder(tmp_path / "s-1.rec", keys, ses="s-1", worker=worker)
    recorder.write(*SOME[0])
    wait_until(lambda: readable(tmp_path / "s-1.rec", keys)[0] == [SOME[0]])
    assert isinstance(readable(tmp_path / "s-1.rec", keys)[1], Unfinished)
    recorder.write(*SOME[1])
    recorder.close()
    assert readable(tmp_path / "s-1.rec", keys) == ([SOME[0], SOME[1]], None)


def test_a_recording_cut_at_any_byte_reads_up_to_its_last_whole_chunk_and_says_so(
    tmp_path: Path, keys: Keys, worker: Worker
) -> None:
    path = tmp_path / "s-1.rec"
    _, parts = in_chunks(path, keys, worker)
    data = path.read_bytes()
    ends = [chunk.end for chunk in chunks.chunks(path, keys)]
    for size in range(len(data)):
        path.write_bytes(data[:size])
        found, error = readable(path, keys)
        whole = max(sum(end <= size for end in ends[:-1]) - 1, 0)
        assert found == [frame for part in parts[:whole] for frame in part]
        assert isinstance(error, Unfinished)
        assert error.chunk == whole


def test_a_changed_byte_anywhere_is_seen_and_what_is_before_it_is_still_read(
    tmp_path: Path, keys: Keys, worker: Worker
) -> None:
    path = tmp_path / "s-1.rec"
    _, parts = in_chunks(path, keys, worker)
    data = path.read_bytes()
    everything = [frame for part in parts for frame in part]
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :])
        found: list[Frame] = []
        with pytest.raises(Unavailable):
            for frame in recordings.read(path, keys):
                found.append(frame)
        assert found == everything[: len(found)]


def test_a_chunk_left_out_moved_or_added_is_seen(tmp_path: Path, keys: Keys, worker: Worker) -> None:
    path = tmp_path / "s-1.rec"
    in_chunks(path, keys, worker)
    data = path.read_bytes()
    ends = [chunk.end for chunk in chunks.chunks(path, keys)]
    parts = [data[: ends[0]], *(data[start:end] for start, end in itertools.pairwise(ends))]
    head, one, two, three, end = parts
    for wrong in ([head, two, three, end], [head, one, two, end], [head, two, one, three, end], [*parts, end],
                  [*parts, three], [head, one, one, three, end]):  # fmt: skip
        path.write_bytes(b"".join(wrong))
        assert readable(path, keys)[1] is not None


def test_recordings_swapped_between_sessions_or_streams_are_named(tmp_path: Path, keys: Keys) -> None:
    record(tmp_path / "s-1.rec", keys, SOME)
    record(tmp_path / "s-2.rec", keys, SOME)
    (tmp_path / "s-1.rec").rename(tmp_path / "s-2.rec")
    assert "stream of s-1, not of s-2: it was swapped" in str(readable(tmp_path / "s-2.rec", keys)[1])
    assert list(recordings.read(tmp_path / "s-2.rec", keys, ses="s-1")) == SOME
    (tmp_path / "s-2.rec").rename(tmp_path / "s-1.orig")
    assert "it was swapped" in str(readable(tmp_path / "s-1.orig", keys)[1])
    data = (tmp_path / "s-1.orig").read_bytes()
    (tmp_path / "s-2.rec").write_bytes(data.replace(b'"s-1"', b'"s-2"'))
    with pytest.raises(Unavailable, match="another file"):
        list(recordings.read(tmp_path / "s-2.rec", keys))


def test_a_wrong_key_a_missing_file_and_another_kind_of_file_have_clear_errors(tmp_path: Path, keys: Keys) -> None:
    record(tmp_path / "s-1.rec", keys, SOME)
    with pytest.raises(Unavailable, match=f"sealed with key {keys.kek_id.hex()}"):
        list(recordings.read(tmp_path / "s-1.rec", Keys.open(tmp_path / "other")))
    with pytest.raises(Unavailable, match="cannot read the recording"):
        list(recordings.read(tmp_path / "s-9.rec", keys))
    (tmp_path / "s-2.rec").write_bytes(b"PK\x03\x04" * 99)
    with pytest.raises(RecordingError, match="not a recording"):
        list(recordings.read(tmp_path / "s-2.rec", keys))


def test_a_recording_is_never_written_over(tmp_path: Path, keys: Keys) -> None:
    record(tmp_path / "s-1.rec", keys, SOME)
    with pytest.raises(Unavailable, match="File exists"):
        Recorder(tmp_path / "s-1.rec", keys, ses="s-1")
    assert list(recordings.read(tmp_path / "s-1.rec", keys)) == SOME


def test_finishing_ends_what_a_killed_gateway_left_at_any_byte(tmp_path: Path, keys: Keys, worker: Worker) -> None:
    path = tmp_path / "s-1.rec"
    _, parts = in_chunks(path, keys, worker)
    data = path.read_bytes()
    ends = [chunk.end for chunk in chunks.chunks(path, keys)]
    for size in range(ends[0], len(data), 3):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends[:-1]) - 1
        closed = recordings.finish(path, keys)
        assert closed == recordings.finish(path, keys) == recordings.examine(path, keys)
        assert (closed.frames, closed.failed) == (whole, "")
        assert closed.stored_sha256 == sha256(path.read_bytes()).hexdigest()
        assert readable(path, keys) == ([frame for part in parts[:whole] for frame in part], None)


def test_finishing_changes_nothing_where_it_is_not_certain(tmp_path: Path, keys: Keys, worker: Worker) -> None:
    path = tmp_path / "s-1.rec"
    closed, _ = in_chunks(path, keys, worker)
    data = path.read_bytes()
    assert recordings.finish(path, keys) == closed
    ends = [chunk.end for chunk in chunks.chunks(path, keys)]
    hurt = data[: ends[1] + 20] + b"\0" + data[ends[1] + 21 : -5]
    for left, frames_left, why in (
        (hurt, 1, "changed"),
        (data[: ends[0] - 1], 0, "cut inside its head"),
        (b"", 0, "cut"),
    ):
        path.write_bytes(left)
        found = recordings.finish(path, keys)
        assert (found.frames, found.stored_sha256) == (frames_left, sha256(left).hexdigest())
        assert why in found.failed
        assert path.read_bytes() == left


def test_the_ends_of_a_closed_and_of_a_recovered_recording_never_share_a_nonce() -> None:
    nonces = {chunks._nonce(index, how) for index in range(50) for how in (chunks.DATA, chunks.ENDED, chunks.RECOVERED)}
    assert len(nonces) == 150


def test_finishing_a_session_tells_both_streams(tmp_path: Path, keys: Keys) -> None:
    record(recordings.path_of(tmp_path, "s-1"), keys, SOME)
    shown, original = recordings.finish_session(tmp_path, "s-1", keys)
    assert shown == recordings.examine(recordings.path_of(tmp_path, "s-1"), keys)
    assert original is None


def test_a_recorder_that_is_behind_says_so_and_when_it_has_caught_up(
    tmp_path: Path, keys: Keys, worker: Worker
) -> None:
    async def scenario() -> None:
        recorder = Recorder(tmp_path / "s-1.rec", keys, ses="s-1", worker=worker)
        await recorder.caught_up()
        piece = os.urandom(256 << 10)
        while not recorder.behind:
            recorder.write(1, 1, piece)
        await recorder.caught_up()
        assert not recorder.behind
        await recorder.end()

    asyncio.run(scenario())


def test_a_recorder_that_is_far_behind_fails_and_its_memory_is_bounded(
    tmp_path: Path, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "FULL_BYTES", 1 << 20)
    recorder = Recorder(tmp_path / "s-1.rec", keys, ses="s-1", worker=worker)
    hold = threading.Event()
    blocker = Recorder(tmp_path / "s-2.rec", keys, ses="s-2", worker=worker)

    def hanging_disk(*arguments: object) -> int:
        hold.wait(30)
        return len(arguments[1])  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", hanging_disk)
    blocker.write(1, 1, b"x")
    worker.hurry()
    with pytest.raises(Unavailable, match="behind"):
        for _ in range(100):
            recorder.write(1, 1, bytes(64 << 10))
    with pytest.raises(Unavailable, match="behind"):
        recorder.write(1, 1, b"x")
    with pytest.raises(Unavailable, match="behind"):
        asyncio.run(recorder.caught_up())
    monkeypatch.undo()
    hold.set()
    assert "behind" in recorder.close().failed
    assert not recorder._frames
    blocker.close()


FULL_DISK = """
import asyncio, hashlib, pathlib, resource, sys
from muniment.model.errors import Unavailable
from muniment.store import recordings
from muniment.store.keys import Keys
home, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
keys = Keys.open(home / "keys")
recorder = recordings.Recorder(home / "s-1.rec", keys, ses="s-1")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
async def main():
    import os, time
    try:
        while True:
            recorder.write(1, 1, os.urandom(1000))
            await asyncio.sleep(0)
    except Unavailable as error:
        assert "cannot write the recording" in str(error), error
    closed = await recorder.end()
    assert closed == recorder.close()
    assert "cannot write the recording" in closed.failed
    assert closed.stored_sha256 == hashlib.sha256((home / "s-1.rec").read_bytes()).hexdigest()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    again = recordings.finish(home / "s-1.rec", keys)
    assert (again.frames, again.shown_root) == (closed.frames, closed.shown_root)
    print("held", closed.frames)
asyncio.run(main())
"""


def test_a_recording_that_cannot_be_written_refuses_more_and_keeps_what_is_whole(tmp_path: Path, keys: Keys) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), "400000"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("held ")


KILLED = """
import pathlib, sys, time
from muniment.store import recordings
from muniment.store.keys import Keys
home = pathlib.Path(sys.argv[1])
recorder = recordings.Recorder(home / "s-1.rec", Keys.open(home / "keys"), ses="s-1")
for n in range(10_000_000):
    recorder.write(n, 1, b"%d " % n * 50)
    if n % 50 == 0:
        time.sleep(0.001)
    if n == 500:
        print("going", flush=True)
"""


def test_after_kill_9_a_recording_reads_and_ends_at_its_last_whole_chunk(tmp_path: Path, keys: Keys) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert child.stdout is not None
    child.stdout.readline()
    path = tmp_path / "s-1.rec"
    wait_until(lambda: path.stat().st_size > 2000)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    before, error = readable(path, keys)
    assert isinstance(error, Unfinished)
    closed = recordings.finish(path, keys)
    assert readable(path, keys) == (before, None)
    assert closed.frames > 0
    assert [frame.t_us for frame in before] == list(range(len(before)))


def test_writing_behind_the_end_or_without_a_worker_is_refused(tmp_path: Path, keys: Keys) -> None:
    worker = Worker()
    recorder = Recorder(tmp_path / "s-1.rec", keys, ses="s-1", worker=worker)
    late = Recorder(tmp_path / "s-2.rec", keys, ses="s-2", worker=worker)
    recorder.write(*SOME[0])
    assert recorder.close() == recorder.close()
    with pytest.raises(Unavailable, match="closed"):
        recorder.write(*SOME[1])
    late.write(*SOME[0])
    worker.stop()
    assert readable(tmp_path / "s-2.rec", keys)[0] == [SOME[0]], "what was listed is still written"
    with pytest.raises(Unavailable, match="ended"):
        for _ in range(2):
            late.write(*SOME[1])
    with pytest.raises(Unavailable, match="ended"):
        late.close()


def test_many_sessions_share_one_worker(tmp_path: Path, keys: Keys, worker: Worker) -> None:
    recorders = [Recorder(tmp_path / f"s-{n}.rec", keys, ses=f"s-{n}", worker=worker) for n in range(20)]
    for frame in SOME:
        for recorder in recorders:
            recorder.write(*frame)
    for n, recorder in enumerate(recorders):
        recorder.close()
        assert list(recordings.read(tmp_path / f"s-{n}.rec", keys)) == SOME
