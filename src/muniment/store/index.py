"""Finding things in the evidence: tables derived from log/records.jsonl, and the lines of a session read by them.

Nothing here is evidence: the tables can be thrown away, and are built again when the file is not the one that they were
read from. Requests and responses are not rows. A session's lines are found by scanning its stretch of the log, since an
insert for every query would cost more than the query's own work; what a session used is counted instead.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection

from muniment.model.errors import Unavailable
from muniment.proof import canonical
from muniment.store import payloads
from muniment.store.database import Database, marks, position, sessions, uses
from muniment.store.keys import Keys
from muniment.store.payloads import Payload
from muniment.store.replay import SyncedLine

CHUNK = 4 << 20  # of the log read at once
AFTER = 256 << 10  # of the log read behind a session's close: responses are written in batches
PAUSE_S = 0.1  # between two folds, so that a busy log is folded in batches
BUSY_PAUSE_S = 1.0  # the same behind one of MANY_BYTES
MANY_BYTES = 64 << 10  # of the log, about 100 lines
# Canonical JSON has sorted keys and escapes quotes within text, so these can match nothing but the line's own fields.
_REQUEST, _RESPONSE = b',"kind":"request"', b',"kind":"response"'
_OPENING = b',"kind":"session.open"'
_DECISION, _SES, _TOUCHES, _VERSION = b'"decision":"', b',"ses":"', b',"touches":[', b',"v":'


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session as the log has it. initiator: its kind; initiator_id, run: from the sealed payload; closed_us 0: open
    or never seen to close; requests: exchanges written so far."""

    ses: str
    inst: str
    identity: str
    target: str
    protocol: str
    role: str
    database: str
    initiator: str
    initiator_id: str
    run: str
    opened_us: int
    closed_us: int
    reason: str
    requests: int
    first_index: int
    first_offset: int
    last_offset: int


@dataclass(frozen=True, slots=True)
class Filters:
    """What sessions to list; an empty field takes everything. initiator: kind or id; since_us: opened at or after."""

    identity: str = ""
    initiator: str = ""
    run: str = ""
    target: str = ""
    verb: str = ""
    since_us: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Leaf:
    """One line of the log. fields: its readable part."""

    index: int
    hash: str
    fields: dict[str, Any]


_SESSION = [sessions.c[field.name] for field in fields(SessionRow)]


