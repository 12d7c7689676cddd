"""The instance journal: every entry is in the operating system's hands before what it tells of is released.

`append` writes the sealed payloads, then the leaf lines; when it returns, both survive `kill -9`. One thread syncs: at
once and again as soon as the last sync ended while somebody waits in `durable` (group commit, no window), else within
25 ms. Another thread hands synced lines to the sinks (the Merkle log, the index). When a write or a sync fails the
journal stays failed, no traffic passes, and a reserve made at the start is given up so that the ends can be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from muniment.model.entries import Entry, Request
from muniment.model.errors import Unavailable
from muniment.store import recovery, replay
from muniment.store.files import Files
from muniment.store.keys import Keys
from muniment.store.lines import Again, Encoder
from muniment.store.payloads import Sealer
from muniment.store.recovery import Position, Recovery, Unfinished
from muniment.store.replay import SyncedLine

SYNC_WITHIN_S = 0.04  # of a write for which nobody waits; `process` durability promises 0.05, with the sync itself
FOLD_EVERY_S = 0.05  # sinks get what was synced in this time together
FOLD_BUSY_S = 0.5  # the same behind a batch of MANY lines: large ones cost a third of small ones
MANY = 100  # lines
SNAPSHOT_EVERY_BYTES = 8 << 20  # of lines: what the next start has to read, about 0.2 s
RESERVE_BYTES = 16 << 20  # ends of about 20,000 sessions
_MAX_FRESH = 1 << 15  # lines kept in memory for the sinks; beyond that they are read from the file again

Sink = Callable[[list[SyncedLine]], None]
_Future = asyncio.Future[None]


class Journal:
    """The journal of one instance in one process. Thread-safe. See `open`."""

    def __init__(self, files: Files, at: Position, unfinished: Unfinished, keys: Keys, now_us: Callable[[], int]):
        """Use `open`."""
        self.failed = ""
        self._files = files
        self._now_us = now_us
        self._encoder = Encoder(files.instance)
        self._sealer = Sealer(keys, files.instance, at.payloads, at.iseq + 1)
        self._iseq, self._hash, self._t = at.iseq, at.hash, at.t_us
        self._lines_end, self._payloads_end = at.lines, at.payloads
        self._unfinished = unfinished
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # something to sync, or to end
        self._foldable = threading.Event()  # something synced, or to end
        self._hurry = threading.Event()  # to end, or for somebody who waits: do not gather
        self._idle = False  # the sync thread sleeps until it is told
        self._closing = self._broken = self._sync_ended = False
        self._waiters: list[_Future] = []
        self._served: list[_Future] = []  # by the sync that runs
        self._fresh: list[SyncedLine] = []  # appended after `_spilled` and not yet offered
        self._spilled = 0  # up to this line the sinks are fed from the file
        self._sinks: list[Sink] = []
        self._synced = self._offered = self._snapshot = at
        self._threads: list[threading.Thread] = []

    @classmethod
    def open(
        cls,
        evidence: Path,
        instance: str,
        keys: Keys,
        *,
        now_us: Callable[[], int],
        reserve_bytes: int = RESERVE_BYTES,
        folded: int = 0,
    ) -> tuple[Journal, Recovery]:
        """Open or begin the journal of `instance` under `evidence`, and say what the last run left behind.

        folded: the last line that the log holds; a journal that ends before it is damaged, whatever else it says.
        Next: `replay_from` what the log has not folded, `add_sink`, then append `recovery.settle(...)` and the start.
        Raises Unavailable if another process has it, if it is damaged where it was synced, if its payloads were sealed
        under another key, or if there is no room for the reserve.
        """
        files = Files.open(evidence, instance)
        try:
            mark = recovery.read_mark(files.mark)
            start, unfinished = recovery.load_snapshot(files.snapshot_path, files.lines, mark)
            scan = recovery.scan_lines(files.lines_path, start, unfinished, instance, mark, folded)
            ends = recovery.scan_payloads(files.payloads, scan, instance, keys, mark)
            torn = files.cut(scan.at.iseq, scan.at.lines, ends)
            at = Position(scan.at.iseq, scan.at.hash, scan.at.t_us, scan.at.lines, ends)
            files.reserve(reserve_bytes)
            journal = cls(files, at, unfinished, keys, now_us)
            journal._begin()
        except OSError as error:
            files.close()
            raise Unavailable(f"journal of {instance}: {error.strerror}", f"look after {evidence}") from error
        except BaseException:
            files.close()
            raise
        return journal, recovery.summary(scan, torn)

    def append(self, entries: Sequence[Entry]) -> list[str]:
        """Write entries, all or none. Returns their leaf hashes (hex); what they tell of may then be released, under
        `process` durability.

        Cost: about 12 us for a request, 9 for each more in the same call. Raises Unavailable if the journal has failed
        or fails now, and CanonicalError, with nothing written, if an entry does not fit in a line.
        """
        with self._lock:
            if self.failed:
                raise self._refusal()
            return self._append(entries)

    def again(self, request: Request) -> Again | None:
        """What `append_again` takes; None where each such request has to be appended in full."""
        with self._lock:
            return self._encoder.again(request) if self._hash else None

    def append_again(self, again: Again, n: int, statement: bytes, parameters: bytes) -> None:
        """`append` of one request that differs from an earlier one in these alone. statement: not empty.

        Cost: about 8 us. Raises Unavailable.
        """
        with self._lock:
            if self.failed or self._closing:
                raise self._refusal()
            iseq = self._iseq + 1
            now_us = self._now_us()
            t_us = now_us if now_us > self._t else self._t
            line, record = self._encoder.encode_again(again, n, statement, parameters, iseq, self._hash, t_us)
            last_hash = sha256(b"\0" + line).hexdigest()
            offset = self._payloads_end
            self._write(line + b"\n", self._sealer.seal(iseq, iseq, record))
            self._iseq, self._hash, self._t = iseq, last_hash, t_us
            self._unfinished.asked(again.ses, n, again.decision)
            self._hand_on([SyncedLine(iseq, line, last_hash, offset)])

    def append_closing(self, entries: Sequence[Entry]) -> list[str]:
        """The same, also after a failure: for the ends of sessions and the failure itself, out of the reserve."""
        with self._lock:
            hashes = self._append(entries)
            if self._broken:  # the sync thread is gone; what it left unsynced stays unsynced
                with contextlib.suppress(OSError):
                    self._files.sync()
            return hashes

    async def durable(self) -> None:
        """Return when everything appended so far is on the disk. Raises Unavailable when the journal fails."""
        if self._synced.iseq >= self._iseq and not self.failed:
            return
        future: _Future = asyncio.get_running_loop().create_future()
        with self._lock:
            if self.failed or self._closing:
                raise self._refusal()
            self._waiters.append(future)
            self._changed.notify()
        await future

    def add_sink(self, sink: Sink) -> None:
        """Hand every synced line from here on to `sink`, in order, from one background thread, in batches.

        A sink that raises fails the journal: evidence that is not folded is not evidence.
        """
        with self._lock:
            if not self._sinks:
                self._offered = self._position()
            self._sinks.append(sink)

    def replay_from(self, iseq: int) -> Iterator[list[SyncedLine]]:
        """Every synced line from `iseq` on, in batches; for what the log had not folded when the last run ended."""
        return replay.lines_from(self._files, iseq, self._synced)

    @property
    def last_iseq(self) -> int:
        """The number of the last line; 0 where there is none."""
        return self._iseq

    def flush(self, timeout_s: float = 30.0) -> None:
        """Block until everything appended so far is synced and the sinks have it. Raises Unavailable otherwise."""
        wanted = self._iseq
        deadline = time.monotonic() + timeout_s
        self._hurry.set()
        while self._synced.iseq < wanted or (self._sinks and self._offered.iseq < wanted):
            if self.failed or time.monotonic() > deadline:
                raise self._refusal() if self.failed else Unavailable("the log is behind the journal", "try again")
            time.sleep(0.002)

    def close(self) -> None:
        """Sync, hand the rest to the sinks, and let go of the files. Raises nothing; a failure stays in `failed`."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
            self._hurry.set()
        for thread in self._threads:
            thread.join()
        if not self.failed:
            with contextlib.suppress(OSError):
                recovery.save_snapshot(self._files.snapshot_path, self._synced, self._unfinished)
        self.failed = self.failed or "it is closed"
        self._files.close()

    # The rest is called with the lock held, or by one of the two threads.

    def _begin(self) -> None:
        self._files.write_payloads(self._sealer.header, self._payloads_end)
        self._payloads_end += len(self._sealer.header)
        self._files.sync()
        self._synced = self._offered = self._position()
        recovery.write_mark(self._files.mark, self._synced)
        self._files.sync_names()
        for name, work in (("journal-sync", self._sync_loop), ("journal-fold", self._fold_loop)):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def _position(self) -> Position:
        return Position(self._iseq, self._hash, self._t, self._lines_end, self._payloads_end)

    def _refusal(self) -> Unavailable:
        why = self.failed or "it is being closed"
        return Unavailable(f"the journal takes nothing: {why}", "no traffic passes; mend it and start again")

    def _append(self, entries: Sequence[Entry]) -> list[str]:
        if self._closing:
            raise self._refusal()
        iseq, last_hash = self._iseq, self._hash
        t_us = max(self._now_us(), self._t)
        offset = self._payloads_end
        fresh = []
        records = []
        numbers = []
        for entry in entries:
            iseq += 1
            line, record = self._encoder.encode(entry, iseq, last_hash, t_us)
            last_hash = sha256(b"\0" + line).hexdigest()
            if record:
                records.append(record)
                numbers.append(iseq)
            fresh.append(SyncedLine(iseq, line, last_hash, offset if record else -1))
        if not fresh:
            return []
        block = self._sealer.seal(numbers[0], numbers[-1], b"".join(records)) if records else b""
        body = b"".join([line.line + b"\n" for line in fresh])
        self._write(body, block)
        self._iseq, self._hash, self._t = iseq, last_hash, t_us
        for entry in entries:
            self._unfinished.note(entry)
        self._hand_on(fresh)
        return [line.hash for line in fresh]

    def _write(self, body: bytes, block: bytes) -> None:
        """Both files, or neither and no more."""
        offset = self._payloads_end
        try:
            if block:
                self._files.write_payloads(block, offset)
            self._files.write_lines(body, self._lines_end)
        except OSError as error:
            self._files.take_back(self._lines_end, offset)
            self._fail(f"cannot write ({error.strerror})")
            raise self._refusal() from error
        self._lines_end += len(body)
        self._payloads_end = offset + len(block)

    def _hand_on(self, fresh: list[SyncedLine]) -> None:
        """To the sinks, once they are synced; and have them synced."""
        if self._sinks:
            self._fresh += fresh
            if len(self._fresh) > _MAX_FRESH:
                self._fresh.clear()
                self._spilled = fresh[-1].iseq
        if self._idle:
            self._idle = False
            self._changed.notify()

    def _fail(self, why: str) -> None:
        if not self.failed:
            self.failed = why
            self._files.release_reserve()

    def _sync_loop(self) -> None:
        """Sync until closing. However it ends, whoever waits is told."""
        why = "the thread that syncs stopped"  # by our own bug: its traceback tells which
        try:
            while not self._sync_once():
                pass
            why = ""
        except OSError as error:
            # After a failed sync the kernel may have dropped the pages and say yes the next time: never try again.
            why = f"cannot sync ({error.strerror})"
        finally:
            with self._lock:
                self._broken = bool(why)
                if why:
                    self._fail(why)
                waiters, self._waiters = self._served + self._waiters, []
            _wake(waiters, self._refusal() if why else None)
            self._sync_ended = True
            self._foldable.set()

    def _sync_once(self) -> bool:
        """Sync as soon as somebody waits, else `SYNC_WITHIN_S` after the first write. Returns whether it was the last
        time."""
        with self._lock:
            last = self._await_work()
            self._served, self._waiters = self._waiters, []
            target = self._position()
            snapshot = None
            if target.lines - self._snapshot.lines >= SNAPSHOT_EVERY_BYTES:
                snapshot = self._unfinished.copy()
        if target.iseq > self._synced.iseq:
            self._files.sync()
            recovery.write_mark(self._files.mark, target)
        self._synced = target
        _wake(self._served, None)
        self._served = []
        self._foldable.set()
        if snapshot:
            with contextlib.suppress(OSError):  # it only saves the next start some time
                recovery.save_snapshot(self._files.snapshot_path, target, snapshot)
            self._snapshot = target
        return last

    def _await_work(self) -> bool:
        """Wait, with the lock, until there is something to sync now. Returns whether it is the last time."""
        since = time.monotonic()
        while not self._waiters and not self._closing:
            if self._iseq == self._synced.iseq:
                self._idle = True
                self._changed.wait()
                self._idle = False
                since = time.monotonic()
            elif (left := since + SYNC_WITHIN_S - time.monotonic()) > 0:
                self._changed.wait(left)
            else:
                break
        return self._closing

    def _fold_loop(self) -> None:
        """Hand synced lines to the sinks until the sync thread has ended and everything is handed on."""
        ended = False
        try:
            while not ended:
                self._foldable.wait()
                self._foldable.clear()
                ended = self._sync_ended
                before = self._offered.iseq
                while batch := self._take():
                    for sink in self._sinks:
                        sink(batch)
                    self._offered = replay.after(self._offered, batch)
                many = self._offered.iseq - before > MANY
                if self._hurry.wait(FOLD_BUSY_S if many else FOLD_EVERY_S) and not self._closing:
                    self._hurry.clear()
        except (OSError, Unavailable) as error:
            with self._lock:
                self._fail(f"the log does not take its lines ({error})")
        finally:
            if not ended:  # also by our own bug: the thread's traceback tells which
                with self._lock:
                    self._fail("the log does not take its lines")

    def _take(self) -> list[SyncedLine]:
        """The next lines for the sinks; empty when they have everything that is synced."""
        with self._lock:
            synced, spilled = self._synced, self._spilled
            count = synced.iseq - self._offered.iseq
            if not self._sinks or not count:
                return []
            if self._offered.iseq >= spilled:
                batch = self._fresh[:count]
                del self._fresh[:count]
                return batch
        return next(replay.lines_between(self._files, self._offered, synced, min(synced.iseq, spilled)))


def _wake(waiters: list[_Future], error: Unavailable | None) -> None:
    """Resolve futures on their own loops, with one call a loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Future]] = {}
    for waiter in waiters:
        loops.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed, and nobody waits on it any more
            loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[_Future], error: Unavailable | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error:
            future.set_exception(error)
        else:
            future.set_result(None)
