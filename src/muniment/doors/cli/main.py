"""The program `muniment`. Exit codes: 0 done, 1 refused or failed, 2 not understood."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

import muniment
from muniment.doors.cli import approvals, documents, evidence, logins, sessions
from muniment.doors.cli.output import Api, Json, TokenFile, choose, client, print_json, say, speaks, when

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="A gateway for non-human identities that can prove to an auditor what they did.",
)  # fmt: skip
app.command()(documents.apply)
app.command()(documents.validate)
app.add_typer(documents.identities, name="identities")
app.add_typer(documents.targets, name="targets")
app.add_typer(documents.grants, name="grants")
app.add_typer(documents.persons, name="persons")
app.add_typer(sessions.app, name="sessions")
app.add_typer(approvals.app, name="approvals")
app.add_typer(logins.app, name="logins")
app.add_typer(evidence.app, name="evidence")


@app.callback()
def everywhere(api: Api = None, token_file: TokenFile = None) -> None:
    """A gateway for non-human identities that can prove to an auditor what they did."""
    choose(api, token_file)


@app.command()
@speaks
def serve(config: Annotated[Path, typer.Option("-c", "--config", help="muniment.yaml")]) -> None:
    """Run the gateway."""
    # app is over the doors, so it is found by name, not imported
    raise typer.Exit(int(importlib.import_module("muniment.app").serve(config) or 0))


@app.command()
@speaks
def demo(
    check: Annotated[
        bool, typer.Option("--check", help="Walk every step, print it, and exit 0 only if all held.")
    ] = False,
) -> None:
    """Ten minutes on this machine: a database, a made-up issuer, and a walk through everything."""
    raise typer.Exit(int(importlib.import_module("muniment.demo.play").run(check=check) or 0))


@app.command()
@speaks
def status(as_json: Json = False) -> None:
    """How the gateway is doing."""
    found = client().get("status")
    if as_json:
        print_json(found)
        return
    say(f"{found['deployment']}  muniment {found['version']}  instance {found['instance']}", "bold")
    say(f"  since      {when(found['started_us'])}")
    say(f"  rules      version {found['rules_version']} ({found['manifests'] or 'by apply'})")
    say(f"  sessions   {found['sessions']} open")
    say(f"  log        {found['log_size']} leaves, {found['checkpoint_size']} signed")
    say(f"  evidence   {found['evidence']}")
    for problem in found["problems"]:
        say(f"  PROBLEM    {problem}", "bold red")
    if found["problems"]:
        raise typer.Exit(1)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": muniment.__version__})
    else:
        say(f"muniment {muniment.__version__}")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
