"""muniment apply, validate, identities, targets, grants, persons: what is written and in force."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from muniment.doors.cli.client import Failure
from muniment.doors.cli.output import Json, client, console, print_json, say, speaks, table, when
from muniment.judge import manifests

SUFFIXES = (".yaml", ".yml", ".json")
Name = Annotated[str, typer.Argument(metavar="NAME")]
Files = Annotated[list[Path], typer.Option("-f", "--file", help="A manifest, or a folder of them; may be repeated.")]


def read_files(paths: list[Path]) -> list[tuple[str, str]]:
    """The texts of files and folders. Raises Failure."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and not one.name.startswith("."))
            if not inside:
                raise Failure(f"{path} holds no manifests", f"name files that end in {', '.join(SUFFIXES)}")
            found += inside
        else:
            found.append(path)
    try:
        return [(str(path), path.read_text(encoding="utf-8")) for path in found]
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read a manifest ({error})", "name a file of UTF-8 text") from error


@speaks
def apply(
    files: Files,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what is in force and not in these files.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare only.")] = False,
    as_json: Json = False,
) -> None:
    """Check manifests completely and put them in force."""
    texts = read_files(files)
    body = {"files": [{"name": name, "text": text} for name, text in texts], "prune": prune, "dry_run": dry_run}
    done = client().post("rules", "apply", body=body)
    if as_json:
        print_json(done)
        return
    for line in done["words"]:
        say(line)
    if not done["changed"]:
        say(f"nothing to change: version {done['version']} is in force")
    elif dry_run:
        say(f"would become version {done['version']}; nothing was changed")
    else:
        say(f"version {done['version']} is in force", "green")


@speaks
def validate(files: Files, as_json: Json = False) -> None:
    """Check manifests without a gateway; what they refer to must be among them."""
    texts = read_files(files)
    rules = manifests.parse(texts, time.time_ns() // 1000)
    counts = {
        "issuers": len(rules.issuers), "identities": len(rules.identities), "targets": len(rules.targets),
        "grants": len(rules.grants), "guards": len(rules.guards), "masks": len(rules.masks),
        "persons": len(rules.persons),
    }  # fmt: skip
    if as_json:
        print_json({"valid": True, "counts": counts})
    else:
        say("valid: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count), "green")


def family(plural: str, columns: dict[str, tuple[str, ...]], help_text: str) -> typer.Typer:
    """The list and show commands of one kind of document. columns: heading -> path in the document's spec."""
    app = typer.Typer(no_args_is_help=True, help=help_text)

    @app.command("list")
    @speaks
    def list_(as_json: Json = False) -> None:
        """Those in force."""
        found = client().get("documents", plural)
        if as_json:
            print_json(found)
            return
        rows = [
            (one["name"], *(_cell(one["document"].get("spec", {}), path) for path in columns.values())) for one in found
        ]
        table(("NAME", *columns), rows, f"no {plural} are in force")

    @app.command()
    @speaks
    def show(name: Name, as_json: Json = False) -> None:
        """One, as it is in force."""
        found = client().get("documents", plural, name)
        if as_json:
            print_json(found)
            return
        say(f"{found['kind']}/{found['name']}", "bold")
        say(f"  from       {found['file']}:{found['line']}")
        say(f"  version's leaf hash {found['leaf'] or '-'}")
        say(json.dumps(found["document"].get("spec", {}), indent=2, ensure_ascii=False))

    return app


def _cell(spec: Any, path: tuple[str, ...]) -> str:
    for part in path:
        spec = spec.get(part) if isinstance(spec, dict) else None
    if spec is None:
        return "-"
    if isinstance(spec, list):
        return ", ".join(map(str, spec))
    if isinstance(spec, dict):
        return ", ".join(f"{key}={value}" for key, value in spec.items())
    return str(spec)


identities = family(
    "identities", {"KIND": ("kind",), "OWNER": ("owner",), "PURPOSE": ("purpose",), "EXPIRES": ("expires",)},
    "Identities: registered workloads, and their API keys.",
)  # fmt: skip
targets = family(
    "targets", {"PROTOCOL": ("protocol",), "ADDRESS": ("address",), "TLS": ("tls", "mode"), "PORT": ("listen", "port")},
    "Targets: what is reached.",
)  # fmt: skip
grants = family(
    "grants",
    {"TO": ("to",), "TARGET": ("target",), "AS": ("as",), "DATABASES": ("databases",), "EXPIRES": ("expires",)},
    "Grants: who may do what, where.",
)  # fmt: skip
persons = family("persons", {"EMAIL": ("email",), "GROUPS": ("groups",)}, "Persons: those who decide.")

keys = typer.Typer(no_args_is_help=True, help="API keys of identities.")
identities.add_typer(keys, name="key")


@keys.command("issue")
@speaks
def issue(
    name: Name,
    days: Annotated[
        int, typer.Option(min=0, help="How long it is valid; as long as the identity allows if not given.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Issue an API key. It is shown once and kept nowhere."""
    expires_us = time.time_ns() // 1000 + days * 86_400_000_000 if days else 0
    made = client().post("identities", name, "keys", body={"expires_us": expires_us})
    if as_json:
        print_json(made)
        return
    say(f"key {made['id']} of {made['identity']}, valid until {when(made['expires_us'])}; it is shown this once:")
    console.print(made["key"], markup=False)


@keys.command("list")
@speaks
def list_keys(name: Name, as_json: Json = False) -> None:
    """An identity's keys, never the key itself."""
    found = client().get("identities", name, "keys")
    if as_json:
        print_json(found)
        return
    rows = [(one["id"], when(one["created_us"]), when(one["expires_us"]), when(one["revoked_us"])) for one in found]
    table(("ID", "ISSUED", "EXPIRES", "REVOKED"), rows, f"{name} has no API keys")


@keys.command("revoke")
@speaks
def revoke(key: Annotated[str, typer.Argument(metavar="KEY_ID")], as_json: Json = False) -> None:
    """Revoke a key and cut the sessions that it opened."""
    done = client().post("keys", key, "revoke")
    if as_json:
        print_json(done)
    else:
        say(f"key {done['id']} is revoked; {done['sessions_cut']} session(s) cut")
