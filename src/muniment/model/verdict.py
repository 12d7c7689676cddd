"""What is decided about an exchange, and how rows are masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from muniment.model.exchange import Action, Column, Parameter


class RowPlan:
    """How the rows of one result are masked. Made by `Masks.plan`, used by one result, then asked for `counts`.

    maskers: one per column, None where the column needs no call; a masker gets the value's bytes (never NULL) and
    returns the bytes to show, or None to show NULL. may_hit: a quick test on the raw bytes of many rows; False means
    that no masker that only detects can have anything to do in them; None: call the maskers for every row.
    counts: class -> values masked so far, by the maskers themselves.
    """

    __slots__ = ("counts", "maskers", "may_hit")

    def __init__(
        self,
        maskers: tuple[Callable[[bytes], bytes | None] | None, ...],
        may_hit: Callable[[bytes], bool] | None,
        counts: dict[str, int],
    ) -> None:
        self.maskers = maskers
        self.may_hit = may_hit
        self.counts = counts


class Masks(Protocol):
    """The masks of one session's target; protocol-free. Implemented by `judge.masking`."""

    def plan(self, columns: tuple[Column, ...], action: Action | None, nth: int) -> RowPlan | None:
        """Choose the maskers of a result. nth: which row-returning statement of the text this is.

        None: step over the rows. Columns without an origin are redacted unless `action.outputs[nth]` shows that
        nothing protected is beneath them.
        """

    def protects(self, action: Action) -> bool:
        """Whether the action touches a relation that has a protected column, or names one."""

    def tells(self, action: Action) -> bool:
        """Whether errors and notices of the action may hold protected values."""

    def closed(self, action: Action) -> str:
        """Why this action cannot be masked safely yet and must be refused before release; empty when it can."""

    def text(self, text: str) -> tuple[str, dict[str, int]]:
        """Replace the detectors' hits in a free text (statement, error, notice). Returns (text, hits per class)."""

    def parameters(self, parameters: tuple[Parameter, ...]) -> bool:
        """Whether a detector hits in a bound value."""

    @property
    def forgets(self) -> bool:
        """Whether originals are kept nowhere."""


@dataclass(frozen=True, slots=True)
class Allow:
    """Let it through. rule: the grant's name (or "basics"); masks: None where nothing is masked at this target.

    shown: the statement with its literals replaced, where its values must not be recorded; None: it may be recorded.
    """

    rule: str
    masks: Masks | None = None
    shown: str | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuse it. message: what the person who wrote the rule says; hint: what to do next."""

    rule: str
    message: str
    hint: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait for people. approvers: group; count: how many different people; within_s: how long the question stands."""

    rule: str
    question: str
    approvers: str
    count: int
    within_s: int
    grant: str = ""
    tell: tuple[str, ...] = field(default=())


Verdict = Allow | Deny | Hold
