"""How much room the store has left, and what that allows."""

from __future__ import annotations

import os
from enum import IntEnum
from pathlib import Path

from muniment.model.errors import Unavailable

ALARM_BELOW = 0.20  # tell the operators: about the last day on a disk that fills in a week
NO_SESSIONS_BELOW = 0.10  # what is left is kept for the sessions that are open, and for their ends


class Level(IntEnum):
    """What may still be begun; higher is worse."""

    FINE = 0
    ALARM = 1
    NO_NEW_SESSIONS = 2


def level(free: float) -> Level:
    """The level for a free fraction (0 to 1) of the file system."""
    if free < NO_SESSIONS_BELOW:
        return Level.NO_NEW_SESSIONS
    if free < ALARM_BELOW:
        return Level.ALARM
    return Level.FINE


def fraction(free: int, used: int) -> float:
    """Free of what this user could ever have; 1.0 where the file system does not count (both 0)."""
    return free / (free + used) if free + used > 0 else 1.0


def free_fraction(path: Path) -> float:
    """The smaller of the free fractions of blocks and of inodes at `path`, as `df` counts them for this user.

    Raises Unavailable if the path is gone: what cannot be measured is not taken for free.
    """
    try:
        found = os.statvfs(path)
    except OSError as error:
        raise Unavailable(f"cannot measure free space at {path} ({error.strerror})", "mount or make it") from error
    return min(
        fraction(found.f_bavail, found.f_blocks - found.f_bfree),
        fraction(found.f_favail, found.f_files - found.f_ffree),
    )
