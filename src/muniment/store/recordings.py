"""Recordings: what a session's two sides sent, with times, for replay; sealed as `chunks` says.

One file a session and stream: `<ses>.rec` as shown, `<ses>.orig` before masking. The relay's thread only queues; one
worker thread a process compresses, seals and writes. Every queue is bounded: a relay pauses while its recorder is
`behind`, and a recorder that fails refuses every write. `recorded` reads them back; its names can be had from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path

from muniment.model.errors import Unavailable
from muniment.proof.tree import Tree
from muniment.store import chunks
from muniment.store.chunks import CHUNK_BYTES, ENDED, FRAME, RecordingError, Seal, Unfinished
from muniment.store.keys import Keys, sync_directory
from muniment.store.recorded import Closed, Frame, examine, finish, finish_session, path_of, pwrite, read

__all__ = [
    "Closed",
    "Frame",
    "Recorder",
    "RecordingError",
    "Unfinished",
    "Worker",
    "examine",
    "finish",
    "finish_session",
    "path_of",
    "read",
]

CLIENT_TO_TARGET, TARGET_TO_CLIENT, GATEWAY_TO_CLIENT, META = range(4)

FLUSH_AFTER_S = 0.2  # a frame is in the file this long after it was sent
BEHIND_BYTES = 8 << 20  # not yet written, of one recorder: the relay pauses
FULL_BYTES = 64 << 20  # of one recorder: more than what a paused relay can still send, so something is wrong
ALL_BEHIND_BYTES = 128 << 20  # of all recorders together: every relay pauses
_FRAME_COST = 96  # bytes that Python keeps for a waiting frame beside its data


class Worker:
    """The one thread that compresses, seals and writes for all recorders of a process."""

    def __init__(self) -> None:
        self.taken_in = 0  # bytes; written by the recorders' thread only
        self.put_away = 0  # bytes; written by this thread only
        self._listed: deque[Recorder] = deque()  # with something to do
        self._wake = threading.Event()
        self._hurry = threading.Event()  # somebody has a whole chunk, or wants to close
        self._lock = threading.Lock()
        self._waiting: list[tuple[Recorder, asyncio.Future[None]]] = []
        self._stopping = self.ended = False
        self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)
        self._thread.start()

    def list(self, recorder: Recorder) -> None:
        """Have it drained within `FLUSH_AFTER_S`."""
        self._listed.append(recorder)
        if self.ended:
            self._abandon()
        if not self._wake.is_set():
            self._wake.set()

    def hurry(self) -> None:
        """Do not wait for more."""
        if not self._hurry.is_set():
            self._hurry.set()

    def wait_for(self, recorder: Recorder, future: asyncio.Future[None]) -> None:
        """Resolve the future when the recorder is no longer behind."""
        with self._lock:
            self._waiting.append((recorder, future))
        self.list(recorder)
        self.hurry()

    def stop(self) -> None:
        """Write what is listed and end the thread."""
        self._stopping = True
        self.hurry()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        compress = chunks.compressor()
        try:
            while self._listed or not self._stopping:
                self._wake.wait()
                if not self._stopping:
                    self._hurry.wait(FLUSH_AFTER_S)
                self._wake.clear()
                self._hurry.clear()
                for _ in range(len(self._listed)):
                    recorder = self._listed[0]
                    recorder.drain(compress)
                    self._listed.popleft()
                    self._tell()
                if self._listed or self._stopping:
                    self._wake.set()
        finally:  # also by our own bug: whoever waits for us must hear of it
            self.ended = True
            self._abandon()

    def _abandon(self) -> None:
        while self._listed:
            self._listed.popleft().abandon()
        self._tell()

    def _tell(self) -> None:
        if not self._waiting:
            return
        with self._lock:
            ready = [pair for pair in self._waiting if pair[0].failed or not pair[0].behind]
            self._waiting = [pair for pair in self._waiting if pair not in ready]
        for recorder, future in ready:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                future.get_loop().call_soon_threadsafe(_resolve, future, recorder.failed)


def _resolve(future: asyncio.Future[None], failed: str) -> None:
    if future.done():
        return
    if failed:
        future.set_exception(Unavailable(failed))
    else:
        future.set_result(None)


_shared: list[Worker] = []
_shared_lock = threading.Lock()


def shared_worker() -> Worker:
    """The process's worker; made when first asked for, and anew after `stop`."""
    with _shared_lock:
        if not _shared or _shared[-1].ended:
            _shared[:] = [Worker()]
        return _shared[0]


