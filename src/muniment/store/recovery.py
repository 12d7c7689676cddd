"""What a journal finds behind the last run: where it ends whole, what was open, and what to write about it.

Beside `journal/<inst>.jsonl` stand three small files that are no evidence: `.mark` (how far both files were synced when
the last sync ended), `.open` (a snapshot of what was open at some earlier line, so that a start reads minutes and not
years) and `.reserve`. Without `.mark` and `.open` a start reads the whole journal and takes nothing for synced.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Any

from muniment.model.entries import (
    Entry,
    InstanceFail,
    InstanceRecover,
    InstanceStart,
    Request,
    Response,
    SessionClose,
    SessionOpen,
)
from muniment.model.errors import Unavailable
from muniment.proof.canonical import MAX_BYTES
from muniment.store.keys import Keys
from muniment.store.payloads import Opener, walk
from muniment.store.recordings import Closed

_MARK = Struct(">QQQI")  # iseq | journal bytes | payload bytes | CRC-32
_LISTED = 400  # sessions or exchanges named in one line, which may have 32 KiB
_RESULTS = 64  # exchanges in one response line


@dataclass(slots=True)
class Unfinished:
    """What has begun and not ended. sessions: id -> last n; exchanges: (session, n) -> "allow" or "hold"; boot: of the
    last start.

    Responses are written before their session's close: with the close, what is left of the session is forgotten.
    """

    sessions: dict[str, int] = field(default_factory=dict)
    exchanges: dict[tuple[str, int], str] = field(default_factory=dict)
    boot: str = ""

    def copy(self) -> Unfinished:
        """As it is now."""
        return Unfinished(self.sessions.copy(), self.exchanges.copy(), self.boot)

    def note(self, entry: Entry) -> None:
        """Take up an entry that was written. On the hot path."""
        kind = entry.__class__
        if kind is Request:
            self.asked(entry.ses, entry.n, entry.decision)  # type: ignore[attr-defined]
        elif kind is Response:
            self._answered(entry.results)  # type: ignore[attr-defined]
        elif kind is SessionOpen:
            self.sessions[entry.ses] = 0  # type: ignore[attr-defined]
        elif kind is SessionClose:
            self._closed(entry.ses)  # type: ignore[attr-defined]
        elif kind is InstanceStart:
            self.boot = entry.boot  # type: ignore[attr-defined]

    def note_line(self, line: dict[str, Any]) -> None:
        """Take up a line that was read."""
        kind = line["kind"]
        if kind == Request.kind:
            self.asked(line.get("ses", ""), line["n"], line.get("decision", ""))
        elif kind == Response.kind:
            self._answered(line.get("results", ()))
        elif kind == SessionOpen.kind:
            self.sessions[line.get("ses", "")] = 0
        elif kind == SessionClose.kind:
            self._closed(line.get("ses", ""))
        elif kind == InstanceStart.kind:
            self.boot = line.get("boot", "")

    def asked(self, ses: str, n: int, decision: str) -> None:
        """Take up a request."""
        if self.sessions.get(ses, n) < n:
            self.sessions[ses] = n
        if decision != "deny":  # a refusal has run nothing: its outcome is the decision itself
            self.exchanges[ses, n] = decision

    def _answered(self, results: tuple[str, ...]) -> None:
        for result in results:
            ses, n, _ = result.split(":", 2)
            self.exchanges.pop((ses, int(n)), None)

    def _closed(self, ses: str) -> None:
        if self.sessions.pop(ses, 0) and self.exchanges:
            for key in [key for key in self.exchanges if key[0] == ses]:
                del self.exchanges[key]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start found.

    torn_bytes: cut from the journal's end, never released. last_iseq: 0 in a new journal; less than what the log has
    folded means that the journal was cut or replaced. open_sessions: (id, last n). open_exchanges: released, outcome
    unknown. waiting: held, never released. lost_payloads: lines whose payload a power cut took. boot: the last run's.
    """

    torn_bytes: int = 0
    last_iseq: int = 0
    open_sessions: tuple[tuple[str, int], ...] = ()
    open_exchanges: tuple[tuple[str, int], ...] = ()
    waiting: tuple[tuple[str, int], ...] = ()
    lost_payloads: int = 0
    boot: str = ""

    @property
    def clean(self) -> bool:
        """Whether the last run ended in order."""
        return not (self.torn_bytes or self.open_sessions or self.open_exchanges or self.waiting or self.lost_payloads)


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two lines. hash: of the line before, hex, empty at the start; t_us: its time; lines, payloads:
    bytes of the two files."""

    iseq: int = 0
    hash: str = ""
    t_us: int = 0
    lines: int = 0
    payloads: int = 0


def summary(scan: Scan, torn_bytes: int) -> Recovery:
    """What a scan found, in words for the start."""
    found = scan.unfinished
    return Recovery(
        torn_bytes,
        scan.at.iseq,
        tuple(found.sessions.items()),
        tuple(key for key, decision in found.exchanges.items() if decision != "hold"),
        tuple(key for key, decision in found.exchanges.items() if decision == "hold"),
        len(scan.missing),
        found.boot,
    )


def settle(
    recovery: Recovery, boot: str, finish: Callable[[str], tuple[Closed | None, Closed | None]]
) -> Iterator[Entry]:
    """The entries that end what the last run left open; append them in order before any traffic.

    finish: ends the shown and the original recording of a session and says what is in them; None where there is none.
    """
    if recovery.clean:
        return
    sessions = tuple(ses for ses, _ in recovery.open_sessions)
    exchanges = tuple(f"{ses}:{n}" for ses, n in (*recovery.open_exchanges, *recovery.waiting))
    for at in range(0, max(len(sessions), len(exchanges), 1), _LISTED):
        part = slice(at, at + _LISTED)
        torn = 0 if at else recovery.torn_bytes
        yield InstanceRecover(torn_bytes=torn, sessions=sessions[part], exchanges=exchanges[part], boot=boot)
    if recovery.lost_payloads:
        yield InstanceFail(what=f"payloads of {recovery.lost_payloads} lines were lost in a power cut")
    results = [f"{ses}:{n}:unknown:0:0:::" for ses, n in recovery.open_exchanges]
    results += [f"{ses}:{n}:withdrawn:0:0:::" for ses, n in recovery.waiting]
    for at in range(0, len(results), _RESULTS):
        yield Response(results=tuple(results[at : at + _RESULTS]))
    for ses, last_n in recovery.open_sessions:
        shown, original = finish(ses)
        yield SessionClose(
            ses=ses,
            reason="the gateway stopped without closing it",
            exchanges=last_n,
            frames=shown.frames if shown else 0,
            recording=shown.stored_sha256 if shown else "",
            shown=shown.shown_root if shown else "",
            originals=original.stored_sha256 if original else "",
            original=original.shown_root if original else "",
        )


def write_mark(file: int, at: Position) -> None:
    """Note how far both files are synced. One small write in place: whole or not at all."""
    body = _MARK.pack(at.iseq, at.lines, at.payloads, 0)[:-4]
    os.pwrite(file, body + zlib.crc32(body).to_bytes(4), 0)


def read_mark(file: int) -> Position:
    """What was synced for certain; all zeros if the mark is missing or torn."""
    body = os.pread(file, _MARK.size, 0)
    if len(body) < _MARK.size or zlib.crc32(body[:-4]).to_bytes(4) != body[-4:]:
        return Position()
    iseq, lines, payloads, _ = _MARK.unpack(body)
    return Position(iseq, "", 0, lines, payloads)


def save_snapshot(path: Path, at: Position, unfinished: Unfinished) -> None:
    """Keep what is open at a synced place. Replaced whole; not synced, since it only saves time."""
    body = {
        "at": [at.iseq, at.hash, at.t_us, at.lines, at.payloads],
        "sessions": unfinished.sessions,
        "boot": unfinished.boot,
        "exchanges": [[ses, n, decision] for (ses, n), decision in unfinished.exchanges.items()],
    }
    beside = path.with_suffix(".open.new")
    beside.write_text(json.dumps(body))
    beside.chmod(0o600)
    beside.replace(path)


def load_snapshot(path: Path, lines: int, mark: Position) -> tuple[Position, Unfinished]:
    """The last snapshot if it fits the journal (open file `lines`) as it stands; else the journal's beginning."""
    try:
        body = json.loads(path.read_bytes())
        at = Position(*body["at"])
        unfinished = Unfinished(
            {str(ses): int(n) for ses, n in body["sessions"].items()},
            {(str(ses), int(n)): str(decision) for ses, n, decision in body["exchanges"]},
            str(body["boot"]),
        )
        fits = at.iseq <= mark.iseq and at.lines <= mark.lines and at.payloads <= mark.payloads
        if fits and _hash_before(lines, at.lines) == at.hash:
            return at, unfinished
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return Position(), Unfinished()


