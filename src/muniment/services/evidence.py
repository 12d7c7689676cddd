"""Reading the record: sessions shown and replayed, approvals with their history, the evidence as files.

Reading evidence is evidence: a show, a replay and an export are entries, durable before the first byte is given out.
"""

from __future__ import annotations

import asyncio
import heapq
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import muniment
from muniment.model.entries import EvidenceView
from muniment.model.errors import Unavailable
from muniment.services import replaying, views
from muniment.services.approvals import Record
from muniment.services.sessions import Sessions
from muniment.services.views import ApprovalView, ExchangeView, SessionView
from muniment.store import approvals as rows
from muniment.store import recordings
from muniment.store.approvals import AskedRow
from muniment.store.database import Database
from muniment.store.index import Filters, Index, Leaf, SessionRow
from muniment.store.payloads import Payload

MAX_EXCHANGES = 1000  # in one answer of `show`; the rest by `after`
COPY_BYTES = 1 << 20
T = TypeVar("T")
_ORDER = {"session": 0, "request": 1, "question": 2, "decision": 3}


@dataclass(frozen=True, slots=True)
class Event:
    """One moment of a replay. what: session | request | question | decision | outcome | end, and those of
    `replaying.Shown`; n: the exchange, 0 where it is not of one."""

    t_us: int
    what: str
    text: str
    n: int = 0
    decision: str = ""
    rule: str = ""
    person: str = ""
    index: int = -1
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()


@dataclass(slots=True)
class _Told:
    """What the log tells of one session."""

    opened: Leaf | None = None
    target: Leaf | None = None
    closed: Leaf | None = None
    requests: list[Leaf] = field(default_factory=list)
    outcomes: dict[int, tuple[int, views.Outcome]] = field(default_factory=dict)