class Recorder:
    """Records one stream of one session. `write` is called from one thread, the event loop's, and never blocks.

    failed: empty, or why nothing more is recorded. A failed recorder refuses every write: the session must end.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_end",
        "_file",
        "_frames",
        "_index",
        "_is_listed",
        "_path",
        "_put_away",
        "_seal",
        "_stored",
        "_taken_in",
        "_tree",
        "_worker",
        "failed",
    )

    def __init__(self, path: Path, keys: Keys, *, ses: str, worker: Worker | None = None) -> None:
        """Make the file, which must not exist, with a fresh data key. Raises Unavailable."""
        seal = Seal.new(path, ses, keys)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot make the recording {path} ({error.strerror})", "mend the directory") from error
        try:
            pwrite(self._file, seal.head, 0)
        except OSError as error:
            os.close(self._file)
            path.unlink()
            raise Unavailable(f"cannot write the recording {path} ({error.strerror})", "free space there") from error
        self.failed = ""
        self._path = path
        self._seal = seal
        self._stored = sha256(seal.head)
        self._end = len(seal.head)
        self._index = 0
        self._tree = Tree()
        self._frames: deque[tuple[int, int, bytes | memoryview]] = deque()
        self._taken_in = self._put_away = 0
        self._is_listed = False
        self._closed: Future[Closed] | None = None
        self._worker = worker or shared_worker()

    def write(self, t_us: int, channel: int, data: bytes) -> bool:
        """Record what was sent. Returns `behind`. Raises Unavailable when recording has failed or is far behind.

        Cost: under 0.5 us here, and about 3 CPU seconds a GB in the worker. data must not change afterwards.
        """
        if self.failed or self._closed:
            raise Unavailable(self.failed or "the recording is closed", "end the session: it can no longer be recorded")
        cost = len(data) + _FRAME_COST
        self._frames.append((t_us, channel, data))
        self._taken_in = taken_in = self._taken_in + cost
        worker = self._worker
        worker.taken_in = all_in = worker.taken_in + cost
        if not self._is_listed:
            self._is_listed = True
            worker.list(self)
        waiting = taken_in - self._put_away
        if waiting > CHUNK_BYTES:
            worker.hurry()
            if waiting > FULL_BYTES:
                self.failed = f"the recording {self._path.name} is {waiting >> 20} MB behind: its disk is too slow"
                raise Unavailable(self.failed, "end the session")
        return waiting > BEHIND_BYTES or all_in - worker.put_away > ALL_BEHIND_BYTES

    @property
    def behind(self) -> bool:
        """Whether to stop reading from both sides until `caught_up`."""
        worker = self._worker
        return self._taken_in - self._put_away > BEHIND_BYTES or worker.taken_in - worker.put_away > ALL_BEHIND_BYTES

    async def caught_up(self) -> None:
        """Return when not `behind`. Raises Unavailable when recording has failed."""
        if self.failed:
            raise Unavailable(self.failed, "end the session")
        if self.behind:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._worker.wait_for(self, future)
            await future

    async def end(self) -> Closed:
        """Write what waits and the end, sync, and say what is in the file. May be called again."""
        return await asyncio.shield(asyncio.wrap_future(self._begin_end()))

    def close(self) -> Closed:
        """The same, blocking: a few milliseconds."""
        return self._begin_end().result()

    def _begin_end(self) -> Future[Closed]:
        if self._closed is None:
            self._closed = Future()
            self._worker.list(self)
            self._worker.hurry()
        return self._closed

    def drain(self, compress: Callable[[bytes], bytes]) -> None:
        """Write what waits, and the end if it is wanted. Called by the worker's thread only."""
        self._is_listed = False  # first, so that a frame that comes while we work lists us again
        closing = self._closed
        try:
            while self._frames and not self.failed:
                self._write_chunk(compress)
            if closing and not closing.done() and not self.failed:
                self._put(self._seal.end(self._index, ENDED))
        except OSError as error:
            self.failed = f"cannot write the recording {self._path.name} ({error.strerror})"
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
        if self.failed:
            self._frames.clear()
            self._count(self._taken_in - self._put_away)
        if closing and not closing.done():
            self._finish(closing)

    def abandon(self) -> None:
        """There is no worker any more."""
        self.failed = self.failed or "recording has ended"
        self._frames.clear()
        if self._closed and not self._closed.done():
            self._closed.set_exception(Unavailable(self.failed))

    def _write_chunk(self, compress: Callable[[bytes], bytes]) -> None:
        parts: list[bytes | memoryview] = [chunks.salt()]
        room = CHUNK_BYTES
        cost = 0
        while room > 0 and self._frames:
            t_us, channel, data = self._frames.popleft()
            if len(data) > room:
                data = memoryview(data)
                self._frames.appendleft((t_us, channel, data[room:]))
                data = data[:room]
                cost -= _FRAME_COST  # counted with its last part
            parts.append(FRAME.pack(t_us, channel, len(data)))
            parts.append(data)
            room -= len(data) + FRAME.size
            cost += len(data) + _FRAME_COST
        plain = b"".join(parts)
        self._put(self._seal.data(self._index, plain, compress))
        self._tree.append(chunks.leaf(plain))
        self._index += 1
        self._count(cost)

    def _put(self, stored: bytes) -> None:
        pwrite(self._file, stored, self._end)
        self._stored.update(stored)
        self._end += len(stored)

    def _count(self, cost: int) -> None:
        self._put_away += cost
        self._worker.put_away += cost

    def _finish(self, closing: Future[Closed]) -> None:
        try:
            os.fdatasync(self._file)
            sync_directory(self._path.parent)
        except OSError as error:
            self.failed = self.failed or f"cannot sync the recording {self._path.name} ({error.strerror})"
        os.close(self._file)
        closing.set_result(Closed(self._index, self._stored.hexdigest(), self._tree.root().hex(), self.failed))
