"""How the command line speaks: plain words, tables, JSON; and text of strangers that cannot move the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from muniment.doors.cli.client import Address, Client, Failure, address
from muniment.model.errors import ConfigError, Unavailable

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Api = Annotated[str | None, typer.Option("--api", help="unix:PATH or HOST:PORT of the gateway's API [MUNIMENT_API].")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="The API's token, for HOST:PORT.")]

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
F = TypeVar("F", bound=Callable[..., Any])
_chosen: list[Address] = []


def choose(api: str | None, token_file: Path | None) -> None:
    """Remember where the API is, for the commands that need it."""
    _chosen[:] = [address(api, token_file)] if api or token_file else []


def client() -> Client:
    """The client of this command."""
    return Client(_chosen[0] if _chosen else address(None, None))


def speaks(command: F) -> F:
    """A command whose failures are told in words, with exit code 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Failure as failure:
            complain(failure.what if not failure.problems else "", failure.mend, failure.problems)
        except ConfigError as error:
            complain("", "", tuple(str(problem) for problem in error.problems))
        except Unavailable as error:
            complain(error.what, error.mend)
        raise typer.Exit(1)

    return run  # type: ignore[return-value]


def complain(what: str, mend: str = "", problems: Sequence[str] = ()) -> None:
    """Say what is wrong, on standard error."""
    for problem in problems:
        errors.print(Text(clean(problem)))
    if problems:
        errors.print(
            Text(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; nothing was changed", "bold red")
        )
    if what:
        errors.print(Text.assemble(("error: ", "bold red"), clean(what)))
    if mend and not problems:
        errors.print(Text(f"  mend: {clean(mend)}"))


def print_json(value: Any) -> None:
    """JSON on standard output, untouched by the terminal's width."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def print_json_line(value: Any) -> None:
    """One JSON object on one line, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """A line or more; nothing in it is taken as markup or as a control character."""
    console.print(Text(clean(text), style))


def clean(text: str) -> str:
    """Text in which everything that does not print (control characters, escapes, direction marks) is shown as code."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "    " if letter == "\t" else _code(letter)
        for letter in text
    )  # fmt: skip


def _code(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Rows under headings; `empty` where there are none."""
    listed = [[clean(str(cell)) for cell in row] for row in rows]
    if not listed:
        say(empty)
        return
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for n, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=n == 0)  # the first is what people copy
    for row in listed:
        made.add_row(*(Text(cell) for cell in row))
    console.print(made)


def when(t_us: int) -> str:
    """A moment in words, UTC."""
    if not t_us:
        return "-"
    return datetime.fromtimestamp(t_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def duration(us: int) -> str:
    """How long, in words."""
    seconds = max(0, us // 1_000_000)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
