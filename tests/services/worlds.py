"""A small world to log in to: rules, a database, a journal that keeps entries in a list, a clock to turn."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from muniment.model.access import Admission, Refusal
from muniment.model.entries import Entry
from muniment.model.errors import Unavailable
from muniment.model.identity import Check
from muniment.model.rules import (
    AllowRule,
    ApiKeyLogin,
    Grant,
    IdentityRule,
    Issuer,
    OidcLogin,
    Role,
    Rules,
    Selector,
    Target,
)
from muniment.services.access import Access, ApiKeys, Logins
from muniment.store.database import Database

DEPLOYMENT = "gw.example.org"
BILLING = Target("billing", "postgres", "db.internal", 5432, "disable", (Role("report_ro", None),))
REPORT = IdentityRule(
    name="nightly-report",
    kind="ci-job",
    owner="ada@example.org",
    purpose="Builds the nightly revenue report.",
    logins=(OidcLogin("ci", (("repository_id", "456789"),)), ApiKeyLogin(3600)),
    groups=frozenset({"reporting"}),
    groups_claim="groups",
    groups_only=frozenset({"finance"}),
)
READS = Grant(
    "reads-billing",
    "nightly-report",
    "",
    Selector("billing"),
    "report_ro",
    ("billing",),
    (AllowRule(frozenset({"select"}), ("public.*",)),),
)


def now_us() -> int:
    return int(time.time() * 1_000_000)


@dataclass
class World:
    rules: Rules
    logins: Logins
    database: Database
    entries: list[Entry] = field(default_factory=list)
    seconds: float = 1000.0  # the monotonic clock
    running: int = 0
    journal_fails: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.access = Access(
            rules=lambda: self.rules,
            deployment=DEPLOYMENT,
            logins=self.logins,
            append=self.append,
            spawn=self.spawn,
            count=lambda identity: self.running,
            clock=lambda: self.seconds,
        )
        self.keys = ApiKeys(self.logins, self.append, lambda: self.rules)

    def append(self, entries: Sequence[Entry]) -> list[str]:
        if self.journal_fails:
            raise Unavailable("the journal cannot be written", "free the disk")
        self.entries.extend(entries)
        return [hashlib.sha256(repr(entry).encode()).hexdigest() for entry in entries]

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def login(
        self, secret: str, *, user: str = "nightly-report", database: str = "billing", **more: Any
    ) -> Admission | Refusal:
        asked: dict[str, Any] = {
            "target": self.rules.targets["billing"],
            "source": "192.0.2.7:40000",
            "tls": True,
            "now_us": now_us(),
        }
        asked.update(more)
        return await self.access.authenticate(user, secret, asked.pop("target"), database=database, **asked)

    def changes(self, **identity: Any) -> None:
        """Change the identity, as an apply would."""
        rule = replace(self.rules.identities["nightly-report"], **identity)
        self.rules = replace(self.rules, version=self.rules.version + 1, identities={rule.name: rule})

    def trusts(self, **issuer: Any) -> None:
        """Change the issuer, as an apply would."""
        self.rules = replace(
            self.rules, version=self.rules.version + 1, issuers={"ci": replace(self.rules.issuers["ci"], **issuer)}
        )


@cache
def _empty_database() -> bytes:
    with TemporaryDirectory() as folder:
        database = Database(Path(folder) / "empty.db")
        database.upgrade()
        database.close()
        return (Path(folder) / "empty.db").read_bytes()


def world(folder: Path, issuer_url: str, **issuer: Any) -> World:
    (folder / "muniment.db").write_bytes(
        _empty_database()
    )  # migrating it anew for each test takes longer than the test
    database = Database(folder / "muniment.db")
    rules = Rules(
        version=7,
        issuers={"ci": Issuer("ci", issuer_url, **issuer)},
        identities={"nightly-report": REPORT},
        targets={"billing": BILLING},
        grants={"reads-billing": READS},
        refs={"Identity/nightly-report": "ab" * 32},
    )
    return World(rules, Logins(database), database)


def failed(outcome: Admission | Refusal) -> list[str]:
    """Names of the checks that failed; empty for an admission."""
    return [check.name for check in outcome.checks if not check.passed] if isinstance(outcome, Refusal) else []


def check(outcome: Admission | Refusal, name: str) -> Check:
    checks = outcome.checks if isinstance(outcome, Refusal) else outcome.identity.provenance.checks
    (found,) = [one for one in checks if one.name == name]
    return found
