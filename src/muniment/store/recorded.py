"""Recordings that are there: where they are, what is in them, and ending one that a killed gateway left."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from muniment.model.errors import Unavailable
from muniment.proof.tree import Tree
from muniment.store import chunks
from muniment.store.chunks import DATA, FRAME, RECOVERED, RecordingError, Seal, Unfinished
from muniment.store.keys import Keys


class Frame(NamedTuple):
    """What one side sent at one moment. channel: 0 client to target, 1 target to client, 2 what the gateway itself
    said to the client, 3 about the session."""

    t_us: int
    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """What is in a recording that will not grow. frames: its chunks; stored_sha256: of the file, hex; shown_root: over
    the plain chunks, hex (of the original stream: its own root); failed: why what came later is not in it, or empty."""

    frames: int
    stored_sha256: str
    shown_root: str
    failed: str = ""


def path_of(evidence: Path, ses: str, *, original: bool = False) -> Path:
    """Where a session's recording is."""
    return evidence / "recordings" / f"{ses}{'.orig' if original else '.rec'}"


def read(path: Path, keys: Keys, *, ses: str | None = None) -> Iterator[Frame]:
    """The frames of a recording, in order. ses: the session it must be of; by default the file's name says it.

    Raises Unavailable if there is none or its key is not here; RecordingError where it was changed or swapped, and
    Unfinished where it has no end, after having yielded every whole chunk before that.
    """
    for _, how, plain, _ in chunks.chunks(path, keys, ses):
        pos = chunks.SALT_BYTES if how == DATA else 0
        while pos < len(plain):
            t_us, channel, size = FRAME.unpack_from(plain, pos)
            pos += FRAME.size
            yield Frame(t_us, channel, plain[pos : pos + size])
            pos += size


def examine(path: Path, keys: Keys, *, ses: str | None = None) -> Closed:
    """Open every chunk and work out again what `session.close` says. Raises as `read` does."""
    tree = Tree()
    for index, how, plain, _ in chunks.chunks(path, keys, ses):
        if index >= 0 and how == DATA:
            tree.append(chunks.leaf(plain))
    return _closed(path, tree, "")


def finish(path: Path, keys: Keys) -> Closed:
    """End a recording that a killed gateway left: cut a torn last chunk, write the end. One that has its end stays.

    Where a whole chunk does not open nothing is changed, and `failed` says where. Raises Unavailable if the file cannot
    be read or written, or its key is not here.
    """
    tree = Tree()
    failed = ""
    end = 0
    try:
        for index, how, plain, end in chunks.chunks(path, keys):  # noqa: B007 - the last one is used below
            if index >= 0 and how == DATA:
                tree.append(chunks.leaf(plain))
    except Unfinished as error:
        if end:
            _write_end(path, keys, end, tree.size)
        else:
            failed = error.what
    except RecordingError as error:
        failed = error.what
    return _closed(path, tree, failed)


def finish_session(evidence: Path, ses: str, keys: Keys) -> tuple[Closed | None, Closed | None]:
    """`finish` for both streams of a session; None for one that was not begun. For `recovery.settle`."""
    paths = (path_of(evidence, ses), path_of(evidence, ses, original=True))
    shown, original = (finish(path, keys) if path.exists() else None for path in paths)
    return shown, original


def _write_end(path: Path, keys: Keys, end: int, index: int) -> None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            seal = Seal.of(path, os.pread(file, end, 0), keys, None)
            os.ftruncate(file, end)
            pwrite(file, seal.end(index, RECOVERED), end)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        mend = "let the gateway's user write there, and free space"
        raise Unavailable(f"cannot end the recording {path} ({error.strerror})", mend) from error


def _closed(path: Path, tree: Tree, failed: str) -> Closed:
    with path.open("rb") as file:
        stored = hashlib.file_digest(file, "sha256").hexdigest()
    return Closed(tree.size, stored, tree.root().hex(), failed)


def pwrite(file: int, data: bytes, at: int) -> None:
    """Write all of it at this place. Raises OSError."""
    done = os.pwrite(file, data, at)
    while done < len(data):  # a short write means that the room ends here; the next one says why
        done += os.pwrite(file, data[done:], at + done)
