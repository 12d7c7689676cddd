"""The three ways in which something that is not our bug can go wrong."""

from __future__ import annotations

from dataclasses import dataclass

from muniment.model.effects import Side


class ProtocolError(Exception):
    """The peer on `side` broke its language. The connection closes, and it is told so in that language."""

    def __init__(self, side: Side, what: str) -> None:
        super().__init__(f"{side.value}: {what}")
        self.side = side
        self.what = what


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that a person must edit. where: "file:line" or a field's name; mend: what to write instead."""

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    mend: {self.mend}"


class ConfigError(Exception):
    """A person must edit something; carries every problem found, not only the first."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Unavailable(Exception):
    """Something that we need is down or full; refuse the work, say what and what to do."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(f"{what}: {mend}" if mend else what)
        self.what = what
        self.mend = mend