def _hash_before(file: int, end: int) -> str:
    """The leaf hash of the line that ends (with its newline) at `end`; empty at the beginning."""
    start = max(0, end - MAX_BYTES - 2)
    tail = os.pread(file, end - start, start)
    if not tail.endswith(b"\n"):
        return ""
    return sha256(b"\0" + tail[tail.rfind(b"\n", 0, -1) + 1 : -1]).hexdigest()


@dataclass(slots=True)
class Scan:
    """The whole part of a journal from a snapshot on. missing: lines after the mark that must have a payload."""

    at: Position
    unfinished: Unfinished
    missing: set[int] = field(default_factory=set)


def scan_lines(
    path: Path, start: Position, unfinished: Unfinished, instance: str, mark: Position, folded: int = 0
) -> Scan:
    """Read whole lines from `start` until one is torn, not ours, or does not follow the one before.

    Raises Unavailable if that is before the mark, or before the last line that was folded into the log: those bytes
    were synced, so they were changed or taken away and not torn.
    """
    found = Scan(start, unfinished)
    at = start
    with path.open("rb") as file:
        file.seek(at.lines)
        while raw := file.readline(MAX_BYTES + 2):
            line = _follows(raw, at, instance)
            if line is None:
                break
            if "sd" in line and line["iseq"] > mark.iseq:
                found.missing.add(line["iseq"])
            try:
                unfinished.note_line(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            digest = sha256(b"\0" + raw[:-1]).hexdigest()
            at = Position(line["iseq"], digest, line["t"], at.lines + len(raw), at.payloads)
    found.at = at
    if at.lines < mark.lines or at.iseq < folded:
        raise Unavailable(
            f"{path} is damaged behind line {at.iseq} (byte {at.lines}), and it was whole to line "
            f"{max(mark.iseq, folded)}",
            "restore it from a copy; or move the instance's files and DATA/instance away to begin a new journal, "
            "and keep the old files as evidence",
        )
    return found


def _follows(raw: bytes, at: Position, instance: str) -> dict[str, Any] | None:
    """The line as an object if it is whole and follows `at`."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
        fits = (
            line["inst"] == instance
            and line["iseq"] == at.iseq + 1
            and line.get("iprev", "") == at.hash
            and isinstance(line["kind"], str)
            and isinstance(line["t"], int)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return line if fits else None


def scan_payloads(file: int, scan: Scan, instance: str, keys: Keys, mark: Position) -> int:
    """Where the payloads end whole: no torn block, none whose lines are all cut. Takes what it finds from `missing`.

    Blocks after the mark are opened, since a power cut may have taken pages from their middle. Raises Unavailable if
    blocks before the mark are gone, or were sealed under a key that is not here.
    """
    size = os.fstat(file).st_size
    opener = Opener(file, instance, keys)
    opener.newest()
    end = scan.at.payloads
    for block in walk(file, scan.at.payloads, size):
        if block.first > scan.at.iseq or (block.end > mark.payloads and not opener.whole(block)):
            break
        scan.missing.difference_update(range(block.first, block.last + 1))
        end = block.end
    if end < mark.payloads:
        raise Unavailable(
            f"payloads of {instance} are damaged at byte {end}, and they were whole to byte {mark.payloads}",
            "restore the file from a copy",
        )
    return end
