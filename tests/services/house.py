"""A gateway without its wire: database, journal, log, index, registry, approvals, sessions, evidence; and its API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from muniment.doors.http.routes import Services
from muniment.doors.http.server import api, listen, serve
from muniment.model.access import Admission, Session
from muniment.model.entries import Entry, SessionClose, SessionOpen
from muniment.model.identity import Identity, Initiator, InitiatorKind, Provenance
from muniment.services.access import ApiKeys, Logins
from muniment.services.approvals import Approvals
from muniment.services.evidence import Evidence
from muniment.services.registry import Registry
from muniment.services.sessions import Sessions
from muniment.services.status import Status
from muniment.store.database import Database
from muniment.store.index import Index
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.log import Log

T = TypeVar("T")

MANIFESTS = """\
apiVersion: muniment/v1
kind: Issuer
metadata: {name: ci}
spec: {url: "https://issuer.example.org"}
---
apiVersion: muniment/v1
kind: Identity
metadata: {name: nightly-report}
spec:
  kind: ci-job
  owner: ada@example.org
  purpose: Builds the nightly revenue report from the billing database.
  groups: {static: [reporting]}
  login:
    - oidc: {issuer: ci, match: {repository_id: "456789"}}
    - apiKey: {maxAge: 30d}
---
apiVersion: muniment/v1
kind: Target
metadata: {name: billing, labels: {environment: production}}
spec:
  protocol: postgres
  address: db.internal:5432
  tls: {mode: disable}
  roles: {report_ro: {password: {file: /run/secrets/report_ro}}}
---
apiVersion: muniment/v1
kind: Grant
metadata: {name: reads-billing}
spec:
  to: {group: reporting}
  target: billing
  as: report_ro
  databases: [billing]
  allow: [{verbs: [select, drop], resources: ["*"]}]
---
apiVersion: muniment/v1
kind: Guard
metadata: {name: production-safety}
spec:
  target: billing
  hold: [{verbs: [drop], objects: [database], approvers: {group: dba, count: 1}, within: 30m}]
---
apiVersion: muniment/v1
kind: Person
metadata: {name: grace}
spec:
  email: grace@example.org
  groups: [dba]
  keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqBRpKcNR6/XZlEzifFahVSVtduMZNuB8VIeLE7rgyM grace"]
"""


def person_manifest(name: str, line: str) -> str:
    return f"""\
apiVersion: muniment/v1
kind: Person
metadata: {{name: {name}}}
spec: {{email: {name}@example.org, groups: [dba], keys: ["{line}"]}}
"""


class Live:
    """A session that is open, as a door shows it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reasons: list[str] = []

    def cut(self, reason: str) -> None:
        self.reasons.append(reason)


