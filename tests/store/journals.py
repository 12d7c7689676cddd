"""Journals for tests: a clock, sample entries, and the checks that every journal must pass."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from muniment.model.entries import Request, Response, SessionClose, SessionOpen
from muniment.proof import canonical, commitment
from muniment.store import payloads
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.recovery import Recovery

INSTANCE = "i-00000001"
HOME = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{HOME / 'src'}:{HOME}"}  # for child processes: the same code as here


def ticks(start: int = 1_700_000_000_000_000) -> Callable[[], int]:
    """A clock that goes on by 1 ms at each look."""
    return itertools.count(start, 1000).__next__


@contextlib.contextmanager
def opened(evidence: Path, keys: Keys, **more: Any) -> Iterator[tuple[Journal, Recovery]]:
    """An open journal with a small reserve, closed at the end."""
    more = {"now_us": ticks(), "reserve_bytes": 1 << 16} | more
    journal, recovery = Journal.open(evidence, INSTANCE, keys, **more)
    try:
        yield journal, recovery
    finally:
        journal.close()


def opening(ses: str = "s-1") -> SessionOpen:
    return SessionOpen(ses=ses, identity="nightly-report", target="billing", sub="repo:acme/ci", source="10.2.0.7")


def request(n: int, ses: str = "s-1", decision: str = "allow", text: str = "select 1") -> Request:
    return Request(
        ses=ses,
        n=n,
        phase="execute",
        decision=decision,
        rule="reads-billing",
        rules=3,
        touches=("select relation public.invoices",),
        reader="pgparse-17",
        statement=text,
        parameters=b"\x00\x01",
    )


def response(*ns: int, ses: str = "s-1") -> Response:
    return Response(results=tuple(f"{ses}:{n}:ok:1:64::SELECT 1:" for n in ns))


def closing(ses: str = "s-1") -> SessionClose:
    return SessionClose(ses=ses, reason="client left", exchanges=3)


def lines_of(evidence: Path) -> list[bytes]:
    return (evidence / "journal" / f"{INSTANCE}.jsonl").read_bytes().splitlines()


def all_payloads(evidence: Path, keys: Keys) -> dict[int, payloads.Payload]:
    """Every payload by its line's number; the later one where a torn batch left one behind."""
    path = payloads.path_of(evidence, INSTANCE)
    with path.open("rb") as file:
        opener = payloads.Opener(file.fileno(), INSTANCE, keys)
        blocks = [block for block in payloads.walk(file.fileno(), 0, path.stat().st_size) if block.first]
        return {record.iseq: record for block in blocks for record in opener.records(block.offset)}


def check(evidence: Path, keys: Keys, lost: int = 0) -> list[dict[str, Any]]:
    """Every line is canonical, numbered densely, chained, in time, and opens to what it commits to (but for `lost`)."""
    data = (evidence / "journal" / f"{INSTANCE}.jsonl").read_bytes()
    assert not data or data.endswith(b"\n")
    found = []
    opened_payloads = all_payloads(evidence, keys)
    before, t_us = "", 0
    for number, raw in enumerate(data.splitlines(), 1):
        line = canonical.decode(raw)
        assert (line["iseq"], line["inst"], line["v"]) == (number, INSTANCE, 1)
        assert line.get("iprev", "") == before
        assert line["t"] >= t_us
        before, t_us = sha256(b"\0" + raw).hexdigest(), line["t"]
        payload = opened_payloads.get(number)
        if payload is None and "sd" in line:
            lost -= 1
        else:
            assert (payload.fields.keys() if payload else set()) == line.get("sd", {}).keys()
        for name, value in (payload.fields if payload else {}).items():
            salt = commitment.salt(payload.secret, name)
            commitment.verify(line["sd"][name], salt, commitment.LABEL, name, value)
        found.append(json.loads(raw))
    assert lost == 0
    return found
