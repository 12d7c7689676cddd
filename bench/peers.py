"""The peers that are measured: nothing in between, PgBouncer in session mode, and the gateway."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.live import servers
from tests.live.certificates import authority, certificate
from tests.live.servers import HOST, PASSWORDS, Broken, Cluster

ROLE = "report_ro"
DATABASE = "bench"
IDENTITY = "bench"
START_S = 30

MANIFESTS = """\
apiVersion: muniment/v1
kind: Identity
metadata: {{name: {identity}}}
spec:
  kind: service
  owner: ada@example.org
  purpose: Measures what the gateway costs.
  login: [{{apiKey: {{maxAge: 1d}}}}]
  session: {{maxAge: 4h, parallel: 100}}
---
apiVersion: muniment/v1
kind: Target
metadata: {{name: plain, labels: {{bench: "yes"}}}}
spec:
  protocol: postgres
  address: {host}:{port}
  tls: {{mode: disable}}
  listen: {{port: {plain}}}
  roles: {{{role}: {{password: {{env: BENCH_TARGET_PASSWORD}}}}}}
---
apiVersion: muniment/v1
kind: Target
metadata: {{name: masked, labels: {{bench: "yes", scope: pci}}}}
spec:
  protocol: postgres
  address: {host}:{port}
  tls: {{mode: disable}}
  listen: {{port: {masked}}}
  roles: {{{role}: {{password: {{env: BENCH_TARGET_PASSWORD}}}}}}
---
apiVersion: muniment/v1
kind: Grant
metadata: {{name: bench-reads-plain}}
spec:
  to: {{identity: {identity}}}
  target: plain
  as: {role}
  databases: [{database}]
  allow: [{{verbs: [select], resources: [public.*]}}]
  basics: client
---
apiVersion: muniment/v1
kind: Grant
metadata: {{name: bench-reads-masked}}
spec:
  to: {{identity: {identity}}}
  target: masked
  as: {role}
  databases: [{database}]
  allow: [{{verbs: [select], resources: [public.*]}}]
  basics: client
---
apiVersion: muniment/v1
kind: Guard
metadata: {{name: no-drop}}
spec:
  target: {{labels: {{bench: "yes"}}}}
  deny: [{{verbs: [drop, truncate], objects: [table, schema]}}]
---
apiVersion: muniment/v1
kind: Mask
metadata: {{name: cardholder-data}}
spec:
  target: {{labels: {{scope: pci}}}}
  columns: {{card_number: [public.customers.card_number]}}
  detect: [card_number, us_ssn, email, api_secret]
  show: {{card_number: first6-last4, us_ssn: redact, email: redact, api_secret: redact}}
  original: forget
"""

SETTINGS = """\
deployment: bench.example.org
store: {store}
manifests: {manifests}
listen: {{postgres: "127.0.0.1:{shared}", api: "unix:{store}/api.sock", allowPlaintextLoopback: true}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that a client can connect to. pid: the process that is measured, 0 for none."""

    name: str
    port: int
    pid: int
    user: str
    password: str = field(repr=False)

    def conninfo(self, *, tls: bool) -> str:
        """Where a client connects to; the password goes by the environment."""
        mode = "require" if tls else "disable"
        return f"host={HOST} port={self.port} user={self.user} dbname={DATABASE} sslmode={mode}"


def direct(cluster: Cluster) -> Peer:
    """No proxy: what the clients and the server do by themselves."""
    return Peer("direct", cluster.port, 0, ROLE, PASSWORDS[ROLE])


@dataclass(slots=True)
class Bouncer:
    """PgBouncer, as a peer."""

    peer: Peer
    server: servers.Bouncer

    @classmethod
    def start(cls, cluster: Cluster) -> Bouncer:
        """Start it in front of `cluster`, with TLS offered."""
        with tempfile.TemporaryDirectory() as made:
            certificate(authority(Path(made), "ca"), Path(made), "server", ("localhost", HOST))
            server = servers.start_bouncer(cluster, certificates=Path(made))
        return cls(Peer("pgbouncer", server.port, server.process.pid, ROLE, PASSWORDS[ROLE]), server)

    def stop(self) -> None:
        """Stop it."""
        self.server.stop()


@dataclass(slots=True)
class Gateway:
    """The gateway, started by a command, with one target that is masked and one that is not."""

    plain: Peer
    masked: Peer
    process: subprocess.Popen[bytes]
    directory: Path

    @classmethod
    def start(cls, cluster: Cluster, command: str) -> Gateway:
        """Write settings and manifests, start `command` ("{config}" stands for the settings' file), issue a key."""
        directory = Path(tempfile.mkdtemp(prefix="muniment-bench-"))
        manifests, config, store = directory / "manifests.d", directory / "muniment.yaml", directory / "data"
        manifests.mkdir()
        ports = {"plain": servers.free_port(), "masked": servers.free_port()}
        (manifests / "bench.yaml").write_text(
            MANIFESTS.format(
                identity=IDENTITY, host=cluster.host, port=cluster.port, role=ROLE, database=DATABASE, **ports
            )
        )
        config.write_text(SETTINGS.format(store=store, manifests=manifests, shared=servers.free_port()))
        environment = os.environ | {"BENCH_TARGET_PASSWORD": PASSWORDS[ROLE]}
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [part.format(config=config) for part in shlex.split(command)],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            _answers(process, ports["plain"], directory / "log")
            key = _issue_key(command, config, store)
        except BaseException:
            process.kill()
            process.wait(10)
            shutil.rmtree(directory)
            raise
        plain, masked = (Peer(f"gateway, {name}", port, process.pid, IDENTITY, key) for name, port in ports.items())
        return cls(plain, masked, process, directory)

    def stop(self) -> None:
        """Stop it in order; raises if it does not."""
        self.process.terminate()
        try:
            code = self.process.wait(30)
        finally:
            self.process.kill()
        log = (self.directory / "log").read_text("utf-8", "replace")
        shutil.rmtree(self.directory)
        if code:
            raise Broken(f"the gateway ended with {code}:\n{log[-4000:]}")


def _answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    ready = shutil.which("pg_isready") or "pg_isready"
    while subprocess.run([ready, "-q", "-h", HOST, "-p", str(port)], env=servers.client_environment()).returncode:
        if process.poll() is not None or time.monotonic() > end:
            raise Broken(f"the gateway did not start:\n{log.read_text('utf-8', 'replace')[-4000:]}")
        time.sleep(0.1)


def _issue_key(command: str, config: Path, store: Path) -> str:
    program = shlex.split(command)[0]
    made = subprocess.run(
        [program, "identities", "key", "issue", IDENTITY, "--json"],
        capture_output=True, text=True, env=os.environ | {"MUNIMENT_API": f"unix:{store}/api.sock"},
    )  # fmt: skip
    if made.returncode:
        raise Broken(f"no key could be issued ({config.name}):\n{made.stdout}{made.stderr}")
    return str(json.loads(made.stdout)["key"])
