"""`python -m bench`: measure, and write bench/RESULTS.md. See --help."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.live import servers

from bench import load, peers, query, report, steps
from bench.load import Case, Sample
from bench.peers import Peer
from bench.report import Row

HOW = """\
CPU is the proxy's own (user and system, with its threads and helper processes), as the kernel counts it; logging in is
measured apart and taken out. Judge the ratios, not the digits.
"""
QUIET = {"log_statement": "none", "log_connections": "off"}
RESULTS = Path(__file__).with_name("RESULTS.md")
CASES = tuple(
    Case(mode, clients, tls) for mode in ("simple", "prepared") for tls in (False, True) for clients in (1, 8)
)


def main(arguments: list[str]) -> int:
    """Measure what was asked for, print it, and write RESULTS.md when everything was measured."""
    asked = _arguments(arguments)
    if asked.steps:
        print(steps.table())
        return 0
    with ExitStack() as stack:
        cluster = stack.enter_context(servers.running(servers.debian(), databases=(load.DATABASE,), more=QUIET))
        size = load.prepare(cluster, large=not asked.no_large)
        bouncer = peers.Bouncer.start(cluster)
        stack.callback(bouncer.stop)
        measured = [peers.direct(cluster), bouncer.peer]
        if asked.gateway:
            gateway = peers.Gateway.start(cluster, asked.gateway)
            stack.callback(gateway.stop)
            measured += [gateway.plain, gateway.masked]
        wanted = [case for case in CASES if asked.only in case.name]
        small = [
            _rounds(case.name, measured, asked.rounds, lambda peer, case=case: load.queries(peer, case, asked.seconds))
            for case in wanted
        ]
        large = [
            _rounds(
                f"{size / 1e6:.0f} MB, {'TLS' if tls else 'no TLS'}",
                measured,
                asked.rounds,
                lambda peer, tls=tls: load.large_result(peer, size, tls=tls),
            )
            for tls in (False, True)
            if size
        ]
        postgres = "PostgreSQL " + cluster.sql("SHOW server_version", database=load.DATABASE).split()[0]
        command = shlex.join(["python", "-m", "bench", *arguments])
        facts = report.facts(postgres, command, asked.rounds, asked.seconds)
        text = _text(small, large, [peer.name for peer in measured], facts)
        print(text)
        if asked.write:
            RESULTS.write_text(text, "utf-8")
    return 0


def _rounds(name: str, measured: list[Peer], rounds: int, measure: Callable[[Peer], Sample]) -> Row:
    """Every peer in turn, `rounds` times: what the machine does meanwhile hits them all."""
    row = Row(name, {peer.name: [] for peer in measured})
    for nth in range(rounds):
        for peer in measured:
            _progress(f"{name}: round {nth + 1} of {rounds}, {peer.name}")
            row.samples[peer.name].append(measure(peer))
    _progress("")
    return row


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _text(small: list[Row], large: list[Row], names: list[str], facts: str) -> str:
    parts = [
        "# What the gateway costs\n",
        facts,
        HOW,
        "## One prepared query, step by step\n",
        query.__doc__ or "",
        steps.table(),
    ]
    if small:
        parts += ["## pgbench -S\n", report.table(small, names, unit="us a query", rate="queries/s")]
    if large:
        parts += ["## One large result\n", report.table(large, names, unit="s a GB", rate="MB/s")]
    return "\n".join(parts)


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--gateway", default="muniment serve -c {config}", help="its command; empty: leave it out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of one pgbench run")
    parser.add_argument("--only", default="", help="cases whose name holds this text, as 'prepared, 8'")
    parser.add_argument("--no-large", action="store_true", help="leave the large result out")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument("--steps", action="store_true", help="only the microseconds of each step, measured alone")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
