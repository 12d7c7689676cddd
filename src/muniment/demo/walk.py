"""The walk of `muniment demo --check`: every step with the real psql and the real command line, each answer checked."""

from __future__ import annotations

import base64
import json
import queue
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from muniment.demo import cluster, manifests
from muniment.demo.show import Teller
from muniment.demo.stage import COMMAND_S, Psql, Stage, look_at
from muniment.model.errors import Unavailable

HELD_S = 20.0
SIGNED_S = 90.0
REASON = "OPS-1412, agreed with Ada"
ROWS = "SELECT id, name, card_number, us_ssn, email, notes FROM customers"
BIND_SINCE = 16  # psql's \bind
_APPROVAL = re.compile(r"\bA-[2-9A-HJ-NP-Z]{4}-[2-9A-HJ-NP-Z]{4}\b")
_REFERENCE = re.compile(r"\(ref ([2-9A-HJ-NP-Z]{4}-[2-9A-HJ-NP-Z]{4})\)")


class Walk:
    """The steps, in order. Each goes on after a failure where it can."""

    def __init__(self, stage: Stage, psql: Psql, teller: Teller) -> None:
        self.stage, self.psql, self.tell = stage, psql, teller
        self.copy = stage.directory / "copy"
        self.key = stage.directory / "key.pub"
        self.job_token = ""

    def steps(self) -> Iterable[tuple[str, str, Callable[[], None]]]:
        """Title, why, and the doing."""
        return (
            ("The rules", "Manifests, checked whole, put in force as a numbered version.", self.rules),
            ("A job gets its token", "From its own CI system; here from the demo's issuer.", self.token),
            ("Masked rows", "The token is the password. The database's own stays with the gateway.", self.rows),
            ("DROP TABLE is refused", "As an error of PostgreSQL's own; the session lives on.", self.refused),
            ("What nobody granted is refused", "Default deny.", self.not_granted),
            ("DROP DATABASE is held until a person agrees", "psql simply waits.", self.held),
            ("An expired token", "The outside learns a reference; the operator sees each check.", self.expired),
            ("What was recorded", "As it was seen, with who agreed and why.", self.recorded),
            ("The evidence verifies", "Offline, with one file and the standard library.", self.verified),
            ("A copy with one altered byte does not", "", self.tampered),
        )  # fmt: skip

    def run(self) -> None:
        """Every step; what goes wrong in one is a failed expectation."""
        for number, (title, why, step) in enumerate(self.steps()):
            self.tell.heading(number, title, why)
            try:
                step()
            except subprocess.TimeoutExpired as error:
                self.tell.expect("the step ends in time", False, wanted=f"an end within {error.timeout} s", got=title)
            except (Unavailable, OSError, ValueError, LookupError) as error:
                self.tell.expect("the step can be walked", False, got=f"{type(error).__name__}: {error}")
            if self.stage.gateway.poll() is not None:
                self.tell.expect("the gateway is up", False, got=self.stage.trouble())
                return

    # --- the steps

    def rules(self) -> None:
        self.tell.command("muniment apply -f manifests/")
        self.tell.output(self.stage.applied)
        listed = self.muniment("grants", "list")
        self.tell.has("the grant is in force", listed.stdout, "nightly-report-at-billing")

    def token(self) -> None:
        program = self.stage.directory / "token"
        self.tell.command(f"export PGPASSWORD=$({program})")
        made = subprocess.run([str(program)], capture_output=True, text=True, timeout=COMMAND_S, check=False)
        if made.returncode:
            raise Unavailable(f"the demo issuer gave no token: {made.stderr.strip()}")
        self.job_token = made.stdout.strip()
        claims = claims_of(self.job_token)
        self.tell.output("a token that says:\n" + json.dumps(claims, indent=2))
        meant = claims["aud"] == manifests.DEPLOYMENT
        self.tell.expect(
            "it is made out to this gateway", meant, wanted=manifests.DEPLOYMENT, got=str(claims["aud"])
        )  # fmt: skip

    def rows(self) -> None:
        shown = " ".join(f"{name}={value}" for name, value in self.stage.connection(self.psql).items())
        self.tell.command(f"export {shown}")
        if not self.psql.tls:
            self.tell.note(
                "This psql was built without TLS, so it is plain loopback here. Elsewhere: sslmode=verify-full."
            )
        seen = self.run_psql("-c", f"{ROWS} ORDER BY id")
        self.tell.has("all five rows came back", seen, "Anna Larsen", "Eva Nowak", "(5 rows)")
        self.no_originals(seen)
        self.tell.has("cards keep their first six and last four digits", seen, "411111******1111", "555555******4444")
        self.tell.has("a card number inside free text was found too", seen, "second card: 4111 11** **** 1111")
        seen = self.run_psql("-c", "SELECT name, card_number AS harmless FROM customers WHERE id = 1")
        self.no_originals(seen)
        self.tell.has("a mask follows the column, whatever the query calls it", seen, "411111******1111")
        seen = self.run_psql("-c", "SELECT name, upper(card_number) AS made FROM customers WHERE id = 1")
        self.no_originals(seen)
        bind = self.psql
        if bind.major < BIND_SINCE:
            self.tell.note(
                f"psql {bind.major} has no \\bind yet; the wheel's psql does (it speaks no TLS: plain loopback)."
            )
            bind = look_at(str(self.stage.database.programs.bin / "psql"))
        text = f"{ROWS} WHERE id = $1 OR name = $2\n\\bind 2 'Eva Nowak' \\g"
        seen = self.run_psql(script=text, psql=bind)
        self.tell.has("a prepared statement with parameters works", seen, "Ben Okafor", "Eva Nowak", "(2 rows)")
        self.no_originals(seen)

    def refused(self) -> None:
        script = "DROP TABLE customers;\nBEGIN;\nDROP TABLE invoices;\nROLLBACK;\nSELECT count(*) FROM invoices;"
        seen = self.run_psql("-v", "VERBOSITY=verbose", script=script)
        self.tell.has("refused with SQLSTATE 42501", seen, "42501")
        self.tell.has(
            "it names the rule and gives its message", seen, "production-safety", "Nothing is dropped in production."
        )
        self.tell.has("the session lives on, inside a transaction too", seen, "ROLLBACK", "50")
        there = self.at_target("SELECT count(*) FROM customers", "SELECT count(*) FROM invoices")
        self.tell.expect(
            "both tables are still at the target", there.split() == ["5", "50"], wanted="5 and 50 rows", got=there
        )

    def not_granted(self) -> None:
        seen = self.run_psql(
            "-v", "VERBOSITY=verbose", "-c", "INSERT INTO invoices (customer_id, total) VALUES (1, 99)"
        )
        self.tell.has("refused: no grant covers it", seen, "42501", "insert", "invoices")
        there = self.at_target("SELECT count(*) FROM invoices")
        self.tell.expect("no row was added at the target", there == "50", wanted="50", got=there)

    def held(self) -> None:
        self.tell.command(f"psql -c {shlex.quote(DROP)} &")
        waiting = subprocess.Popen(
            [self.psql.program, "-X", "-c", DROP], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            stdin=subprocess.DEVNULL, env=self.client(), start_new_session=True,
        )  # fmt: skip
        try:
            self._approve(waiting)
        finally:
            if waiting.poll() is None:
                waiting.kill()
                waiting.wait()
        there = self.at_target(COUNT_SCRATCH)
        self.tell.expect("the database is gone at the target", there == "0", wanted="0 databases `scratch`", got=there)

    def _approve(self, waiting: subprocess.Popen[str]) -> None:
        assert waiting.stdout is not None
        lines = _reader(waiting.stdout)
        said, name = "", ""
        until = time.monotonic() + HELD_S
        while not name and (line := _next(lines, until)):
            self.tell.output(line)
            said += line
            name = found[0] if (found := _APPROVAL.search(said)) else ""
        if not self.tell.expect(
            "psql waits and names the approval", bool(name), wanted="a notice with A-....-....", got=said
        ):
            return
        there = self.at_target(COUNT_SCRATCH)
        self.tell.expect("nothing has reached the target yet", there == "1", wanted="1 database `scratch`", got=there)
        self.muniment("approvals", "list")
        done = self.muniment("approvals", "approve", name, "--reason", REASON, "--key", str(self.stage.key))
        self.tell.has("grace agrees, signed with her own SSH key", done.stdout + done.stderr, "approved by grace")
        rest = ""
        until = time.monotonic() + HELD_S
        while line := _next(lines, until):
            rest += line
        self.tell.note("psql goes on:")
        self.tell.output(rest)
        code = waiting.wait(HELD_S)
        self.tell.expect(
            "psql ends well",
            code == 0 and "DROP DATABASE" in rest,
            wanted="DROP DATABASE",
            got=f"exit code {code}: {rest}",
        )

    def expired(self) -> None:
        seen = self.run_psql("-c", "SELECT 1", token=self.stage.mint(-300))
        found = _REFERENCE.search(seen)
        self.tell.expect(
            "refused with a reference", found is not None, wanted="login refused (ref XXXX-XXXX)", got=seen
        )
        inside = [word for word in ("expired", "exp ", manifests.ROLE, "issuer") if word in seen]
        self.tell.expect("the outside learns nothing else", not inside, wanted="no reason", got=", ".join(inside))
        if found:
            shown = self.muniment("logins", "show", found[1]).stdout
            self.tell.has("the operator sees which check failed, and the mend", shown, "FAILED", "mend")

    def recorded(self) -> None:
        self.muniment("sessions", "list")
        listed = json.loads(self.muniment("sessions", "list", "--json", quiet=True).stdout)
        runs = {(one["identity"], one["initiator"], one["run"]) for one in listed}
        wanted = {(manifests.IDENTITY, "schedule", manifests.CLAIMS["run_id"])}
        held = runs == wanted
        self.tell.expect("every session tells what set the run going", held, wanted=str(wanted), got=str(runs))
        drops = json.loads(self.muniment("sessions", "list", "--verb", "drop", "--json", quiet=True).stdout)
        dropped = drops[0]["ses"]  # newest first
        shown = self.muniment("sessions", "show", dropped).stdout
        self.tell.has(
            "show: the statement, the rule, the person and the reason",
            shown,
            DROP,
            "production-safety",
            "grace",
            REASON,
        )
        replayed = self.muniment("sessions", "replay", dropped, "--speed", "0").stdout
        self.tell.has("replay: the same, in order of time", replayed, DROP, "grace", REASON, "DROP DATABASE")
        first = listed[-1]["ses"]
        replayed = self.muniment("sessions", "replay", first, "--speed", "0").stdout
        self.tell.has("the replay of the first query shows what the job saw", replayed, "411111******1111")
        self.no_originals(replayed)

    def verified(self) -> None:
        self._await_signature()
        done = self.muniment("evidence", "verify")
        self.tell.expect(
            "the gateway's own evidence verifies",
            done.returncode == 0,
            wanted="exit code 0",
            got=done.stdout + done.stderr,
        )
        key = self.muniment("evidence", "key", typed="muniment evidence key > key.pub")
        self.key.write_text(key.stdout)
        self.muniment("evidence", "export", "-o", str(self.copy))
        done = self.verify(self.copy)
        self.tell.expect(
            "so does a copy, with verify.py alone", done.returncode == 0, wanted="exit code 0", got=done.stdout
        )
        page = json.loads(self._verifier(self.copy, "--json").stdout)
        for what in ("signatures of people", "approvals followed to their signatures"):
            self.tell.expect(
                f"{what}: {page['counts'].get(what, 0)}",
                page["counts"].get(what, 0) > 0,
                wanted="1 or more",
                got=str(page["counts"]),
            )

    def tampered(self) -> None:
        bad = self.stage.directory / "tampered"
        shutil.copytree(self.copy, bad)
        where = flip(bad / "log" / "records.jsonl")
        self.tell.command(
            f'# one bit of one byte in line {where} of tampered/log/records.jsonl: a "deny" becomes "eeny"'
        )
        done = self.verify(bad)
        self.tell.expect("it fails", done.returncode == 1, wanted="exit code 1", got=f"exit code {done.returncode}")
        self.tell.has("and says where", done.stdout, f"log/records.jsonl:{where}")

    # --- the tools

    def client(self, token: str = "", psql: Psql | None = None) -> dict[str, str]:
        """An environment for psql: the connection, and the token as the password, which no command line shows."""
        return (
            cluster.clean_environment()
            | self.stage.connection(psql or self.psql)
            | {"PGPASSWORD": token or self.job_token or self.stage.mint()}
        )

    def run_psql(self, *arguments: str, script: str = "", token: str = "", psql: Psql | None = None) -> str:
        """Print and run a psql; returns all it printed, errors in their place."""
        chosen = psql or self.psql
        typed = " ".join(["psql", *(_quoted(argument) for argument in arguments)])
        self.tell.command(f"{typed} <<'SQL'\n{script}\nSQL" if script else typed)
        done = subprocess.run(
            [chosen.program, "-X", "-w", *arguments], input=script and script + "\n", text=True, timeout=COMMAND_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.client(token, chosen), check=False,
        )  # fmt: skip
        self.tell.output(done.stdout)
        return done.stdout

    def at_target(self, *commands: str) -> str:
        """Print and run commands past the gateway, at the database itself; returns their bare output."""
        found = self.stage.database.sql(*commands, database="billing")
        for command, line in zip(commands, found.split("\n"), strict=True):
            self.tell.note(f"seen past the gateway, at the target itself: {command} -> {line}")
        return found

    def muniment(self, *arguments: str, typed: str = "", quiet: bool = False) -> subprocess.CompletedProcess[str]:
        """Print and run a `muniment` command."""
        done = self.stage.muniment(*arguments)
        if not quiet:
            self.tell.command(typed or " ".join(["muniment", *(_quoted(argument) for argument in arguments)]))
            self.tell.output(done.stderr + done.stdout)
        if done.returncode and not done.stdout:
            raise Unavailable(f"muniment {' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def verify(self, directory: Path) -> subprocess.CompletedProcess[str]:
        """Print and run the stand-alone verifier of the copy on a directory."""
        self.tell.command(f"python verify.py {directory.name} --key key.pub")
        done = self._verifier(directory)
        self.tell.output(done.stdout + done.stderr)
        return done

    def _verifier(self, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
        # isolated: nothing but the standard library can be imported
        command = [sys.executable, "-I", "-S", str(self.copy / "verify.py"), directory.name, "--key", "key.pub", *more]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, cwd=self.stage.directory, check=False
        )

    def no_originals(self, text: str) -> None:
        """Nothing that is protected may stand in what a client or an auditor was shown."""
        digits = re.sub(r"[ -]", "", text)
        found = [one for one in manifests.HIDDEN if one in text] + [one for one in manifests.CARDS if one in digits]
        self.tell.expect(
            "no real card number, SSN, e-mail or key is in it", not found, wanted="none", got=", ".join(found)
        )

    def _await_signature(self) -> None:
        """Until everything so far is under a signed checkpoint: every few seconds under traffic."""
        wanted, until = 0, time.monotonic() + SIGNED_S
        while time.monotonic() < until:
            status: dict[str, Any] = json.loads(self.muniment("status", "--json", quiet=True).stdout)
            wanted = wanted or int(status["log_size"])
            if int(status["checkpoint_size"]) >= wanted:
                return
            time.sleep(0.5)
        self.tell.expect("a checkpoint covers the walk", False, wanted=f"{wanted} leaves signed in {SIGNED_S:.0f} s")


DROP = f"DROP DATABASE {cluster.SCRATCH}"
COUNT_SCRATCH = f"SELECT count(*) FROM pg_database WHERE datname = '{cluster.SCRATCH}'"  # noqa: S608 - a constant


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, unchecked, for people to read."""
    middle = token.split(".")[1]
    found = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    if not isinstance(found, dict):
        raise ValueError("the token's claims are not an object")
    return found


def flip(records: Path) -> int:
    """Flip one bit in the first refused request of a log; returns its line, from 1. ValueError where there is none."""
    data = bytearray(records.read_bytes())
    at = data.find(b'"decision":"deny"')
    if at < 0:
        raise ValueError("no refused request is in the log")
    data[at + len(b'"decision":"')] ^= 1
    records.write_bytes(data)
    return data.count(b"\n", 0, at) + 1


def _quoted(argument: str) -> str:
    return (
        argument
        if re.fullmatch(r"[\w./:=@-]+", argument)
        else f'"{argument}"'
        if '"' not in argument
        else shlex.quote(argument)
    )


def _reader(stream: IO[str]) -> queue.Queue[str]:
    """The lines of a stream, read in a thread of its own so that waiting for one has an end; "" is the last."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, name="psql's lines", daemon=True).start()
    return lines


def _next(lines: queue.Queue[str], until: float) -> str:
    try:
        return lines.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
        return ""
