"""The stage of the demo: a directory with a database, an issuer, a gateway and a person's key, all gone at the end."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from muniment.demo import cluster, manifests
from muniment.demo.issuer import DemoIssuer
from muniment.model.errors import Unavailable

READY_S = 30.0
COMMAND_S = 60.0
TOKEN_S = 3600  # of the tokens for the lines to paste; CI tokens live minutes, people read longer

# What `job` calls: asks the demo issuer for a token, as a CI job asks its CI system.
MINTING = """\
#!{python} -I
\"\"\"DEMO ONLY. Prints a token of the demo's made-up issuer.\"\"\"
import json, time, urllib.request

claims = json.loads({claims!r}) | {{"exp": int(time.time()) + {lifetime}}}
ask = urllib.request.Request({url!r}, json.dumps(claims).encode())
direct = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
print(json.load(direct.open(ask, timeout=10))["id_token"])
"""


@dataclass(frozen=True, slots=True)
class Psql:
    """A psql. tls: whether it can speak TLS at all; major: of its version."""

    program: str
    tls: bool
    major: int


@dataclass(slots=True)
class Stage:
    """Everything that is up. port: the gateway's listener for the target `billing`; log: the gateway's."""

    directory: Path
    database: cluster.Cluster
    issuer: DemoIssuer
    port: int
    api: Path
    log: Path
    key: Path
    gateway: subprocess.Popen[bytes] = field(repr=False)
    applied: str = ""

    @property
    def ca(self) -> Path:
        """What a client of the gateway trusts."""
        return self.directory / "store" / "tls" / "ca.pem"

    def mint(self, lifetime_s: int = 300) -> str:
        """A token for the job; a negative lifetime makes one that is over."""
        now = int(time.time())
        return self.issuer.mint({**manifests.CLAIMS, "iat": now - 600, "nbf": now - 600}, lifetime_s=lifetime_s)

    def connection(self, psql: Psql) -> dict[str, str]:
        """libpq's settings for the job, without the password."""
        found = {
            "PGHOST": manifests.DEPLOYMENT, "PGPORT": str(self.port), "PGUSER": manifests.IDENTITY,
            "PGDATABASE": "billing",
        }  # fmt: skip
        if psql.tls:
            return found | {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.ca)}
        return found | {"PGSSLMODE": "disable"}

    def muniment(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The real command, as a process of its own."""
        return subprocess.run(
            [*PROGRAM, *arguments], capture_output=True, text=True, timeout=COMMAND_S, cwd=self.directory,
            env=self.operator(), stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def operator(self) -> dict[str, str]:
        """An environment in which `muniment` finds this gateway."""
        return cluster.clean_environment() | {"MUNIMENT_API": f"unix:{self.api}", "COLUMNS": "132"}

    def trouble(self) -> str:
        """The end of the gateway's log."""
        return tail(self.log)


PROGRAM = (sys.executable, "-m", "muniment.doors.cli.main")


def find_psql(programs: cluster.Programs) -> Psql:
    """The machine's psql where there is one, else the wheel's. Raises Unavailable if neither runs."""
    return look_at(shutil.which("psql") or str(programs.bin / "psql"))


def look_at(program: str) -> Psql:
    """What a psql can do. Raises Unavailable when it does not run."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=COMMAND_S, check=False)
        # libpq refuses this before it connects where it was built without TLS; nobody listens at this port
        asked = [program, "-X", "-w", "host=127.0.0.1 port=1 user=nobody dbname=none sslmode=verify-full"]
        tried = subprocess.run(
            asked, capture_output=True, text=True, timeout=COMMAND_S, check=False, env=cluster.clean_environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{program} does not run ({error})", "repair it, or take it off PATH") from error
    found = re.search(r"\b(\d+)(?:\.\d+|devel|beta\d|rc\d)", said.stdout)
    return Psql(program, "not compiled in" not in tried.stderr, int(found[1]) if found else 0)


@contextmanager
def raised(say: Callable[[str], None]) -> Iterator[Stage]:
    """The stage, up inside the block. say: told what is being done. Raises Unavailable when something stays down."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="muniment-demo-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o711)  # the database's user walks through; every secret has a narrower mode of its own
        say(f"everything is under {directory} and on 127.0.0.1")
        database = cluster.start(directory / "pg", directory)
        stack.callback(database.stop)
        password = _fill(database, directory)
        say(f"PostgreSQL {database.sql('SHOW server_version')} with a small database `billing` at port {database.port}")
        issuer = stack.enter_context(DemoIssuer())
        say(f"a made-up issuer of tokens at {issuer.url}")
        key = _person(directory)
        port = cluster.free_port()
        folder = directory / "manifests"
        folder.mkdir(mode=0o700)
        (folder / "billing.yaml").write_text(
            manifests.manifests(
                issuer=issuer.url, database_port=database.port, port=port, password_file=str(password),
                key=key.with_suffix(".pub").read_text().strip(),
            )
        )  # fmt: skip
        gateway = _gateway(directory)
        stack.callback(cluster.end, gateway, signal.SIGTERM)
        stage = Stage(
            directory, database, issuer, port, directory / "api.sock", directory / "gateway.log", key, gateway
        )  # fmt: skip
        _wait(stage, lambda: _answers(stage.api), "its API")
        applied = stage.muniment("apply", "-f", str(folder))
        if applied.returncode:
            raise Unavailable(f"the gateway did not take the manifests: {_said(applied)}", "report this")
        stage.applied = applied.stdout
        _wait(stage, lambda: _answers(port), f"port {port}")
        say(f"the gateway is ready: target `billing` at port {port}, API at {stage.api}")
        yield stage


