"""The files of one journal, held by one process: two that are evidence, and what stands beside them."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO

from muniment.model.errors import ConfigError, Problem, Unavailable
from muniment.store import payloads
from muniment.store.keys import sync_directory

_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def lines_path(evidence: Path, instance: str) -> Path:
    """Where an instance's lines are."""
    return evidence / "journal" / f"{instance}.jsonl"


class Files:
    """Open files of a journal under an exclusive lock. Every write is at a place that the caller names, so that what a
    failed write left behind is written over. Methods raise OSError."""

    __slots__ = ("_dirty", "_reserve", "instance", "lines", "lines_path", "mark", "payloads", "payloads_path")

    def __init__(self, evidence: Path, instance: str) -> None:
        self.instance = instance
        self.lines_path = lines_path(evidence, instance)
        self.payloads_path = payloads.path_of(evidence, instance)
        self.lines = self.payloads = self.mark = self._reserve = -1
        self._dirty = True

    @classmethod
    def open(cls, evidence: Path, instance: str) -> Files:
        """Open or make them. Raises Unavailable when another process has them, or they cannot be opened."""
        if not _INSTANCE.fullmatch(instance):
            mend = "it is made at the first start: restore the file, or remove it to begin a new journal"
            raise ConfigError(Problem("instance", f"{instance[:80]!r} is not the id of an instance", mend))
        files = cls(evidence, instance)
        try:
            for path in (files.lines_path, files.payloads_path):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.lines = _open(files.lines_path)
            fcntl.flock(files.lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files.payloads = _open(files.payloads_path)
            files.mark = _open(files.lines_path.with_suffix(".mark"))
            files._reserve = _open(files.lines_path.with_suffix(".reserve"))
        except BlockingIOError:
            files.close()
            raise Unavailable(
                f"another gateway runs on this data directory: it has {files.lines_path}",
                "stop it, or give this one its own `store`",
            ) from None
        except OSError as error:
            files.close()
            raise Unavailable(
                f"cannot open the journal: {error.filename}: {error.strerror}", "let the gateway's user write there"
            ) from error
        return files

    @property
    def snapshot_path(self) -> Path:
        """Where a snapshot of what is open is kept."""
        return self.lines_path.with_suffix(".open")

    def reserve(self, size: int) -> None:
        """Take room on the disk that `release_reserve` gives back. Raises Unavailable if there is none."""
        try:
            os.ftruncate(self._reserve, size)
            if size:
                os.posix_fallocate(self._reserve, 0, size)
        except OSError as error:
            self.release_reserve()
            raise Unavailable(
                f"no room for the journal's reserve of {size} bytes beside {self.lines_path} ({error.strerror})",
                "free space; without it the ends of sessions could not be written on a full disk",
            ) from error

    def release_reserve(self) -> None:
        """Give the reserve back to the file system, so that there is room for what must still be written."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._reserve, 0)
            os.fsync(self._reserve)  # some file systems give room back only when that is on the disk

    def write_payloads(self, data: bytes, at: int) -> None:
        """Write all of `data` there."""
        self._dirty = True
        if (done := os.pwrite(self.payloads, data, at)) != len(data):
            _write_rest(self.payloads, data, at, done)

    def write_lines(self, data: bytes, at: int) -> None:
        """Write all of `data` there."""
        if (done := os.pwrite(self.lines, data, at)) != len(data):
            _write_rest(self.lines, data, at, done)

    def take_back(self, lines: int, payloads: int) -> None:
        """Cut both files back after a failed write; where even that fails, the next start cuts them."""
        for file, size in ((self.lines, lines), (self.payloads, payloads)):
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)

    def cut(self, iseq: int, lines: int, payloads: int) -> int:
        """Cut what is behind the last whole line and its payload. Returns how many bytes of lines.

        More than one torn line (a power cut) is kept beside, since some of it may be whole.
        """
        torn = os.fstat(self.lines).st_size - lines
        with self.lines_path.open("rb") as file:
            file.seek(lines)
            if file.readline().endswith(b"\n"):
                file.seek(lines)
                self._keep(file, iseq + 1)
        os.ftruncate(self.payloads, payloads)
        os.ftruncate(self.lines, lines)
        return torn

    def _keep(self, torn: BinaryIO, iseq: int) -> None:
        name = self.lines_path.with_suffix(f".cut-{iseq}")
        for again in itertools.count(2):
            with contextlib.suppress(FileExistsError), name.open("xb") as file:
                shutil.copyfileobj(torn, file)
                file.flush()
                os.fsync(file.fileno())
                return
            name = self.lines_path.with_suffix(f".cut-{iseq}-{again}")

    def sync(self) -> None:
        """Put both on the disk, payloads first: a synced line has its payload."""
        if self._dirty:
            self._dirty = False
            os.fdatasync(self.payloads)
        os.fdatasync(self.lines)

    def sync_names(self) -> None:
        """Make the files' names durable."""
        for path in (self.lines_path.parent, self.payloads_path.parent, self.lines_path.parent.parent):
            sync_directory(path)

    def close(self) -> None:
        """Close what is open; that gives the lock back."""
        for file in (self.payloads, self.mark, self._reserve, self.lines):
            if file >= 0:
                os.close(file)
        self.lines = self.payloads = self.mark = self._reserve = -1


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _write_rest(file: int, data: bytes, at: int, done: int) -> None:
    """A short write means that the room ends here; the next one says why."""
    while done < len(data):
        done += os.pwrite(file, data[done:], at + done)
