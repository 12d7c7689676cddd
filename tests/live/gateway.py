"""The real gateway as a process of its own, and what people do with it: tokens, psql, commands, the verifier."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from muniment.demo.issuer import DemoIssuer
from tests.live import rules, servers
from tests.live.servers import HOST, Broken, free_port

PROGRAM = (sys.executable, "-m", "muniment.doors.cli.main")
VERIFIER = Path(__file__).parents[2] / "verifier" / "verify.py"
DEPLOYMENT = "localhost"
READY_S = 40.0  # two cores, perhaps busy with other tests
APPROVAL = re.compile(r"\bA-[2-9A-HJ-NP-Z]{4}-[2-9A-HJ-NP-Z]{4}\b")
REFERENCE = re.compile(r"\(ref ([2-9A-HJ-NP-Z]{4}-[2-9A-HJ-NP-Z]{4})\)")
ENVIRONMENT = {"LIVE_REPORT_RO": servers.PASSWORDS["report_ro"]}  # for a target whose secret is read from {env}

Done = subprocess.CompletedProcess[str]


@dataclass(slots=True)
class Gateway:
    """A gateway and its demo issuer. port: the listener that all targets share; people: SSH keys by name."""

    directory: Path
    issuer: DemoIssuer
    port: int
    settings: Mapping[str, Any]
    people: dict[str, Path] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    tokens: list[str] = field(default_factory=list)
    run: str = ""
    starts: Mapping[str, Any] = field(default_factory=dict)
    client: httpx.Client | None = field(default=None, repr=False)

    # --- where things are

    @property
    def store(self) -> Path:
        """Its data directory."""
        return Path(self.settings["store"])

    @property
    def evidence(self) -> Path:
        """What is copied away whole."""
        return self.store / "evidence"

    @property
    def ca(self) -> Path:
        """What its clients trust."""
        return self.store / "tls" / "ca.pem"

    @property
    def api(self) -> Path:
        """The socket of its API."""
        return self.directory / "api.sock"

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """All that it has logged."""
        return (self.directory / "log").read_text("utf-8", "replace")

    # --- life

    def start(self, *, ready: bool = True, **starts: Any) -> None:
        """Start it. starts: for Popen, beside what is always given. Broken when it does not come up."""
        config = self.directory / "muniment.yaml"
        config.write_text(yaml.safe_dump(dict(self.settings)))
        with (self.directory / "log").open("ab") as log:
            before = log.tell()
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", "-c", str(config)], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env=servers.client_environment() | ENVIRONMENT, start_new_session=True,
                **(dict(self.starts) | starts),
            )  # fmt: skip
        if ready:
            self.wait(lambda: "ready: rules version" in self.log()[before:], "did not come up", READY_S)

    def wait(self, holds: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
        """Wait until something holds of a gateway that runs."""

        def look() -> Any:
            found = holds()
            if not found and self.process is not None and self.process.poll() is not None:
                raise Broken(f"the gateway ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            return found

        if not until(look, seconds):
            raise Broken(f"the gateway {what}:\n{self.log()[-3000:]}")

    def kill(self) -> None:
        """kill -9, helper processes left to notice for themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Stop it in order. Returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise Broken(f"the gateway did not stop:\n{self.log()[-3000:]}") from None

    def close(self) -> None:
        """Stop it if it still runs, and let go of everything."""
        if self.client is not None:
            self.client.close()
        if self.process is not None:
            self.stop()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    # --- a job

    def token(self, job: str = "wide", *, lifetime_s: int = 300, **claims: object) -> str:
        """A token of the job's own issuer, of a run of its own. claims: over the usual ones; None leaves one out."""
        self.run = f"run-{len(self.tokens) + 1}"
        usual: dict[str, object] = {
            "sub": f"repo:acme/{job}", "aud": DEPLOYMENT, "repository": f"acme/{job}", "kind": "schedule",
            "actor": "hana", "run_id": self.run, "run_attempt": "1", "workflow": "report.yml",
        }  # fmt: skip
        wanted = {name: value for name, value in (usual | claims).items() if value is not None}
        made = self.issuer.mint(wanted, lifetime_s=lifetime_s)
        self.tokens.append(made)
        return made

    def conninfo(self, at: str = "plain", job: str = "wide", **more: str) -> str:
        """libpq's words for a connection by the user's suffix over checked TLS, without the secret."""
        words = {
            "host": "localhost", "hostaddr": HOST, "port": str(self.port), "user": f"{job}.{at}" if at else job,
            "dbname": "billing", "sslmode": "verify-full", "sslrootcert": str(self.ca),
        }  # fmt: skip
        return " ".join(f"{name}='{value}'" for name, value in (words | more).items())

    def psql(
        self, *arguments: str, at: str = "plain", job: str = "wide", secret: str = "", stdin: str = "", **more: str
    ) -> Done:
        """The real psql through the gateway: one -c each for texts, other arguments as they are (they begin with -).

        secret: instead of a fresh token.
        """
        said = _arguments(arguments)
        return servers.psql(
            self.conninfo(at, job, **more), *said, stdin=stdin, password=secret or self.token(job)
        )  # fmt: skip

    def answer(self, *arguments: str, **how: Any) -> str:
        """The unaligned output of a psql that must succeed."""
        done = self.psql("-At", "-v", "ON_ERROR_STOP=1", *arguments, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def refusal(self, text: str, **how: Any) -> str:
        """What a psql says, with SQLSTATE, of a statement that must fail."""
        done = self.psql("-v", "VERBOSITY=verbose", text, **how)
        assert done.returncode != 0, done.stdout
        return done.stderr

    @contextlib.contextmanager
    def waiting(self, text: str, *options: str, at: str = "plain", job: str = "wide") -> Iterator[Psql]:
        """A psql that runs `text` beside the test, with its output read as it comes; killed at the end."""
        psql = Psql(self.conninfo(at, job), _arguments((*options, text)), self.token(job))
        try:
            yield psql
        finally:
            psql.end()

    # --- an operator

    def cli(self, *arguments: str) -> Done:
        """The real command line over the API's socket."""
        return subprocess.run(
            [*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, cwd=self.directory,
            stdin=subprocess.DEVNULL,
            env=servers.client_environment() | {"MUNIMENT_API": f"unix:{self.api}", "COLUMNS": "200"},
        )  # fmt: skip

    def asked(self, *arguments: str) -> Any:
        """The JSON that a command prints; it must succeed."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def apply(self, documents: Sequence[rules.Document], *more: str) -> Done:
        """`muniment apply` of these documents; it must succeed."""
        folder = Path(tempfile.mkdtemp(dir=self.directory))
        (folder / "rules.yaml").write_text(rules.text(documents))
        done = self.cli("apply", "-f", str(folder), *more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def decide(self, name: str, decision: str = "approve", person: str = "grace", reason: str = "OPS-1412") -> Done:
        """`muniment approvals approve | deny` with that person's key."""
        return self.cli("approvals", decision, name, "--reason", reason, "--key", str(self.people[person]))

    def get(self, path: str, **query: str | int) -> str:
        """An answer of the HTTP API over its socket: what the command line reads, without a process for each."""
        if self.client is None:
            self.client = httpx.Client(
                transport=httpx.HTTPTransport(uds=str(self.api), retries=1), base_url="http://gateway", timeout=30,
                headers={"x-muniment-who": "ada"},
            )  # fmt: skip
        answer = self.client.get(f"/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.text

    def sessions(self, **filters: str | int) -> list[Any]:
        """Sessions, newest first."""
        found: list[Any] = json.loads(self.get("sessions", **filters))
        return found

    def newest(self, *, ended: bool = False) -> Any:
        """The session of the newest token, once it is listed: the log follows the journal within a second."""

        def look() -> Any:
            found = self.sessions(run=self.run)
            return found[0] if found and not (ended and (found[0]["live"] or not found[0]["closed_us"])) else None

        found = until(look)
        assert found, self.log()[-2000:]
        return found

    def shown(self, ses: str = "") -> Any:
        """A session with its exchanges; the newest when it has ended, if none is named."""
        return json.loads(self.get(f"sessions/{ses or self.newest(ended=True)['ses']}"))

    def record(self, ses: str = "") -> str:
        """All that the record tells of a session, shown and replayed; of the newest, if none is named."""
        name = ses or str(self.newest(ended=True)["ses"])
        replayed = [json.loads(line) for line in self.get(f"sessions/{name}/replay").splitlines()]
        return json.dumps([json.loads(self.get(f"sessions/{name}")), replayed], ensure_ascii=False)

    # --- an auditor

    def verify(self, directory: Path | None = None, *more: str) -> Done:
        """The stand-alone verifier, in an interpreter that cannot see this project."""
        where = directory or self.evidence
        key = self.directory / "log.pub"
        if not key.exists():
            shutil.copyfile(self.evidence / "log" / "key.pub", key)
        return subprocess.run(
            [sys.executable, "-I", str(VERIFIER), str(where), "--key", str(key), *more], capture_output=True,
            text=True, timeout=120, cwd="/",
        )  # fmt: skip

    def signed(self) -> None:
        """Wait until the checkpoint covers all that was there when this was called."""
        wanted = int(self.asked("status")["log_size"])
        self.wait(lambda: _signed_size(self.evidence) >= wanted, "signed no checkpoint", 70.0)

    def copied(self, name: str = "copy") -> Path:
        """A copy of the evidence, as an auditor gets it."""
        where = Path(tempfile.mkdtemp(dir=self.directory)) / name
        shutil.copytree(self.evidence, where)
        return where

    def files_with(self, secret: str) -> list[str]:
        """The files of its directory, the log and the database among them, in which a text stands."""
        needle, found = secret.encode(), []
        for path in self.directory.rglob("*"):
            if path.is_file() and needle in path.read_bytes():
                found.append(str(path.relative_to(self.directory)))
        return found


class Psql:
    """A psql that runs beside the test."""

    def __init__(self, conninfo: str, arguments: Sequence[str], secret: str) -> None:
        self.out = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self.process = subprocess.Popen(
            ["psql", "-X", "-d", conninfo, *arguments], stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out,
            env=servers.client_environment(secret), start_new_session=True,
        )  # fmt: skip

    def said(self) -> str:
        """All that it has printed."""
        return os.pread(self.out.fileno(), 1 << 24, 0).decode("utf-8", "replace")

    def says(self, pattern: str | re.Pattern[str], seconds: float = 15.0) -> re.Match[str]:
        """Wait until it has printed something."""
        found = until(lambda: re.search(pattern, self.said()), seconds)
        assert found is not None, f"no {pattern!r} in: {self.said()}"
        match: re.Match[str] = found
        return match

    def approval(self) -> str:
        """Wait for the notice with the approval's id."""
        return self.says(APPROVAL)[0]

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, seconds: float = 20.0) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.out.close()


@contextlib.contextmanager
def made(directory: Path, *people: str, store: Path | None = None, **settings: Any) -> Iterator[Gateway]:
    """A gateway that is not started, with its issuer and people's keys; ended and removed whatever happens."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)
    port = free_port()
    said: dict[str, Any] = {
        "deployment": DEPLOYMENT,
        "store": str(store or directory / "store"),
        "listen": {"postgres": f"{HOST}:{port}", "api": f"unix:{directory / 'api.sock'}"},
        "sessions": {"drain": "1s", "login": "10s"},
    }
    for name, value in settings.items():
        said[name] = {**said[name], **value} if isinstance(said.get(name), dict) else value
    with DemoIssuer() as issuer:
        gateway = Gateway(directory, issuer, port, said)
        for person in people:
            gateway.people[person] = _key(directory / f"{person}_ed25519")
        try:
            yield gateway
        finally:
            gateway.close()


def secret_file(directory: Path, role: str) -> Path:
    """A file with a role's password that only this user reads. It stays outside what is searched for secrets."""
    path = directory / f"{role}.secret"
    path.touch(mode=0o600)
    path.write_text(servers.PASSWORDS[role] + "\n")
    return path


def until(holds: Callable[[], Any], seconds: float = 10.0, *, every_s: float = 0.02) -> Any:
    """What `holds` returns once it is true, or its last value when the time is over."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(every_s)
    return found


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _arguments(words: Sequence[str]) -> list[str]:
    """psql's arguments: texts become -c, an option that takes a value is followed by it."""
    found: list[str] = []
    for word in words:
        if word.startswith("-") or (found and found[-1] in ("-v", "-f", "-c", "-o", "-P")):
            found.append(word)
        else:
            found += ["-c", word]
    return found


def _signed_size(evidence: Path) -> int:
    try:
        return int((evidence / "log" / "checkpoint").read_text().split("\n")[1])
    except (OSError, IndexError, ValueError):
        return 0


def _key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.stem, "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path
