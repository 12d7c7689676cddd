"""What a conversation wants done: effects in steady state, steps during a login."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from muniment.model.exchange import Outcome, Statement
from muniment.model.records import record


class Side(Enum):
    """The two ends of a conversation."""

    CLIENT = "client"
    TARGET = "target"


@record
class Send:
    """Write to `side`.

    original: what the target had sent where `data` shows it masked; recorded: what the recording holds in the place of
    `data`, where a request has values in it that the record must not show; None: the recording holds `data`.
    """

    side: Side
    data: bytes
    original: bytes | None = None
    recorded: bytes | None = None


@record
class Ask:
    """Have this statement judged; answered by `ruled(ticket, verdict, action)`."""

    ticket: int
    statement: Statement


@dataclass(frozen=True, slots=True)
class Look:
    """Have unknown relation ids looked up, with the target paused; answered by `found(ticket, names)`."""

    ticket: int
    ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The client no longer wants the answer to this ticket (cancel, hang-up)."""

    ticket: int


@record
class Done:
    """This exchange has ended."""

    ticket: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask the target to cancel what runs now, and release nothing to it until that is over."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the session. reason: for the record."""

    reason: str


Effect = Send | Ask | Look | Withdraw | Done | Cancel | Close


@dataclass(frozen=True, slots=True)
class Read:
    """Give me exactly `size` bytes from `side`."""

    side: Side
    size: int


@dataclass(frozen=True, slots=True)
class Secure:
    """Speak TLS on `side` from here on. Answered with a word on what was negotiated, or empty where not available."""

    side: Side


@dataclass(frozen=True, slots=True)
class Authorize:
    """Check what the client presented. Answered with `Admission | Refusal`."""

    user: str
    secret: str
    database: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the admitted target. Answered with its address as text."""


@dataclass(frozen=True, slots=True)
class Unlock:
    """Answered with the target's secret as text, empty where it needs none."""


Step = Read | Send | Secure | Authorize | Dial | Unlock