class Evidence:
    """Reads what the gateway has written. Methods that read files do so in a thread."""

    def __init__(
        self, index: Index, database: Database, journal: Record, sessions: Sessions, *, deployment: str
    ) -> None:
        self.directory = index.evidence
        self._index = index
        self._database = database
        self._journal = journal
        self._sessions = sessions
        self._deployment = deployment

    async def viewed(self, what: str, thing: str, who: str) -> None:
        """Record that somebody reads evidence. what: show | replay | export | verify | login; who is asserted."""
        self._journal.append([EvidenceView(what=what, object=thing, who=who)])
        await self._journal.durable()

    async def sessions(self, filters: Filters) -> list[SessionRow]:
        """Sessions, newest first; what was written up to now is in it."""
        return await asyncio.to_thread(self._caught_up, lambda: self._index.sessions(filters))

    async def show(self, ses: str, who: str, *, after: int = 0, limit: int = MAX_EXCHANGES) -> SessionView | None:
        """A session with its exchanges behind number `after`; None where there is no such session."""
        row = await asyncio.to_thread(self._caught_up, lambda: self._index.session(ses))
        if row is None:
            return None
        await self.viewed("show", ses, who)
        live = any(session.id == ses for session in self._sessions.live())
        return await asyncio.to_thread(self._view, row, after, min(limit, MAX_EXCHANGES), live)

    async def replay(self, ses: str, who: str) -> Iterator[Event] | None:
        """Everything that happened in a session, in order of time. The iterator reads files: use it in a thread."""
        row = await asyncio.to_thread(self._caught_up, lambda: self._index.session(ses))
        if row is None:
            return None
        await self.viewed("replay", ses, who)
        return self._events(row)

    async def approvals(self, *, open_only: bool, limit: int = 200) -> list[ApprovalView]:
        """Questions, newest first."""

        def read() -> list[ApprovalView]:
            asked = rows.list_asked(self._database, open_only=open_only, limit=limit)
            return [self._approval(row) for row in asked]

        return await asyncio.to_thread(self._caught_up, read)

    async def approval(self, name: str) -> ApprovalView | None:
        """One question with everything that happened to it."""

        def read() -> ApprovalView | None:
            asked = rows.find(self._database, name)
            return self._approval(asked) if asked else None

        return await asyncio.to_thread(self._caught_up, read)

    async def vkey(self) -> str:
        """The log's public key as one line. Raises Unavailable before there is a log."""
        return await asyncio.to_thread(_read_text, self.directory / "log" / "key.pub")

    async def export(self, who: str) -> Iterator[bytes]:
        """The evidence directory as a tar stream, with the verifier in it. The iterator reads files."""
        await self.viewed("export", "evidence", who)
        return _tar(self.directory)

    def _caught_up(self, read: Callable[[], T]) -> T:
        self._index.catch_up()
        return read()

    def _tell(self, row: SessionRow) -> _Told:
        told = _Told()
        for leaf in self._index.lines(row):
            match leaf.fields.get("kind"):
                case "session.open":
                    told.opened = leaf
                case "session.target":
                    told.target = leaf
                case "session.close":
                    told.closed = leaf
                case "request":
                    told.requests.append(leaf)
                case "response":
                    for outcome in views.outcomes(leaf.fields.get("results", ()), row.ses):
                        told.outcomes[outcome.n] = (int(leaf.fields["t"]), outcome)
                case _:
                    pass
        return told

    def _payloads(self, row: SessionRow, leaves: list[Leaf]) -> tuple[dict[int, Payload], str]:
        try:
            return self._index.payloads(row.inst, [int(leaf.fields["iseq"]) for leaf in leaves]), ""
        except Unavailable as error:
            return {}, str(error)  # the readable part still tells what was touched and decided

    def _exchanges(self, row: SessionRow, told: _Told, leaves: list[Leaf]) -> list[ExchangeView]:
        payloads, sealed = self._payloads(row, leaves)
        asked = [
            self._approval(one) for one in rows.list_asked(self._database, open_only=False, ses=row.ses, limit=10_000)
        ]
        found = []
        for leaf in leaves:
            view = views.exchange(leaf, payloads.get(int(leaf.fields["iseq"])), sealed)
            mine, released = _belonging(asked, row.ses, view.n)
            view = replace(view, approvals=mine, released_by=released)
            if view.n in told.outcomes:
                end = told.outcomes[view.n][1]
                view = replace(view, status=end.status, rows=end.rows, bytes=end.bytes, code=end.code, tag=end.tag,
                               masked=end.masked)  # fmt: skip
            found.append(view)
        return found

    def _view(self, row: SessionRow, after: int, limit: int, live: bool) -> SessionView:
        told = self._tell(row)
        wanted = [leaf for leaf in told.requests if int(leaf.fields.get("n", 0)) > after]
        hidden: dict[str, str] = {}
        if told.opened is not None:
            payloads, _ = self._payloads(row, [told.opened])
            for payload in payloads.values():
                hidden = {name: value.decode("utf-8", "replace") for name, value in payload.fields.items()}
        return SessionView(
            row=row,
            opened=told.opened.fields if told.opened else {},
            hidden=hidden,
            target=told.target.fields if told.target else {},
            closed=told.closed.fields if told.closed else {},
            used=tuple(self._index.used(row.ses)),
            exchanges=tuple(self._exchanges(row, told, wanted[:limit])),
            more=len(wanted) > limit,
            live=live,
        )

    def _approval(self, asked: AskedRow) -> ApprovalView:
        history = rows.list_decisions(self._database, asked.id)
        indexes = self._index.indexes([asked.leaf, *(row.leaf for row in history)])
        hidden: dict[str, bytes] = {}
        if not asked.statement and (leaf := self._index.leaf(asked.leaf)) is not None:
            try:
                sealed = self._index.payloads(str(leaf.fields["inst"]), [int(leaf.fields["iseq"])])
                hidden = next(iter(sealed.values())).fields if sealed else {}
            except Unavailable:
                hidden = {}
        return views.approval(asked, history, indexes, self._deployment, hidden)

    # Replay

    def _events(self, row: SessionRow) -> Iterator[Event]:
        told = self._tell(row)
        path = recordings.path_of(self.directory, row.ses)
        recorded = recordings.read(path, self._index.keys) if path.exists() else iter(())
        shown = (
            Event(one.t_us, one.what, one.text, columns=one.columns, rows=one.rows)
            for one in replaying.render(row.protocol, recorded)
        )
        # what was asked comes before what was answered in the same microsecond
        yield from heapq.merge(self._journalled(row, told), shown, key=lambda event: event.t_us)

    def _journalled(self, row: SessionRow, told: _Told) -> list[Event]:
        who = f"{row.identity} at {row.target} (database {row.database}, as {row.role})"
        found = [Event(row.opened_us, "session", f"opened: {who}", index=row.first_index)]
        seen: set[str] = set()
        for view in self._exchanges(row, told, told.requests):
            found.append(
                Event(view.t_us, "request", _statement(view), view.n, view.decision, view.rule, index=view.index)
            )  # fmt: skip
            for asked in view.approvals:
                found += _asked_events(asked, view.n) if asked.id not in seen else []
                seen.add(asked.id)
            if view.masked:
                text = ", ".join(f"{count} × {name}" for name, count in sorted(view.masked.items()))
                found.append(Event(told.outcomes[view.n][0], "outcome", f"masked: {text}", view.n))
        if told.closed is not None:
            reason = str(told.closed.fields.get("reason", ""))
            found.append(Event(row.closed_us, "end", f"closed: {reason}", index=told.closed.index))
        found.sort(key=lambda event: (event.t_us, _ORDER.get(event.what, 9)))
        return found


