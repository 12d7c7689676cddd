"""`python -m bench --steps`: microseconds of CPU that each step of one query takes, measured alone.

A step registers itself here with `step`; its function prepares whatever it needs and returns what is to be timed and
how many queries one call of it stands for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Prepared = tuple[Callable[[], object], int]
STEPS: dict[str, Callable[[], Prepared]] = {}
LEAST_S = 0.5
ROUNDS = 5


def step(name: str) -> Callable[[Callable[[], Prepared]], Callable[[], Prepared]]:
    """Register a step under the name that the table shows."""

    def register(prepare: Callable[[], Prepared]) -> Callable[[], Prepared]:
        STEPS[name] = prepare
        return prepare

    return register


def cost_us(prepare: Callable[[], Prepared]) -> float:
    """CPU of one query's share in microseconds: the best of some rounds, each at least LEAST_S long."""
    run, queries = prepare()
    run()
    best = float("inf")
    for _ in range(ROUNDS):
        calls, start = 0, time.process_time()
        while (spent := time.process_time() - start) < LEAST_S / ROUNDS:
            for _ in range(20):
                run()
            calls += 20
        best = min(best, spent / (calls * queries))
    return best * 1e6


def table() -> str:
    """A Markdown table of every registered step."""
    lines = ["| step | us of CPU a query |", "|---|---|"]
    lines += [f"| {name} | {cost_us(prepare):.2f} |" for name, prepare in STEPS.items()]
    return "\n".join(lines) + "\n"
