"""The deployment log: journal lines as leaves of one RFC 6962 tree, and checkpoints over it.

    log/records.jsonl      one line a leaf, byte for byte as in the journal
    log/tile/...           C2SP tlog-tiles: hashes and entry bundles, as of each checkpoint
    log/checkpoint         the newest signed tree head; log/checkpoints.jsonl: all of them
    log/key.pub            the public key's line; log/log.json: deployment and origin

Order that keeps a crash harmless: records and tiles are on the disk before the signer remembers their root, and the
signer has remembered a root before its signature exists. What lies behind the last checkpoint may be lost in a power
cut and is offered again by the journal.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from muniment.model.errors import ConfigError, Problem, Unavailable
from muniment.proof import canonical, note, tree
from muniment.store.keys import Keys, sync_directory
from muniment.store.replay import SyncedLine
from muniment.store.signer import Signed, Signer, replace
from muniment.store.tiled import TiledTree

EVERY_US = 5_000_000  # a checkpoint under traffic (EVIDENCE, section 3)
FLUSH_TILES = 512  # full tiles kept in memory while an old log is read again
_MODE = 0o640
# Canonical lines have sorted keys and escape quotes within text, so this can only match the line's own three fields.
_PLACE = re.compile(rb'[{,]"inst":"([!-~]{1,64})",(?:"iprev":"[0-9a-f]{64}",)?"iseq":([0-9]{1,16})[,}]')


class Log:
    """One writer's view of the log. Thread-safe; one process at a time."""

    def __init__(self, directory: Path, signer: Signer, records: int) -> None:
        self.origin = signer.origin
        self._directory = directory
        self._signer = signer
        self._records = records
        self._lock = threading.Lock()
        self._tree = TiledTree(directory)
        self._bytes = 0
        self._folded: dict[str, int] = {}
        self._last_us = 0
        self._text = ""

    @classmethod
    def open(cls, evidence: Path, deployment: str, year: int, keys: Keys) -> Log:
        """Open the log, or begin one with the origin `<deployment>/evidence/<year>`; one that exists keeps its origin.

        Raises Unavailable when the files are behind what was signed, or another process has them open; ConfigError
        when they belong to another deployment.
        """
        directory = evidence / "log"
        directory.mkdir(parents=True, exist_ok=True)
        records = os.open(directory / "records.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(records, fcntl.LOCK_EX | fcntl.LOCK_NB)
            origin = _identify(directory, deployment, year)
            fresh = os.fstat(records).st_size == 0 and not (directory / "checkpoint").exists()
            signer = Signer.open(keys, origin, fresh=fresh)
            replace(directory / "key.pub", f"{signer.vkey}\n".encode(), _MODE)
            log = cls(directory, signer, records)
            log._recover()
        except BlockingIOError:
            os.close(records)
            raise Unavailable(f"{directory} is in use by another process", "stop the other gateway") from None
        except BaseException:
            os.close(records)
            raise
        return log

    @property
    def size(self) -> int:
        """Leaves folded so far; the newest checkpoint may be smaller."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """The root over all leaves folded so far."""
        with self._lock:
            return self._tree.root()

    @property
    def signed(self) -> Signed:
        """What was signed last."""
        return self._signer.last

    def folded(self, instance: str) -> int:
        """The last `iseq` of this instance that the log holds; 0 for none. The journal offers what follows it."""
        return self._folded.get(instance, 0)

    def fold(self, lines: Sequence[bytes]) -> int:
        """Append journal lines (synced, in order, without newlines). Returns the index of the first one appended.

        Lines folded before are passed over, so a journal may offer them again. Raises Unavailable when the disk
        refuses them or when a line is missing between; nothing is appended then.
        """
        with self._lock:
            folded = dict(self._folded)
            fresh = []
            for line in lines:
                instance, iseq = _place(line)
                last = folded.get(instance, 0)
                if iseq <= last:
                    continue
                if iseq != last + 1:
                    raise Unavailable(
                        f"line {last + 1} of {instance} is missing before {iseq}", "keep the journal files"
                    )
                folded[instance] = iseq
                fresh.append(line)
            first = self._tree.size
            if fresh:
                self._write(b"\n".join(fresh) + b"\n")
                self._folded = folded
                for line in fresh:
                    self._tree.append(line)
            return first

    def fold_synced(self, instance: str, lines: Sequence[SyncedLine]) -> None:
        """The same for lines straight from their journal, which knows their numbers and hashes: a sixth of the cost."""
        with self._lock:
            last = self._folded.get(instance, 0)
            fresh = [line for line in lines if line.iseq > last]
            if not fresh:
                return
            if fresh[0].iseq != last + 1 or fresh[-1].iseq != last + len(fresh):
                raise Unavailable(f"line {last + 1} of {instance} is missing", "keep the journal files")
            self._write(b"\n".join([line.line for line in fresh]) + b"\n")
            self._folded[instance] = fresh[-1].iseq
            for line in fresh:
                self._tree.append(line.line, bytes.fromhex(line.hash))

    def checkpoint(self, now_us: int) -> str:
        """Make everything folded so far durable and sign it. Returns the checkpoint's note.

        With nothing new since the last one, that one is returned. Raises Unavailable; the log stays as it was.
        """
        with self._lock:
            self._last_us = now_us
            if self._text and self._tree.size == self._signer.last.size:
                return self._text
            try:
                self._flush()
                proof = tree.consistency_proof(self._signer.last.size, self._tree.size, self._tree.node)
                head = note.Checkpoint(self.origin, self._tree.size, self._tree.root())
                text = self._signer.sign(head, proof, self._bytes, self._folded)
                self._publish(text, head, now_us)
            except OSError as error:
                raise Unavailable(
                    f"cannot write the log ({error.strerror})", "free space and check the disk"
                ) from error
            self._text = text
            return text

    def tick(self, now_us: int) -> str | None:
        """Sign a checkpoint when one is due. The app calls it every second and folds a heartbeat every minute."""
        if self._tree.size == self._signer.last.size or 0 <= now_us - self._last_us < EVERY_US:
            return None
        return self.checkpoint(now_us)

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """The leaves from index `start` on, as of now. Reads the entry bundles; raises Unavailable when one is gone."""
        with self._lock:
            return self._tree.entries(start)

    def inclusion(self, index: int) -> list[bytes]:
        """The proof that leaf `index` is in the tree of the newest checkpoint."""
        with self._lock:
            return tree.inclusion_proof(index, self._signer.last.size, self._tree.node)

    def consistency(self, old: int) -> list[bytes]:
        """The proof that the newest checkpoint's tree begins with the tree of `old` leaves."""
        with self._lock:
            return tree.consistency_proof(old, self._signer.last.size, self._tree.node)

    def publish_basics(self, published: Mapping[str, Any]) -> str:
        """Keep a list of basics beside the log, for `rules.active` to name. Returns its hex SHA-256.

        It stands under its digest, so that requests judged under an older release stay verifiable after an upgrade.
        """
        data = json.dumps(published, sort_keys=True, indent=1).encode() + b"\n"
        digest = sha256(data).hexdigest()
        path = self._directory / "basics" / f"{digest}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            replace(path, data, _MODE)
        return digest

    def close(self) -> None:
        """Let the files go. Sign before: this does not."""
        with self._lock:
            os.close(self._records)
            self._records = -1

    # -- writing

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.write(self._records, data[written:])
        except OSError as error:
            os.ftruncate(self._records, self._bytes)  # half a line must not stay before the next one
            raise _unwritable(error) from error
        self._bytes += len(data)

    def _flush(self) -> None:
        """Records and tiles of the present size to the disk."""
        os.fdatasync(self._records)
        self._tree.flush()

    def _publish(self, text: str, head: note.Checkpoint, now_us: int) -> None:
        row = {"note": text, "root": head.root.hex(), "size": head.size, "t": now_us}
        # The checkpoint first: whoever reads the history and then it, also after a crash, never finds it the older one.
        replace(self._directory / "checkpoint", text.encode(), _MODE)
        with (self._directory / "checkpoints.jsonl").open("ab") as history:
            # The length before is where a torn line of an earlier crash would end: begin on a line of its own.
            if history.tell() and not _ends_line(self._directory / "checkpoints.jsonl"):
                history.write(b"\n")
            history.write(canonical.encode(row) + b"\n")
            history.flush()
            os.fdatasync(history.fileno())

    # -- opening

    def _recover(self) -> None:
        """Go on from the last checkpoint; what stands behind it is read again, and a torn end is cut."""
        last = self._signer.last
        length = os.fstat(self._records).st_size
        behind = f"{self._directory} is behind what was signed ({last.size} leaves)"
        if length < last.bytes:
            raise Unavailable(behind, "restore the evidence; an older copy cannot be continued")
        if not self._tree.resume(last.size, last.root):
            self._reread(last)
            if self._tree.size != last.size or self._tree.root() != last.root:
                raise Unavailable(f"{self._directory}/records.jsonl is not what was signed", "restore the evidence")
        self._folded = dict(last.folded)
        self._bytes = last.bytes
        with (self._directory / "records.jsonl").open("rb") as records:
            records.seek(last.bytes)
            for line in records:
                try:
                    if not line.endswith(b"\n"):
                        break
                    canonical.decode(line[:-1])
                    instance, iseq = _place(line)
                except (canonical.CanonicalError, Unavailable):
                    break
                if iseq != self._folded.get(instance, 0) + 1:
                    break
                self._folded[instance] = iseq
                self._bytes += len(line)
                self._tree.append(line[:-1])
        if self._bytes < length:
            os.ftruncate(self._records, self._bytes)

    def _reread(self, last: Signed) -> None:
        """The slow way: the whole tree again from the records, and every tile anew."""
        self._tree = TiledTree(self._directory)
        with (self._directory / "records.jsonl").open("rb") as records:
            while self._tree.size < last.size and (line := records.readline()).endswith(b"\n"):
                self._tree.append(line[:-1])
                if self._tree.unwritten > FLUSH_TILES:
                    self._flush()
            self._bytes = records.tell()
        if self._bytes != last.bytes:
            raise Unavailable(f"{self._directory}/records.jsonl is not what was signed", "restore the evidence")


def _unwritable(error: OSError) -> Unavailable:
    return Unavailable(f"cannot write the log ({error.strerror})", "free space and check the disk")


def _place(line: bytes) -> tuple[str, int]:
    """Whose line it is: (instance, iseq)."""
    match = _PLACE.search(line)
    if match is None or len(line) > canonical.MAX_BYTES:
        raise Unavailable("a line without its instance and number was offered to the log", "keep the journal files")
    return match[1].decode(), int(match[2])


def _identify(directory: Path, deployment: str, year: int) -> str:
    """The log's origin, fixed when it began."""
    path = directory / "log.json"
    if path.exists():
        try:
            known = json.loads(path.read_bytes())
            if known["deployment"] == deployment:
                return str(known["origin"])
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"{path} is not readable", "restore the evidence from a copy") from None
        mend = f"set deployment: {known['deployment']}, or begin another store"
        raise ConfigError(Problem("deployment", f"this store belongs to {known['deployment']}", mend))
    origin = f"{deployment}/evidence/{year}"
    replace(path, canonical.encode({"deployment": deployment, "origin": origin}) + b"\n", _MODE)
    sync_directory(directory)
    return origin


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
