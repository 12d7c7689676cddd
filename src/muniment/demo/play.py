"""The demo from beginning to end: raise the stage, walk or wait, take everything down."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from muniment.demo import stage as stages
from muniment.demo.show import Teller
from muniment.demo.stage import Psql, Stage
from muniment.demo.walk import DROP, REASON, Walk
from muniment.model.errors import Unavailable

LOOK_S = 1.0


class Ended(BaseException):
    """Somebody wants it to end: Ctrl-C, a closed terminal, a kill."""


def run(*, check: bool) -> int:
    """`muniment demo [--check]`: walk every step, or leave everything up until Ctrl-C. Returns the exit code.

    0: with check, all held; without, it was ended. 1: something did not hold or did not come up.
    """
    tell = Teller()
    tell.title("Muniment: the first walk" + (", by itself" if check else ""))
    try:
        with _ends_in_order(), stages.raised(tell.note) as stage:
            psql = stages.find_psql(stage.database.programs)
            tell.note(f"psql {psql.major} at {psql.program}{'' if psql.tls else ', without TLS'}")
            job, grace = stages.write_lines(stage, psql)
            return _walk(stage, psql, tell) if check else _wait(stage, job, grace, tell)
    except Unavailable as error:
        tell.expect("everything comes up, and stays up", False)
        tell.output(error.what)
        if error.mend:
            tell.note(f"mend: {error.mend}")
        return 1
    except Ended:
        tell.note("\nended; everything was taken down")
        return 130 if check else 0


def _walk(stage: Stage, psql: Psql, tell: Teller) -> int:
    Walk(stage, psql, tell).run()
    if tell.summary():
        return 0
    tell.note("\nThe end of the gateway's log:")
    tell.output(stage.trouble())
    return 1


def _wait(stage: Stage, job: Path, grace: Path, tell: Teller) -> int:
    for line in ready_lines(job, grace):
        if line.startswith("  "):
            tell.console.print(line, style="bold", markup=False)
        else:
            tell.console.print(line, markup=False)
    while stage.gateway.poll() is None:
        time.sleep(LOOK_S)
    raise Unavailable(f"the gateway ended with {stage.gateway.returncode}:\n{stage.trouble()}", "see its message")


def ready_lines(job: Path, grace: Path) -> tuple[str, ...]:
    """What to paste. Lines that begin with two spaces are commands."""
    return (
        "",
        "In a second terminal, as the job (its token is the password; source it again for a new one after an hour):",
        f"  . {job}",
        "  psql -c 'SELECT * FROM customers'",
        "  psql -c 'DROP TABLE customers'",
        f"  psql -c '{DROP}'",
        "",
        "In a third, as grace, who decides:",
        f"  . {grace}",
        "  muniment approvals watch",
        f'  muniment approvals approve ID --reason "{REASON}" --key "$GRACE"',
        "  muniment sessions list",
        "  muniment evidence verify",
        "",
        "Ctrl-C here takes everything down and away.",
    )


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """Inside, the first wish to end is an `Ended`; later ones wait until everything is down."""

    def end(number: int, frame: FrameType | None) -> None:
        for again in numbers:
            signal.signal(again, signal.SIG_IGN)
        raise Ended

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, end)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
