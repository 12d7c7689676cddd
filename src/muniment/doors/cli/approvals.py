"""muniment approvals: see what waits for people, and decide it with one's own SSH key."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from muniment.doors.cli import signing
from muniment.doors.cli.client import Client, Failure
from muniment.doors.cli.output import (
    Json,
    client,
    duration,
    print_json,
    print_json_line,
    say,
    speaks,
    table,
    when,
)
from muniment.services import decisions, views

app = typer.Typer(no_args_is_help=True, help="Questions that wait for people, and deciding them.")
WATCH_S = 1.0

Name = Annotated[str, typer.Argument(metavar="ID", help="Such as A-7K2M-4QXD.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; kept sealed in the record.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Your SSH key; else ~/.ssh, then the agent.")]


@app.command("list")
@speaks
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Closed ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 200,
    as_json: Json = False,
) -> None:
    """Questions, newest first."""
    found = client().get("approvals", all=int(everything), limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (one["id"], one["state"], one["identity"], one["target"], one["rule"], _people(one), _left(one), _first(one))
        for one in found
    ]
    table(
        ("ID", "STATE", "IDENTITY", "TARGET", "RULE", "NEEDS", "LEFT", "STATEMENT"), rows,
        "nothing was ever held" if everything else "nothing waits for people",
    )  # fmt: skip


@app.command()
@speaks
def show(name: Name, as_json: Json = False) -> None:
    """One question: who asks, for what exactly, and what became of it."""
    found = client().get("approvals", name)
    if as_json:
        print_json(found)
    else:
        print_approval(found)


@app.command()
@speaks
def watch(
    as_json: Json = False, once: Annotated[bool, typer.Option("--once", help="End after the first question.")] = False
) -> None:
    """Print questions as they come, until Ctrl-C."""
    connection = client()
    seen: dict[str, str] = {}
    first = True
    try:
        while True:
            for one in reversed(connection.get("approvals", all=int(not first), limit=200)):
                if seen.get(one["id"]) == one["state"] or (one["id"] not in seen and one["state"] not in OPEN):
                    continue
                seen[one["id"]] = one["state"]
                if as_json:
                    print_json_line(one)
                else:
                    print_approval(one)
                    say("")
                if once:
                    return
            if first and not seen and not as_json:
                say("nothing waits for people yet; watching (Ctrl-C ends this)", "dim")
            first = False
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return


OPEN = ("waiting", "approved")


@app.command()
@speaks
def approve(name: Name, reason: Reason, key: KeyFile = None, as_json: Json = False) -> None:
    """Approve a question, signed with your SSH key."""
    _decide(name, "approve", reason, key, as_json)


@app.command()
@speaks
def deny(name: Name, reason: Reason, key: KeyFile = None, as_json: Json = False) -> None:
    """Deny a question, signed with your SSH key. One denial closes it."""
    _decide(name, "deny", reason, key, as_json)


def _decide(name: str, decision: str, reason: str, key: Path | None, as_json: bool) -> None:
    connection = client()
    asked = connection.get("approvals", name)
    if asked["state"] != "waiting":
        raise Failure(f"{asked['id']} is {asked['state']}: there is nothing left to decide", "have the job ask again")
    _must_be_bound(asked)
    chosen, person = signing.find_key(key, connection.get("documents", "persons"))
    if not as_json:
        print_approval(asked)
        say("")
    document = decisions.document(
        deployment=asked["deployment"], approval=asked["id"], bound=asked["bound"], identity=asked["identity"],
        target=asked["target"], decision=decision, person=person, reason=reason, t_us=time.time_ns() // 1000,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        signature = signing.sign(chosen, document, Path(scratch))
    done = _hand_in(connection, document, signature, reason)
    if as_json:
        print_json(done)
        return
    word = {"approved": "approved", "denied": "denied"}.get(done["state"], "noted")
    more = f"; {done['missing']} more approver(s) needed" if done["missing"] else ""
    say(f"{done['approval']} {word} by {done['person']}{more}", "green" if decision == "approve" else "red")


def _hand_in(connection: Client, document: str, signature: str, reason: str) -> dict[str, Any]:
    body = {"document": document, "signature": signature, "reason": reason}
    result: dict[str, Any] = connection.post("approvals", "decide", body=body)
    return result


def _must_be_bound(asked: dict[str, Any]) -> None:
    """What is shown must be what the digest binds: a person signs the digest and reads the statement."""
    parameters = decisions.parameters_from(asked["parameters"])
    digest = decisions.bound(
        asked["identity"], asked["target"], asked["database"], asked["role"], asked["statement"], parameters,
        asked["question"],
    )  # fmt: skip
    if digest != asked["bound"]:
        raise Failure("the gateway shows something else than what would be approved", "do not decide it; report this")


def print_approval(one: dict[str, Any]) -> None:
    """A question in full, as a person needs it to decide."""
    say(f"{one['id']}  {one['state']}", "bold")
    lines = [
        ("who", f"{one['identity']} (owner {one['owner'] or 'unknown'})"),
        ("initiator", one["initiator"] or "unknown"),
        ("where", f"{one['target']}, database {one['database']}, as {one['role']}"),
        ("session", f"{one['ses']} exchange {one['n']}"),
        ("rule", f"{one['rule']}: {_people(one)}"),
        ("question", one["question"] or "[sealed]"),
        ("asked", when(one["asked_us"])),
    ]
    if one["state"] in OPEN:
        lines.append(("time left", _left(one)))
    if one["index"] >= 0:
        lines.append(("log index", str(one["index"])))
    for label, text in lines:
        say(f"  {label:<10} {text}")
    say("  statement")
    say(_indented(one["statement"] or "[sealed]", "    | "))
    for n, value in enumerate(views.shown_values(decisions.parameters_from(one["parameters"])), start=1):
        say(_indented(f"${n} = {'NULL' if value is None else repr(value)}", "    "))
    print_history(one, "  ")


def print_history(one: dict[str, Any], indent: str) -> None:
    """Everything that happened to a question, in order."""
    for step in one["history"]:
        who = f" by {step['person']}" if step["person"] else ""
        where = f" ({step['ses']} exchange {step['n']})" if step["ses"] else ""
        reason = f": {step['reason']}" if step["reason"] else ""
        index = f" [log index {step['index']}]" if step["index"] >= 0 else ""
        say(_indented(f"{when(step['t_us'])} {step['decision']}{who}{where}{reason}{index}", indent))


def _indented(text: str, by: str) -> str:
    return "\n".join(by + line for line in text.split("\n"))


def _people(one: dict[str, Any]) -> str:
    return f"{one['count']} of {one['approvers']}"


def _left(one: dict[str, Any]) -> str:
    if one["state"] not in OPEN:
        return "-"
    return duration(one["expires_us"] - time.time_ns() // 1000)


def _first(one: dict[str, Any]) -> str:
    text = " ".join((one["statement"] or "[sealed]").split())
    return text if len(text) <= 60 else text[:57] + "..."