class House:
    """Everything in one directory. Made and used on one event loop; `close` ends it in order."""

    def __init__(self, data: Path, manifests: Path | None = None) -> None:
        data.mkdir(exist_ok=True)
        self.data = data
        self.evidence_dir = data / "evidence"
        self.ahead_us = 0
        self.database = Database(data / "muniment.db")
        self.database.upgrade()
        self.keys = Keys.open(data / "keys")
        self.journal, _ = Journal.open(
            self.evidence_dir, "i-00000001", self.keys, now_us=self.now_us, reserve_bytes=4096
        )
        self.log = Log.open(self.evidence_dir, "gw.example.org", 2026, self.keys)
        self.index = Index(self.database, self.evidence_dir, self.keys)
        self.journal.add_sink(lambda lines: self._fold([line.line for line in lines]))
        self.registry = Registry(self.database, self.journal, now_us=self.now_us, directory=manifests)
        self.sessions = Sessions(lambda: self.registry.current, self.now_us)
        self.registry.on_change(self.sessions.recheck)
        self.approvals = Approvals(
            self.database, self.journal, lambda: self.registry.current, deployment="gw.example.org", now_us=self.now_us
        )
        self.evidence = Evidence(self.index, self.database, self.journal, self.sessions, deployment="gw.example.org")
        self.logins = Logins(self.database)
        self.api_keys = ApiKeys(self.logins, self.journal.append, lambda: self.registry.current)

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    def _fold(self, lines: list[bytes]) -> None:
        self.log.fold(lines)
        self.index.wake()

    def written(self, kind: type[Entry]) -> list[dict[str, Any]]:
        """The readable parts of the entries of one kind, in order."""
        self.journal.flush()
        lines = (self.evidence_dir / "log" / "records.jsonl").read_bytes().splitlines()
        return [leaf for line in lines if (leaf := json.loads(line))["kind"] == kind.kind]

    def services(self) -> Services:
        return Services(
            self.registry, self.approvals, self.sessions, self.evidence, self.api_keys, self.logins, self.status,
            self.now_us,
        )  # fmt: skip

    def status(self) -> Status:
        rules = self.registry.current
        return Status(
            "0", "gw.example.org", "i-00000001", str(self.evidence_dir), 1, rules.version, rules.digest, "",
            len(self.sessions.live()), self.log.size, self.log.signed.size,
            (self.registry.problem,) if self.registry.problem else (),
        )  # fmt: skip

    def session(self, ses: str = "s-1", **changed: Any) -> Session:
        """A session of the nightly report as access would admit it."""
        claims = changed.pop("claims", (("repository_id", "456789"),))
        groups = changed.pop("groups", frozenset({"reporting"}))
        method = changed.pop("method", "oidc")
        provenance = Provenance(
            method, "https://issuer.example.org" if method == "oidc" else "", "sub", "gw.example.org", "k1", "RS256",
            0, 0, "key-1", "", claims, (),
        )  # fmt: skip
        identity = Identity(
            "nightly-report", "ci-job", "ada@example.org", groups, Initiator(InitiatorKind.SCHEDULE), provenance, ""
        )
        target = self.registry.current.targets["billing"]
        admission = Admission(identity, target, "report_ro", "billing", ("reads-billing",), 1, 1 << 60)
        return Session(ses, admission, "127.0.0.1:1", "psql", "", 77, changed.pop("opened_at_us", self.now_us()))

    def open(self, ses: str = "s-1") -> None:
        """Write a session's beginning."""
        self.journal.append(
            [
                SessionOpen(
                    ses=ses, identity="nightly-report", target="billing", protocol="postgres", role="report_ro",
                    database="billing", grants=("reads-billing",), groups=("reporting",), method="oidc",
                    iss="https://issuer.example.org", kid="k1", initiator="schedule", sub="repo:acme", run="4711",
                    source="127.0.0.1:5",
                )
            ]
        )  # fmt: skip

    def end(self, ses: str = "s-1", exchanges: int = 0) -> None:
        """Write its end."""
        self.journal.append([SessionClose(ses=ses, reason="the client left", exchanges=exchanges)])

    def close(self) -> None:
        self.journal.close()
        self.log.close()
        self.index.close()
        self.database.close()


class Served:
    """A house with its API, on an event loop of its own thread. `on` runs a coroutine there."""

    def __init__(self, data: Path, where: str = "", manifests: Path | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.house = self.call(lambda: House(data, manifests))
        self.on(self.house.registry.start())
        listener, self.token = listen(where, data)
        self.port = listener.getsockname()[1] if where and not where.startswith("unix:") else 0
        self.api = f"127.0.0.1:{self.port}" if self.port else f"unix:{where.removeprefix('unix:') or data / 'api.sock'}"
        self._serving = asyncio.run_coroutine_threadsafe(
            serve(api(self.house.services(), self.token), listener), self._loop
        )

    def on(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def call(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return self.on(run())

    def close(self) -> None:
        self._serving.cancel()
        with contextlib.suppress(BaseException):  # however it ends
            self._serving.result(10)
        self.call(self.house.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
