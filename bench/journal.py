"""What one append to the journal costs: `python -m bench.journal`.

CPU time of the process (its two threads and the kernel's part of the writes included), the best of many short runs, so
that a neighbour on the machine shows little. The yardstick is one SHA-256 of 64 bytes, of which a request with two
committed fields needs eleven: compare ratios between machines, not digits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from muniment.model.entries import Request, Response, SessionOpen
from muniment.store.journal import Journal
from muniment.store.keys import Keys

RUNS, EACH = 150, 200


def request(n: int, parameters: bytes) -> Request:
    """A point query as pgbench -S makes it."""
    return Request(
        ses="s-0123456789abcdef",
        n=n,
        phase="execute",
        decision="allow",
        rule="nightly-report-reads-billing",
        rules=3,
        touches=("select relation public.pgbench_accounts",),
        reader="pgparse-17",
        statement="SELECT abalance FROM pgbench_accounts WHERE aid = $1;",
        parameters=parameters,
    )


def best(work: Callable[[], object], each: int = EACH) -> float:
    """Microseconds of CPU for one `work`, in the quietest of the runs."""
    found = []
    for _ in range(RUNS):
        start = time.process_time_ns()
        for _ in range(each):
            work()
        found.append((time.process_time_ns() - start) / each / 1000)
    return min(found)


def main() -> None:
    """Print one line a case."""
    with tempfile.TemporaryDirectory() as home:
        keys = Keys.open(Path(home) / "keys")
        journal, _ = Journal.open(Path(home) / "evidence", "i-00000001", keys, now_us=lambda: time.time_ns() // 1000)
        journal.add_sink(lambda _: None)
        journal.append([SessionOpen(ses="s-0123456789abcdef")])
        one, two = request(7, b""), request(7, b"\x00\x00\x00\x05hello")
        done = Response(results=("s-0123456789abcdef:7:ok:1:64::SELECT 1:",))
        full = Response(results=done.results * 64)
        message = bytes(64)
        for name, figure in (
            ("yardstick: SHA-256 of 64 bytes", best(lambda: sha256(message).digest(), 2000)),
            ("append([request]), 1 committed field", best(lambda: journal.append([one]))),
            ("append([request]), 2 committed fields", best(lambda: journal.append([two]))),
            ("append of 20 requests, each", best(lambda: journal.append([two] * 20), EACH // 20) / 20),
            ("append([response]), 1 result", best(lambda: journal.append([done]))),
            ("append([response]), 64 results, each", best(lambda: journal.append([full]), 10) / 64),
        ):
            print(f"{name:42}{figure:8.2f} us")
        journal.close()


if __name__ == "__main__":
    main()