def _fill(database: cluster.Cluster, directory: Path) -> Path:
    """The role, its databases and rows; returns the file with the role's password, which only the gateway reads."""
    secret = secrets.token_urlsafe(24)
    path = directory / "billing_app.password"
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    # over standard input: a command line could be read by others
    database.load(f"CREATE ROLE {manifests.ROLE} LOGIN PASSWORD '{secret}';", cluster.SUPERUSER)
    for name in ("billing", cluster.SCRATCH):
        database.sql(f"CREATE DATABASE {name} OWNER {manifests.ROLE}")
    database.load(manifests.DATABASE, "billing")
    return path


def _person(directory: Path) -> Path:
    """A fresh SSH key for grace. Raises Unavailable without ssh-keygen."""
    path = directory / "grace_ed25519"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "grace@example.org", "-f", str(path)]
    try:
        subprocess.run(command, capture_output=True, timeout=COMMAND_S, check=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise Unavailable("ssh-keygen is not here", "install OpenSSH's client") from error
    except subprocess.SubprocessError as error:
        raise Unavailable(f"ssh-keygen made no key ({error})", "see its message") from error
    return path


def _gateway(directory: Path) -> subprocess.Popen[bytes]:
    config = directory / "muniment.yaml"
    config.write_text(manifests.settings(store=str(directory / "store"), api=str(directory / "api.sock")))
    with (directory / "gateway.log").open("wb") as log:
        # a session of its own: Ctrl-C reaches us alone, and we end things in order
        return subprocess.Popen(
            [*PROGRAM, "serve", "-c", str(config)], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=cluster.clean_environment(), start_new_session=True,
        )  # fmt: skip


def _wait(stage: Stage, ready: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + READY_S
    while not ready():
        if (code := stage.gateway.poll()) is not None:
            raise Unavailable(f"the gateway ended with {code}:\n{stage.trouble()}", "see its message")
        if time.monotonic() > until:
            raise Unavailable(f"{what} did not answer in {READY_S:.0f} s:\n{stage.trouble()}", "see its message")
        time.sleep(0.05)


def _answers(at: Path | int) -> bool:
    family = socket.AF_UNIX if isinstance(at, Path) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(at) if isinstance(at, Path) else (cluster.HOST, at)) == 0


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr).strip()


def tail(path: Path, characters: int = 3000) -> str:
    """The end of a log."""
    return path.read_text("utf-8", "replace")[-characters:].strip() if path.exists() else "(no log)"


# For people: files to source


def write_lines(stage: Stage, psql: Psql) -> tuple[Path, Path]:
    """The files `job` and `grace`, to be sourced in two terminals."""
    token = stage.directory / "token"
    claims = json.dumps(manifests.CLAIMS)
    text = MINTING.format(
        python=sys.executable, claims=claims, lifetime=TOKEN_S, url=f"{stage.issuer.url}/token"
    )  # fmt: skip
    token.write_text(text)
    token.chmod(0o700)
    job, grace = stage.directory / "job", stage.directory / "grace"
    reach = _path(Path(psql.program).parent)
    job.write_text(reach + _exports(stage.connection(psql)) + f"export PGPASSWORD=$({shlex.quote(str(token))})\n")
    more = {"MUNIMENT_API": f"unix:{stage.api}", "GRACE": str(stage.key)}
    grace.write_text(_path(Path(sys.executable).parent) + _exports(more))
    return job, grace


def _exports(values: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def _path(folder: Path) -> str:
    """A line that makes a folder's programs reachable, empty where they are."""
    known = os.environ.get("PATH", "").split(os.pathsep)
    return (
        ""
        if str(folder) in known and folder.parts[:2] == ("/", "usr")
        else f'export PATH={shlex.quote(str(folder))}:"$PATH"\n'
    )
