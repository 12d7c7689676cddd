"""The bench's own instruments: a figure is only as good as what measured it."""

from __future__ import annotations

import subprocess
import sys

from bench import peers, report, steps
from bench.cpu import cpu_s, descendants
from bench.load import Sample
from bench.report import Row

from muniment.judge import manifests

BUSY = "import time\nend = time.process_time() + {s}\nwhile time.process_time() < end: pass\n"


def test_cpu_counts_threads_children_and_children_that_have_ended() -> None:
    inner = BUSY.format(s=0.2)
    script = (
        f"import subprocess, sys, threading\n"
        f"subprocess.run([sys.executable, '-c', {inner!r}])\n"  # ended and waited for
        f"child = subprocess.Popen([sys.executable, '-c', {inner + 'input()'!r}], stdin=subprocess.PIPE)\n"
        f"t = threading.Thread(target=exec, args=({inner!r}, {{}})); t.start(); t.join()\n"
        f"print('ready', flush=True); input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while cpu_s(process.pid) < 0.55:  # the live child may still be at it
            assert process.poll() is None
        assert len(descendants(process.pid)) == 2
        assert cpu_s(process.pid) < 2
        process.kill()


def test_the_ratio_compares_within_a_round_so_that_a_slow_round_does_not_tilt_it() -> None:
    row = Row("case", {
        "direct": [Sample(9, 0.0)] * 3,
        "pgbouncer": [Sample(5, 10.0), Sample(2, 40.0), Sample(5, 10.0)],
        "gateway, plain": [Sample(4, 20.0), Sample(1, 80.0), Sample(4, 20.0)],
    })  # fmt: skip
    text = report.table([row], ["direct", "pgbouncer", "gateway, plain"], unit="us a query", rate="queries/s")
    assert text.splitlines()[-1].endswith("| **20.0** (20.0–80.0) | **2.0×** |")


def test_a_steps_cost_is_divided_by_the_queries_that_one_call_stands_for() -> None:
    one, ten = (steps.cost_us(lambda queries=queries: (lambda: sum(range(2000)), queries)) for queries in (1, 10))
    assert 5 < one / ten < 20


def test_the_manifests_that_the_bench_writes_are_accepted_whole() -> None:
    ports = {"port": 5432, "plain": 1, "masked": 2}
    text = peers.MANIFESTS.format(identity="bench", host="127.0.0.1", role="report_ro", database="bench", **ports)
    rules = manifests.parse([("bench.yaml", text)], 1)
    assert {target.name: target.listen_port for target in rules.targets.values()} == {"plain": 1, "masked": 2}
    assert rules.masks["cardholder-data"].detect
