"""The steps of one prepared query, each alone: what `python -m bench --steps` lists.

They are measured hot, one after the other in a loop; under a real load the same code costs about twice as much, since
clients and server run on the same cores in between.
"""

from __future__ import annotations

import atexit
import shutil
import struct
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from bench.steps import Prepared, step
from muniment.model.effects import Ask, Side
from muniment.model.entries import Request, SessionOpen
from muniment.model.exchange import Action, Catalog, Parameter
from muniment.model.verdict import Allow
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.conversation import Conversation
from muniment.protocols.postgres.meaning import Names
from muniment.services import leaves
from muniment.store.index import _Batch
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.log import Log
from muniment.store.recordings import Recorder, path_of
from muniment.store.replay import SyncedLine

TEXT = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;"
READY = b"Z\0\0\0\5I"
PARSE = frames.frame(b"P", b"P0\0" + TEXT.encode() + b"\0\0\0") + frames.SYNC
ASKED = (
    frames.frame(b"B", b"\0P0\0\0\0\0\1\0\0\0\00512345\0\1\0\0")
    + frames.frame(b"D", b"P\0")
    + frames.execute("")
    + frames.SYNC
)
COLUMN = b"\0\1abalance\0" + struct.pack("!ihihih", 20001, 3, 23, 4, -1, 0)
ANSWER = b"".join(
    frames.frame(kind, body)
    for kind, body in ((b"2", b""), (b"T", COLUMN), (b"D", b"\0\1\0\0\0\0010"), (b"C", b"SELECT 1\0"))
)
SES = "s-0123456789abcdef"
LINE = Request(
    ses=SES, n=1, phase="execute", decision="allow", rule="reads", rules=1, reader="pgparse-17", statement=TEXT,
    touches=("select relation public.pgbench_accounts",), parameters=b"[]",
)  # fmt: skip


def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="muniment-steps-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


@step("yardstick: SHA-256 of 64 bytes")
def yardstick() -> Prepared:
    message = bytes(64)
    return lambda: sha256(message).digest(), 1


@step("conversation: Bind to Sync, the ruling, the reply")
def conversation() -> Prepared:
    catalog = Catalog("bench", 1, 0)
    talk = Conversation(Names(catalog, ("pg_catalog", "public")), READY[-1], 1)
    verdict, action = Allow("reads"), Action(touches=(), reads_only=True)

    def exchange(said: bytes, answer: bytes) -> None:
        (ask,) = talk.received(Side.CLIENT, said)
        assert isinstance(ask, Ask)
        talk.ruled(ask.ticket, verdict, action)
        talk.received(Side.TARGET, answer)

    exchange(PARSE, frames.frame(b"1", b"") + READY)
    return lambda: exchange(ASKED, ANSWER + READY), 1


@step("parameters as the record holds them")
def parameters() -> Prepared:
    bound = (Parameter(23, False, b"12345"),)
    return lambda: leaves.parameters(bound), 1


def _journal(home: Path) -> Journal:
    keys = Keys.open(home / "keys")
    journal, _ = Journal.open(home / "evidence", "i-00000001", keys, now_us=lambda: time.time_ns() // 1000)
    atexit.register(journal.close)
    journal.append([SessionOpen(ses=SES)])
    return journal


@step("journal: commitments, seal, two writes, its share of the syncs")
def append() -> Prepared:
    journal = _journal(_home())
    again = journal.again(LINE)
    assert again is not None
    statement, bound = TEXT.encode(), leaves.parameters((Parameter(23, False, b"12345"),))
    return lambda: journal.append_again(again, 2, statement, bound), 1


@step("recording: two frames, compressed and sealed")
def recording() -> Prepared:
    home = _home()
    recorder = Recorder(path_of(home, SES), Keys.open(home / "keys"), ses=SES)
    answer = ANSWER + READY

    def both() -> None:
        t_us = time.time_ns() // 1000
        recorder.write(t_us, 0, ASKED)
        recorder.write(t_us, 1, answer)
        if recorder.behind:
            time.sleep(0.01)

    return both, 1


def _lines(count: int) -> list[SyncedLine]:
    home = _home()
    journal = _journal(home)
    offered: list[SyncedLine] = []
    journal.add_sink(offered.extend)
    journal.append([LINE] * count)
    journal.flush()
    return offered


@step("log: folding a line")
def fold() -> Prepared:
    home = _home()
    log = Log.open(home / "evidence", "bench.example.org", 2026, Keys.open(home / "keys"))
    lines = _lines(1000)
    last = 0

    def thousand() -> None:
        nonlocal last
        fresh = [line._replace(iseq=last + at) for at, line in enumerate(lines, 1)]
        last += 1000
        log.fold_synced("i-00000001", fresh)

    return thousand, 1000


@step("index: reading a line")
def index() -> Prepared:
    lines = [line.line for line in _lines(1000)]

    def thousand() -> None:
        batch = _Batch(0, 0)
        for line in lines:
            batch.take(line)

    return thousand, 1000
