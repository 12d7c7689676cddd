"""CPU time of a process and all its descendants, as the kernel counts it. Linux only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")  # 10 ms on most machines: measure seconds, not milliseconds


def descendants(pid: int) -> list[int]:
    """`pid` and every process below it that lives now."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # one that ends meanwhile is no error: glob looks at each
        with contextlib.suppress(OSError):
            parents.setdefault(int(_fields(Path(f"/proc/{name}/stat"))[1]), []).append(int(name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def cpu_s(pid: int) -> float:
    """User and system CPU of `pid`, its threads, its descendants, and those of them that ended and were waited for."""
    total = 0
    for each in descendants(pid):
        with contextlib.suppress(OSError):
            total += sum(int(ticks) for ticks in _fields(Path(f"/proc/{each}/stat"))[11:15])
    return total * TICK_S


def peak_mb(pid: int) -> float:
    """The largest resident memory so far, summed over `pid` and its living descendants."""
    total = 0
    for each in descendants(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
    return total / 1024


def _fields(stat: Path) -> list[str]:
    """The fields from the third on: a program's name (the second) may hold spaces and brackets."""
    return stat.read_text().rpartition(")")[2].split()
