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
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from muniment.model.errors import ConfigError, Problem, Unavailable
from muniment.proof import canonical, note, tiles, tree
from muniment.proof.tiles import ENTRIES, WIDTH, Tile
from muniment.store.keys import Keys, sync_directory
from muniment.store.signer import Signed, Signer, replace

EVERY_US = 5_000_000  # a checkpoint under traffic (EVIDENCE, section 3)
FLUSH_TILES = 512  # full tiles kept in memory while an old log is read again
REMAKE = "stop the gateway, remove log/tile and start it: tiles are made again from the records"
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
        self._size = 0
        self._edges: list[list[bytes]] = []  # per tile level, the hashes of the tile that is not full yet
        self._bundle: list[bytes] = []  # the lines of the entry bundle that is not full yet
        self._full: dict[Tile, bytes] = {}  # full tiles that are not on the disk yet
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
        return self._size

    @property
    def root(self) -> bytes:
        """The root over all leaves folded so far."""
        with self._lock:
            return self._root()

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
            first = self._size
            if fresh:
                self._write(b"\n".join(fresh) + b"\n")
                self._folded = folded
                for line in fresh:
                    self._append(line)
            return first

    def checkpoint(self, now_us: int) -> str:
        """Make everything folded so far durable and sign it. Returns the checkpoint's note.

        With nothing new since the last one, that one is returned. Raises Unavailable; the log stays as it was.
        """
        with self._lock:
            self._last_us = now_us
            if self._text and self._size == self._signer.last.size:
                return self._text
            try:
                self._flush()
                proof = tree.consistency_proof(self._signer.last.size, self._size, self._node)
                head = note.Checkpoint(self.origin, self._size, self._root())
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
        if self._size == self._signer.last.size or 0 <= now_us - self._last_us < EVERY_US:
            return None
        return self.checkpoint(now_us)

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """The leaves from index `start` on, as of now. Reads the entry bundles; raises Unavailable when one is gone."""
        with self._lock:
            size, newest, full = self._size, list(self._bundle), dict(self._full)
        for index in range(start // WIDTH, -(-size // WIDTH)):
            tile = Tile(ENTRIES, index)
            if index == size // WIDTH:
                entries = newest
            else:
                entries = tiles.decode_bundle(full[tile] if tile in full else self._read(tile))
            yield from entries[max(start - index * WIDTH, 0) :]

    def inclusion(self, index: int) -> list[bytes]:
        """The proof that leaf `index` is in the tree of the newest checkpoint."""
        with self._lock:
            return tree.inclusion_proof(index, self._signer.last.size, self._node)

    def consistency(self, old: int) -> list[bytes]:
        """The proof that the newest checkpoint's tree begins with the tree of `old` leaves."""
        with self._lock:
            return tree.consistency_proof(old, self._signer.last.size, self._node)

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

    def _append(self, line: bytes) -> None:
        """Take a line that stands in the records into the tree."""
        leaf = tree.leaf_hash(line)
        index = self._size
        self._size = index + 1
        self._bundle.append(line)
        if len(self._bundle) == WIDTH:
            self._full[Tile(ENTRIES, index // WIDTH)] = tiles.encode_bundle(self._bundle)
            self._bundle = []
        for level in range(tiles.MAX_LEVEL):
            if level == len(self._edges):
                self._edges.append([])
            edge = self._edges[level]
            edge.append(leaf)
            if len(edge) < WIDTH:
                return
            self._full[Tile(level, index >> tiles.HEIGHT * (level + 1))] = tiles.encode_hashes(edge)
            leaf = tree.root(edge)
            edge.clear()

    def _flush(self) -> None:
        """Records and tiles of the present size to the disk."""
        os.fdatasync(self._records)
        files = dict(self._full)
        for tile in tiles.partial_tiles(self._size):
            files[tile] = tiles.encode_hashes(self._edges[tile.level])
        if self._bundle:
            index, width = divmod(self._size, WIDTH)
            files[Tile(ENTRIES, index, width)] = tiles.encode_bundle(self._bundle)
        self._store(files)
        for tile in self._full:
            shutil.rmtree(self._directory / f"{tile.path}.p", ignore_errors=True)
        self._full.clear()

    def _store(self, files: Mapping[Tile, bytes]) -> None:
        """Write all, then sync all: half the cost of one after the other. A torn tile is behind what the signer
        remembers, and is written again."""
        paths = [(self._directory / tile.path, data) for tile, data in files.items()]
        for path, data in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for path, _ in paths:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        for parent in {parent for path, _ in paths for parent in (path.parent, path.parent.parent)}:
            sync_directory(parent)

    def _publish(self, text: str, head: note.Checkpoint, now_us: int) -> None:
        row = {"note": text, "root": head.root.hex(), "size": head.size, "t": now_us}
        with (self._directory / "checkpoints.jsonl").open("ab") as history:
            # The length before is where a torn line of an earlier crash would end: begin on a line of its own.
            if history.tell() and not _ends_line(self._directory / "checkpoints.jsonl"):
                history.write(b"\n")
            history.write(canonical.encode(row) + b"\n")
            history.flush()
            os.fdatasync(history.fileno())
        replace(self._directory / "checkpoint", text.encode(), _MODE)

    # -- looking up

    def _root(self) -> bytes:
        """The root at the present size, out of the tiles that are not full: their peaks are the tree's."""
        found = []
        for edge in reversed(self._edges):
            found += [tree.root(edge[at << level : (at + 1) << level]) for level, at in tree.peaks(len(edge))]
        return tree.Tree(self._size, found).root()

    def _read(self, tile: Tile) -> bytes:
        try:
            return (self._directory / tile.path).read_bytes()
        except FileNotFoundError:
            raise Unavailable(f"{tile.path} is missing from the log", REMAKE) from None

    def _node(self, level: int, index: int) -> bytes:
        """A complete subtree's root, from the tiles (`tree.Node`)."""
        at, inner = divmod(level, tiles.HEIGHT)
        number, offset = divmod(index << inner, WIDTH)
        tile = Tile(at, number)
        if number == self._size >> tiles.HEIGHT * (at + 1):
            hashes = self._edges[at]
        else:
            try:
                hashes = tiles.decode_hashes(self._full.get(tile) or self._read(tile))
            except tiles.TileError:
                raise Unavailable(f"{tile.path} is damaged", REMAKE) from None
        return tree.root(hashes[offset : offset + (1 << inner)])

    # -- opening

    def _recover(self) -> None:
        """Go on from the last checkpoint; what stands behind it is read again, and a torn end is cut."""
        last = self._signer.last
        length = os.fstat(self._records).st_size
        behind = f"{self._directory} is behind what was signed ({last.size} leaves)"
        if length < last.bytes:
            raise Unavailable(behind, "restore the evidence; an older copy cannot be continued")
        if not self._resume(last):
            self._reread(last)
            if self._size != last.size or self._root() != last.root:
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
                self._append(line[:-1])
        if self._bytes < length:
            os.ftruncate(self._records, self._bytes)

    def _resume(self, last: Signed) -> bool:
        """Take up the tree from the tiles of the last checkpoint. False: they are not all there, or not right."""
        try:
            for tile in tiles.partial_tiles(last.size):
                while len(self._edges) <= tile.level:
                    self._edges.append([])
                self._edges[tile.level] = tiles.decode_hashes(self._partial(tile), tile.width)
            index, width = divmod(last.size, WIDTH)
            self._bundle = tiles.decode_bundle(self._partial(Tile(ENTRIES, index, width)), width) if width else []
            self._size = last.size
        except (OSError, ValueError, Unavailable):
            return False
        leaves = [tree.leaf_hash(line) for line in self._bundle]
        return self._root() == last.root and (not self._edges or leaves == self._edges[0])

    def _partial(self, tile: Tile) -> bytes:
        """A partial tile's bytes; cut from the full one where that has taken its place."""
        path = self._directory / tile.path
        if path.exists():
            return path.read_bytes()
        data = self._read(Tile(tile.level, tile.index))
        if tile.level == ENTRIES:
            return tiles.encode_bundle(tiles.decode_bundle(data)[: tile.width])
        return data[: tile.width * tree.HASH_BYTES]

    def _reread(self, last: Signed) -> None:
        """The slow way: the whole tree again from the records, and every tile anew."""
        self._size, self._edges, self._bundle, self._full = 0, [], [], {}
        with (self._directory / "records.jsonl").open("rb") as records:
            while self._size < last.size and (line := records.readline()).endswith(b"\n"):
                self._append(line[:-1])
                if len(self._full) > FLUSH_TILES:
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
