"""The table in RESULTS.md: medians, ranges, ratios, and the facts without which a figure says nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.load import Sample


@dataclass(frozen=True, slots=True)
class Row:
    """One case: peer's name -> its samples of every round."""

    case: str
    samples: dict[str, list[Sample]]


def table(rows: Sequence[Row], peers: Sequence[str], *, unit: str, rate: str) -> str:
    """A Markdown table. unit: of CPU ("us a query"); rate: of speed ("queries/s")."""
    proxies = [peer for peer in peers if peer != "direct"]
    base = "pgbouncer"
    head = ["case", *(f"{peer}, {rate}" for peer in peers), *(f"{peer}, CPU {unit}" for peer in proxies)]
    head += [f"{peer} / {base}" for peer in proxies if peer != base]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row.case]
        cells += [f"{median(s.per_s for s in row.samples[peer]):,.0f}" for peer in peers]
        cells += [_spread([s.cpu for s in row.samples[peer]]) for peer in proxies]
        cells += [_ratio(row, peer, base) for peer in proxies if peer != base]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def facts(postgres: str, command: str, rounds: int, seconds: int) -> str:
    """What the figures were measured on and with. No host name, no path."""
    return (
        f"Made by `{command}`: {rounds} rounds of every case and peer in turn, {seconds} s each; medians, with the"
        f" smallest and\nlargest in brackets. Machine: {os.cpu_count()} shared cores ({platform.machine()}),"
        f" {platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()},\n"
        f"{postgres}, {_pgbouncer()}. Clients, server and proxies share the cores.\n"
    )


def _spread(values: list[float]) -> str:
    return f"**{median(values):.1f}** ({min(values):.1f}–{max(values):.1f})"


def _ratio(row: Row, peer: str, base: str) -> str:
    """The median of the rounds' own ratios: what slows one round slows both."""
    pairs = [(a.cpu, b.cpu) for a, b in zip(row.samples[peer], row.samples[base], strict=True) if b.cpu]
    return f"**{median(a / b for a, b in pairs):.1f}×**" if pairs else "–"


def _pgbouncer() -> str:
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin") or "pgbouncer"
    return subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split("\n", 1)[0]