class Index:
    """Folds the log into the tables, and reads the log by them. Thread-safe; one folds, any number read."""

    def __init__(self, database: Database, evidence: Path, keys: Keys) -> None:
        self.evidence = evidence
        self.keys = keys
        self.failed = ""  # why the tables are behind; the evidence itself is not touched by that
        self._database = database
        self._records = evidence / "log" / "records.jsonl"
        self._places: dict[tuple[str, int], int] = {}  # (instance, line) of a session's opening -> its payload's offset
        self._folding = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Check that the tables belong to this log, build them again if not, and follow it from here on."""
        with self._folding:
            self._verify()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def expect(self, instance: str, lines: Sequence[SyncedLine]) -> None:
        """These lines will be in the log next: remember where the payloads of sessions' openings are. Without that they
        are looked for from the run's begin, at 2 us for every request since. Called from any thread."""
        for line in lines:
            if _OPENING in line.line:
                self._places[instance, line.iseq] = line.payload

    def wake(self) -> None:
        """There is more in the log. Costs nothing; called from any thread."""
        self._wake.set()

    def close(self) -> None:
        """Fold what is there, and stop."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            read = 0
            try:
                read = self.catch_up()
                self.failed = ""
            except Unavailable as error:
                self.failed = str(error)
            self._stopping.wait(BUSY_PAUSE_S if read > MANY_BYTES else PAUSE_S)

    def catch_up(self) -> int:
        """Fold everything that is in the log now. Returns its bytes. Raises Unavailable when the database or the file
        fails."""
        read = 0
        with self._folding:
            while more := self._fold():
                read += more
                if more < CHUNK - canonical.MAX_BYTES:
                    break
        return read

    def _verify(self) -> None:
        at = self._position()
        if at is None:
            return
        _, offset, tail = at
        try:
            with self._records.open("rb") as file:
                file.seek(max(0, offset - (64 << 10)))
                before = file.read(offset - file.tell())
        except OSError:
            before = b""
        last = before[:-1].rpartition(b"\n")[2]
        if not before.endswith(b"\n") or _leaf(last) != tail:
            with self._database.begin() as connection:
                for table in (sessions, uses, marks, position):
                    connection.execute(delete(table))

    def _position(self) -> tuple[int, int, str] | None:
        with self._database.read() as connection:
            row = connection.execute(select(position.c.next_index, position.c.offset, position.c.tail)).first()
        return (row[0], row[1], row[2]) if row else None

    def _fold(self) -> int:
        """Fold one chunk. Returns how many bytes; less than a chunk without its last line when there is no more."""
        index, offset, _ = self._position() or (0, 0, "")
        try:
            with self._records.open("rb") as file:
                file.seek(offset)
                data = file.read(CHUNK)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise Unavailable(f"cannot read {self._records} ({error.strerror})", "look after its disk") from error
        whole = data.rfind(b"\n") + 1
        if not whole:
            return 0
        batch = _Batch(index, offset)
        for line in data[:whole].split(b"\n")[:-1]:
            batch.take(line)
        with self._database.begin() as connection:
            batch.save(connection, self._secret)
            connection.execute(delete(position))
            tail = _leaf(batch.last)
            connection.execute(
                insert(position), {"id": 1, "next_index": batch.index, "offset": batch.offset, "tail": tail}
            )
        return whole

    def _secret(self, instance: str, iseq: int) -> dict[str, str]:
        """The sealed fields of one line; empty when they cannot be opened (the tables are then poorer, not wrong)."""
        try:
            payload = payloads.read(self.evidence, instance, self.keys, iseq, self._places.pop((instance, iseq), None))
        except Unavailable:
            return {}
        return {name: value.decode("utf-8", "replace") for name, value in payload.fields.items()} if payload else {}

    # Reading

    def sessions(self, filters: Filters) -> list[SessionRow]:
        """Sessions, newest first."""
        equal = {"identity": filters.identity, "run": filters.run, "target": filters.target}
        wanted: list[ColumnElement[bool]] = [sessions.c[name] == value for name, value in equal.items() if value]
        if filters.initiator:
            wanted.append((sessions.c.initiator == filters.initiator) | (sessions.c.initiator_id == filters.initiator))
        if filters.since_us:
            wanted.append(sessions.c.opened_us >= filters.since_us)
        if filters.verb:
            with_verb = select(uses.c.ses).where(uses.c.touch.startswith(f"{filters.verb} ", autoescape=True))
            wanted.append(sessions.c.ses.in_(with_verb))
        query = select(*_SESSION).where(*wanted).order_by(sessions.c.opened_us.desc(), sessions.c.first_index.desc())
        with self._database.read() as connection:
            return [SessionRow(**row._mapping) for row in connection.execute(query.limit(filters.limit))]

    def session(self, ses: str) -> SessionRow | None:
        """One session."""
        with self._database.read() as connection:
            row = connection.execute(select(*_SESSION).where(sessions.c.ses == ses)).first()
            return SessionRow(**row._mapping) if row else None

    def used(self, ses: str) -> list[tuple[str, str, int]]:
        """What a session asked for: ("verb kind name", decision, how often)."""
        with self._database.read() as connection:
            query = select(uses.c.touch, uses.c.decision, uses.c.count).where(uses.c.ses == ses)
            return [(row[0], row[1], row[2]) for row in connection.execute(query.order_by(uses.c.touch))]

    def indexes(self, hashes: Collection[str]) -> dict[str, int]:
        """The log indexes of these leaf hashes; those that are not in the log yet are left out."""
        with self._database.read() as connection:
            query = select(marks.c.leaf, marks.c.index).where(marks.c.leaf.in_(hashes))
            return {row[0]: row[1] for row in connection.execute(query)}

    def leaf(self, leaf_hash: str) -> Leaf | None:
        """The line with this hash, where it is neither a request nor a response."""
        with self._database.read() as connection:
            query = select(marks.c.index, marks.c.offset).where(marks.c.leaf == leaf_hash)
            row = connection.execute(query).first()
        if row is None:
            return None
        with self._records.open("rb") as file:
            file.seek(row[1])
            line = file.readline().rstrip(b"\n")
        return Leaf(row[0], _leaf(line), json.loads(line))

    def lines(self, row: SessionRow) -> Iterator[Leaf]:
        """Every line of a session, in order, and the responses that tell of it. Reads the session's whole stretch."""
        mine, told = f'"ses":"{row.ses}"'.encode(), f'"{row.ses}:'.encode()
        index, offset = row.first_index, row.first_offset
        end = row.last_offset + AFTER if row.last_offset else 1 << 62
        with self._records.open("rb") as file:
            file.seek(offset)
            while offset < end:
                data = file.read(min(CHUNK, end - offset))
                whole = data.rfind(b"\n") + 1
                if not whole:
                    return
                for line in data[:whole].split(b"\n")[:-1]:
                    if mine in line or told in line:
                        yield Leaf(index, _leaf(line), json.loads(line))
                    index += 1
                offset += whole
                file.seek(offset)

    def payloads(self, instance: str, iseqs: Collection[int]) -> dict[int, Payload]:
        """The sealed fields of many lines of one instance, in one walk. Raises Unavailable."""
        wanted = set(iseqs)
        if not wanted:
            return {}
        return {payload.iseq: payload for payload in _payloads(self.evidence, instance, self.keys, wanted)}


