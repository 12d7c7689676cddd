"""muniment logins: why somebody was not let in."""

from __future__ import annotations

from typing import Annotated

import typer

from muniment.doors.cli.output import Json, client, print_json, say, speaks, table, when

app = typer.Typer(no_args_is_help=True, help="Refused logins, by the reference that the client was given.")


@app.command("list")
@speaks
def list_(limit: Annotated[int, typer.Option(min=1, max=1000)] = 100, as_json: Json = False) -> None:
    """Refused logins, newest first."""
    found = client().get("logins", limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (one["reference"], when(one["t_us"]), one["user"], one["target"] or "-", one["source"],
         ", ".join(check["name"] for check in one["checks"] if not check["passed"]))
        for one in found
    ]  # fmt: skip
    table(("REF", "WHEN", "USER", "TARGET", "SOURCE", "FAILED"), rows, "no login was refused")


@app.command()
@speaks
def show(reference: Annotated[str, typer.Argument(metavar="REF")], as_json: Json = False) -> None:
    """One refused login: each check with what was presented, what was wanted, and the mend."""
    found = client().get("logins", reference)
    if as_json:
        print_json(found)
        return
    say(f"{found['reference']}  {when(found['t_us'])}  user {found['user']!r} from {found['source']}", "bold")
    for check in found["checks"]:
        say(f"  {'ok    ' if check['passed'] else 'FAILED'} {check['name']}", "" if check["passed"] else "red")
        say(f"         got   {check['got']}")
        say(f"         want  {check['want']}")
        if not check["passed"] and check["mend"]:
            say(f"         mend  {check['mend']}")