def _statement(view: ExchangeView) -> str:
    lines = [view.statement or (f"[sealed: {view.sealed}]" if view.sealed else "[not kept]")]
    lines += [
        f"  ${n} = {'NULL' if value is None else repr(value)}" for n, value in enumerate(view.parameters, start=1)
    ]
    if view.decision != "allow" and view.why:
        lines.append(f"  {view.why}")
    return "\n".join(lines)


def _belonging(asked: list[ApprovalView], ses: str, n: int) -> tuple[tuple[ApprovalView, ...], str]:
    """The questions to print with exchange n, and the approval that was spent on it. A question that was asked by the
    exchange right before is printed there."""
    mine = []
    released = ""
    for one in reversed(asked):
        used = (one.used_ses, one.used_n) == (ses, n)
        if used:
            released = one.id
        if (one.ses, one.n) == (ses, n) or (used and (one.ses, one.n) != (ses, n - 1)):
            mine.append(one)
    return tuple(mine), released


def _asked_events(asked: ApprovalView, n: int) -> list[Event]:
    people = f"{asked.count} of group {asked.approvers}"
    text = f"{asked.id}: {asked.question} [rule {asked.rule}, {people}]"
    found = [Event(asked.asked_us, "question", text, n, rule=asked.rule, index=asked.index)]
    for one in asked.history:
        said = f"{asked.id}: {one.decision}" + (f" by {one.person}" if one.person else "")
        said += f": {one.reason}" if one.reason else ""
        found.append(
            Event(one.t_us, "decision", said, n, one.decision, asked.rule, one.person, one.index)
        )  # fmt: skip
    return found


# The evidence as files


def verifier() -> Path:
    """The stand-alone verifier that this release was made with. Raises Unavailable when the installation lacks it."""
    package = Path(muniment.__file__).resolve().parent
    for path in (package / "verifier" / "verify.py", package.parent.parent / "verifier" / "verify.py"):
        if path.is_file():
            return path
    raise Unavailable("verify.py is not in this installation", "take it from the release's source")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Unavailable(f"cannot read {path} ({error.strerror})", "start the gateway once") from error


def _tar(directory: Path) -> Iterator[bytes]:
    """Files as they stand, each no further than it reached when its turn came; lines are never cut.

    The history of checkpoints goes first, then the checkpoint, which is at least as new; every other file then holds
    at least what it covers.
    """
    first = [path for name in ("checkpoints.jsonl", "checkpoint") if (path := directory / "log" / name).exists()]
    others = sorted(path for path in directory.rglob("*") if path not in first and _is_evidence(path))
    for path in [*first, *others]:
        yield from _tar_file(path, str(path.relative_to(directory)))
    yield from _tar_file(verifier(), "verify.py")
    yield b"\0" * 1024


def _is_evidence(path: Path) -> bool:
    """Whether it is a file that is to be kept, and not one that only saves time or room, or is being written."""
    beside = path.parent.name == "journal" and path.suffix in (".mark", ".open", ".reserve")
    return path.is_file() and not path.is_symlink() and not beside and path.suffix not in (".new", ".tmp")


def _tar_file(path: Path, name: str) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return  # it was replaced or taken away meanwhile
    with file:
        size = _whole(file, name)
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o644, int(path.stat().st_mtime)
        yield info.tobuf(tarfile.PAX_FORMAT)
        file.seek(0)
        left = size
        while left and (data := file.read(min(COPY_BYTES, left))):
            left -= len(data)
            yield data
        # a file that was cut since (a torn line at a restart) is filled up, so that the stream stays readable
        yield b"\0" * (left + -size % 512)


def _whole(file: io.BufferedReader, name: str) -> int:
    """How much of a file to copy: all of it, or up to the end of its last whole line."""
    size = file.seek(0, io.SEEK_END)
    if not name.endswith(".jsonl"):
        return size
    start = max(0, size - COPY_BYTES)
    file.seek(start)
    return start + file.read(size - start).rfind(b"\n") + 1
