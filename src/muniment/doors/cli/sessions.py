"""muniment sessions: what ran, statement by statement, and as it was seen."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from muniment.doors.cli.approvals import print_history
from muniment.doors.cli.client import Failure
from muniment.doors.cli.output import Json, client, print_json, print_json_line, say, speaks, table, when

app = typer.Typer(no_args_is_help=True, help="Sessions: listed, shown, replayed, cut.")
PAUSE_S = 3.0  # a pause of a replay is never longer, whatever the session did
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Ses = Annotated[str, typer.Argument(metavar="SESSION")]


@app.command("list")
@speaks
def list_(
    identity: Annotated[str, typer.Option(help="Of this identity.")] = "",
    initiator: Annotated[str, typer.Option(help="Set going by this kind (schedule, user ...) or id.")] = "",
    run: Annotated[str, typer.Option(help="Of this run of the CI system.")] = "",
    target: Annotated[str, typer.Option(help="At this target.")] = "",
    verb: Annotated[str, typer.Option(help="That asked for this verb (select, drop ...).")] = "",
    since: Annotated[str, typer.Option(help="Opened since: 30m, 12h, 7d, or 2026-01-31[T12:00].")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: Json = False,
) -> None:
    """Sessions, newest first."""
    found = client().get(
        "sessions", identity=identity, initiator=initiator, run=run, target=target, verb=verb,
        since_us=_since(since), limit=limit,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    rows = [
        (one["ses"], when(one["opened_us"]), one["identity"], one["target"], one["role"], _initiator(one),
         one["run"] or "-", one["requests"], "open" if one["live"] else one["reason"] or "no end recorded")
        for one in found
    ]  # fmt: skip
    table(
        ("SESSION", "OPENED", "IDENTITY", "TARGET", "ROLE", "INITIATOR", "RUN", "EXCHANGES", "END"), rows,
        "no session is like that",
    )  # fmt: skip


@app.command()
@speaks
def show(ses: Ses, as_json: Json = False) -> None:
    """A session: who it was and how that was proved, and every exchange with its decision and end."""
    connection = client()
    view = connection.get("sessions", ses)
    page = view
    while page["more"]:
        page = connection.get("sessions", ses, after=page["exchanges"][-1]["n"])
        view["exchanges"] += page["exchanges"]
    view["more"] = False
    if as_json:
        print_json(view)
        return
    _head(view)
    for one in view["exchanges"]:
        say("")
        _exchange(one)


@app.command()
@speaks
def replay(
    ses: Ses,
    speed: Annotated[float, typer.Option(min=0.0, help="1 is as it was, 10 ten times faster, 0 without pauses.")] = 1.0,
    as_json: Json = False,
) -> None:
    """A session as it was seen: statements, rows, notices, refusals, questions and decisions, with its timing."""
    last = 0
    try:
        for event in client().lines("sessions", ses, "replay"):
            if as_json:
                print_json_line(event)
                continue
            if last and speed > 0:
                time.sleep(min(PAUSE_S, max(0.0, (event["t_us"] - last) / 1e6 / speed)))
            last = max(last, event["t_us"])
            _event(event)
    except KeyboardInterrupt:
        raise typer.Exit(1) from None


@app.command()
@speaks
def cut(ses: Ses, reason: Annotated[str, typer.Option("--reason", "-m", help="Why.")], as_json: Json = False) -> None:
    """End a session now."""
    done = client().post("sessions", ses, "cut", body={"reason": reason})
    if as_json:
        print_json(done)
    else:
        say(f"{ses} is cut")


def _since(text: str) -> int:
    """A moment in microseconds UTC from "30m" or a date; 0 for none."""
    if not text:
        return 0
    if found := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return time.time_ns() // 1000 - int(found[1]) * _UNITS[found[2]] * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Failure(f"--since {text!r} is neither an age nor a date", "write 30m, 12h, 7d or 2026-01-31") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)


def _initiator(row: dict[str, Any]) -> str:
    return " ".join(part for part in (row["initiator"], row["initiator_id"]) if part) or "unknown"


def _head(view: dict[str, Any]) -> None:
    row, opened, hidden = view["row"], view["opened"], view["hidden"]
    say(f"{row['ses']}  {'open' if view['live'] else row['reason'] or 'no end recorded'}", "bold")
    groups = ", ".join(opened.get("groups", [])) or "none"
    proved = f"{opened.get('method', '?')}, issuer {opened.get('iss', '-')}, key {opened.get('kid', '-')}"
    for label, text in (
        ("identity", f"{row['identity']} (groups: {groups})"), ("proved by", proved),
        ("subject", hidden.get("sub", "-")), ("claims", hidden.get("claims", "-")),
        ("initiator", f"{_initiator(row)}, run {row['run'] or '-'}"),
        ("target", f"{row['target']}, database {row['database']}, as {row['role']}"),
        ("target pid", str(view["target"].get("pid", "-"))),
        ("grants", f"{', '.join(opened.get('grants', []))} (rules version {opened.get('rules', 0)})"),
        ("client", f"{hidden.get('source', '-')} {hidden.get('client', '')}".strip()), ("tls", opened.get("tls", "-")),
        ("opened", f"{when(row['opened_us'])} [log index {row['first_index']}]"), ("closed", when(row["closed_us"])),
        ("exchanges", str(row["requests"])),
    ):  # fmt: skip
        say(f"  {label:<10} {text}")


_STYLE = {"allow": "green", "deny": "red", "hold": "yellow"}


def _exchange(one: dict[str, Any]) -> None:
    head = f"#{one['n']}  {when(one['t_us'])}  {one['decision']}  by {one['rule'] or '-'}  [log index {one['index']}]"
    say(head, _STYLE.get(one["decision"], ""))
    text = one["statement"] or (f"[sealed: {one['sealed']}]" if one["sealed"] else "[not kept]")
    say("\n".join("  | " + line for line in text.split("\n")))
    for n, value in enumerate(one["parameters"], start=1):
        say(f"    ${n} = {'NULL' if value is None else repr(value)}")
    if one["touches"]:
        say("  used      " + "; ".join(one["touches"]))
    if not one["complete"]:
        say("  could not be read completely")
    if one["released_by"]:
        say(f"  released  by approval {one['released_by']}")
    if one["redacted"]:
        say("  kept with its literals replaced: it touches something protected")
    if one["why"] and one["decision"] != "allow":
        say(f"  why       {one['why']}")
    masked = ", ".join(f"{count} × {name}" for name, count in (one["masked"] or {}).items())
    end = [
        one["status"]
        or ("waiting, or went on as another exchange" if one["decision"] == "hold" else "running or unknown"),
        f"{one['rows']} rows",
        f"{one['bytes']} bytes",
        one["tag"],
        one["code"],
    ]
    say("  end       " + ", ".join(part for part in end if part) + (f"; masked {masked}" if masked else ""))
    for asked in one["approvals"]:
        index = f" [log index {asked['index']}]" if asked["index"] >= 0 else ""
        say(f"  {asked['id']}  {asked['state']}: {asked['question']}{index}", "yellow")
        say(f"    rule {asked['rule']}: {asked['count']} of {asked['approvers']}; asked {when(asked['asked_us'])}")
        print_history(asked, "    ")


_EVENT = {
    "request": "bold", "error": "red", "notice": "cyan", "question": "yellow", "decision": "yellow", "note": "dim",
    "session": "dim", "end": "dim", "outcome": "dim",
}  # fmt: skip


def _event(event: dict[str, Any]) -> None:
    stamp = when(event["t_us"]).split(" ")[-1]
    index = f" [log index {event['index']}]" if event["index"] >= 0 else ""
    if event["what"] == "request":
        say(
            f"\n{stamp} #{event['n']} {event['decision']} by {event['rule'] or '-'}{index}",
            _STYLE.get(event["decision"], ""),
        )
        say(event["text"], "bold")
    elif event["what"] in ("rows", "complete", "error", "notice"):
        say(event["text"], _EVENT.get(event["what"], ""))
    else:
        say(f"{stamp} {event['text']}{index}", _EVENT.get(event["what"], ""))
