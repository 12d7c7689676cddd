"""How the walk is printed: a heading, the command that a person would type, what came back, and whether that held."""

from __future__ import annotations

import os
from collections.abc import Collection

from rich.console import Console
from rich.text import Text

from muniment.doors.cli.output import clean

WIDTH = 110


class Teller:
    """Prints, and keeps count of what held. failed: what did not, as printed."""

    def __init__(self, console: Console | None = None) -> None:
        given = os.environ.get("COLUMNS", "")
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.width = (
            int(given) if given.isdigit() else min(self.console.width, WIDTH) if self.console.is_terminal else WIDTH
        )
        self.held = 0
        self.failed: list[str] = []
        self._heading = ""

    def heading(self, number: int, title: str, why: str = "") -> None:
        """A step begins."""
        self._heading = f"{number}. {title}"
        line = "─" * max(4, self.width - len(self._heading) - 4)
        self.console.print()
        self.console.print(Text.assemble(("── ", "blue"), (self._heading, "bold"), (f" {line}", "blue")))
        if why:
            self.console.print(Text(why, "dim"))

    def note(self, text: str) -> None:
        """A line in our own words."""
        self.console.print(Text(clean(text), "dim"))

    def title(self, text: str) -> None:
        """A line that stands out."""
        self.console.print(Text(text, "bold"))

    def command(self, text: str) -> None:
        """What a person would type; more lines are its input."""
        first, *rest = text.split("\n")
        self.console.print()
        self.console.print(Text.assemble(("$ ", "bold blue"), (first, "bold")))
        for line in rest:
            self.console.print(Text("  " + line, "bold"))

    def output(self, text: str, style: str = "") -> None:
        """What came back, whatever is in it."""
        for line in clean(text.strip("\n")).split("\n"):
            self.console.print(Text.assemble(("│ ", "blue"), (line, style)))

    def expect(self, what: str, held: bool, *, wanted: str = "", got: str = "") -> bool:
        """Whether an expectation held; returns it."""
        if held:
            self.held += 1
            self.console.print(Text.assemble(("✓ ", "bold green"), (what, "green")))
        else:
            self.failed.append(f"{self._heading}: {what}")
            self.console.print(Text.assemble(("FAILED ", "bold red"), (what, "red")))
            if wanted:
                self.console.print(Text(f"       expected {clean(wanted)}", "red"))
            if got:
                self.console.print(Text(f"       got      {clean(_short(got))}", "red"))
        return held

    def has(self, what: str, text: str, *parts: str) -> bool:
        """Expect every part in a text."""
        missing = [part for part in parts if part not in text]
        return self.expect(what, not missing, wanted=" and ".join(map(repr, missing)), got=text)

    def has_none(self, what: str, text: str, parts: Collection[str]) -> bool:
        """Expect none of these in a text."""
        found = [part for part in parts if part in text]
        return self.expect(what, not found, wanted="none of the originals", got=", ".join(found))

    def summary(self) -> bool:
        """The last lines; returns whether all held."""
        self.console.print()
        self.console.print(Text("─" * self.width, "blue"))
        total = self.held + len(self.failed)
        if not self.failed:
            self.console.print(Text(f"All {total} expectations held.", "bold green"))
            return True
        self.console.print(Text(f"{len(self.failed)} of {total} expectations FAILED:", "bold red"))
        for line in self.failed:
            self.console.print(Text(f"  - {clean(line)}", "red"))
        return False


def _short(text: str) -> str:
    text = " / ".join(line.strip() for line in text.strip().splitlines() if line.strip())
    return text if len(text) <= 600 else text[:600] + " ..."