class _Batch:
    """What a chunk of the log changes in the tables."""

    def __init__(self, index: int, offset: int) -> None:
        self.index = index
        self.offset = offset
        self.last = b""
        self._marks: list[dict[str, Any]] = []
        self._opened: list[tuple[dict[str, Any], int, int]] = []  # (line, its index, its offset)
        self._closed: list[tuple[dict[str, Any], int]] = []  # (line, offset behind it)
        self._requests: dict[tuple[bytes, bytes, bytes], int] = {}  # see _request

    def take(self, line: bytes) -> None:
        """One line. About 2 us for a request, of which there are many."""
        if _REQUEST in line:
            request = _request(line)
            self._requests[request] = self._requests.get(request, 0) + 1
        elif _RESPONSE not in line:
            leaf = json.loads(line)
            kind = str(leaf.get("kind", ""))
            self._marks.append({"leaf": _leaf(line), "index": self.index, "kind": kind, "offset": self.offset})
            if kind == "session.open":
                self._opened.append((leaf, self.index, self.offset))
            elif kind == "session.close":
                self._closed.append((leaf, self.offset + len(line) + 1))
        self.last = line
        self.index += 1
        self.offset += len(line) + 1

    def save(self, connection: Connection, secret: Callable[[str, int], dict[str, str]]) -> None:
        """Write it all. secret: the sealed fields of (instance, iseq)."""
        if self._marks:
            connection.execute(upsert(marks).on_conflict_do_nothing(), self._marks)
        for leaf, index, offset in self._opened:
            hidden = secret(leaf["inst"], leaf["iseq"])
            row = {name: str(leaf.get(name, "")) for name in
                   ("ses", "inst", "identity", "target", "protocol", "role", "database", "initiator")}  # fmt: skip
            row |= {"initiator_id": hidden.get("initiator_id", ""), "run": hidden.get("run", "")}
            numbers = {"opened_us": leaf["t"], "first_index": index, "first_offset": offset}
            connection.execute(upsert(sessions).on_conflict_do_nothing(), {**row, **numbers})
        self._count(connection)
        for leaf, behind in self._closed:
            values = {"closed_us": leaf["t"], "reason": str(leaf.get("reason", "")), "last_offset": behind}
            connection.execute(update(sessions).where(sessions.c.ses == leaf.get("ses")).values(**values))

    def _count(self, connection: Connection) -> None:
        totals: Counter[str] = Counter()
        used: Counter[tuple[str, str, str]] = Counter()
        for (ses, decision, touches), count in self._requests.items():
            totals[ses.decode()] += count
            for touch in json.loads(b"{" + touches + b"}").get("touches", ()):
                used[ses.decode(), str(touch), decision.decode()] += count
        for name, count in totals.items():
            more = sessions.c.requests + count
            connection.execute(update(sessions).where(sessions.c.ses == name).values(requests=more))
        if used:
            statement = upsert(uses)
            statement = statement.on_conflict_do_update(
                index_elements=["ses", "touch", "decision"], set_={"count": uses.c.count + statement.excluded.count}
            )
            rows = [{"ses": s, "touch": t, "decision": d, "count": count} for (s, t, d), count in used.items()]
            connection.execute(statement, rows)


def _request(line: bytes) -> tuple[bytes, bytes, bytes]:
    """(session, decision, the fields from touches on as JSON without braces) of a request's line."""
    head, _, rest = line.partition(_SES)
    ses, _, rest = rest.partition(b'"')
    _, touches, rest = rest.partition(_TOUCHES)
    at = head.find(_DECISION) + len(_DECISION)
    shown = touches[1:] + rest[: rest.find(_VERSION)] if touches else b""
    return ses, head[at : head.find(b'"', at)], shown


def _leaf(line: bytes) -> str:
    """RFC 6962 leaf hash, hex."""
    return sha256(b"\0" + line).hexdigest()


def _payloads(evidence: Path, instance: str, keys: Keys, wanted: set[int]) -> Iterator[Payload]:
    path = payloads.path_of(evidence, instance)
    try:
        file = path.open("rb")
    except OSError as error:
        raise Unavailable(f"cannot read {path} ({error.strerror})", "restore the file from a copy") from error
    with file:
        number = file.fileno()
        end = file.seek(0, 2)
        opener = payloads.Opener(number, instance, keys)
        last = max(wanted)
        for block in payloads.walk(number, payloads.segment_before(number, end, min(wanted)), end):
            if block.first > last:
                return
            if block.first and not wanted.isdisjoint(range(block.first, block.last + 1)):
                yield from (payload for payload in opener.records(block.offset) if payload.iseq in wanted)
