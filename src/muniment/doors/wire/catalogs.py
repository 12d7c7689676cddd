"""The names of each target's databases, read over a connection of the gateway's own and shared for half a minute."""

from __future__ import annotations

import asyncio
import hashlib
import secrets as random
from collections.abc import Callable, Generator
from itertools import count
from typing import Any

from muniment.doors.wire import dial
from muniment.doors.wire.pipe import Gone, Pipe
from muniment.model.effects import Read, Send, Step, Unlock
from muniment.model.entries import CatalogueRead
from muniment.model.errors import ProtocolError, Unavailable
from muniment.model.exchange import Catalog
from muniment.model.rules import Rules, Target
from muniment.protocols.postgres import catalogue, frames, login
from muniment.services import secrets
from muniment.store.journal import Journal

FRESH_US = 30_000_000  # names that others changed are seen within half a minute
LOAD_S = 10.0
TAG = "muniment catalogue"

_versions = count(1)


class Catalogs:
    """Implements `door.CatalogSource`. One load at a time for each database and role."""

    def __init__(self, rules: Callable[[], Rules], journal: Journal, now_us: Callable[[], int]) -> None:
        self._rules = rules
        self._journal = journal
        self._now_us = now_us
        self._kept: dict[tuple[str, str, str], Catalog] = {}
        self._digests: dict[tuple[str, str, str], str] = {}
        self._locks: dict[tuple[str, str, str], asyncio.Lock] = {}

    async def get(self, target: str, database: str, role: str) -> Catalog:
        """The catalogue, at most 30 s old. Unavailable when the target does not give it."""
        kept = self._kept.get((target, database, role))
        if kept is not None and self._is_fresh(kept):
            return kept
        return await self._load(target, database, role, self._is_fresh)

    def _is_fresh(self, catalog: Catalog) -> bool:
        return 0 <= self._now_us() - catalog.loaded_at_us < FRESH_US  # from the future: the clock was set back

    async def fresh(self, target: str, database: str, role: str, than: Catalog | None) -> Catalog:
        """One that was loaded after this call or later than `than`."""
        asked_us = self._now_us()
        return await self._load(target, database, role, lambda c: c.loaded_at_us >= asked_us)

    async def _load(self, target: str, database: str, role: str, enough: Callable[[Catalog], bool]) -> Catalog:
        key = (target, database, role)
        async with self._locks.setdefault(key, asyncio.Lock()):
            kept = self._kept.get(key)
            if kept is not None and enough(kept):
                return kept
            rule = self._rules().targets.get(target)
            if rule is None:
                raise Unavailable(f"target {target} was removed")
            try:
                async with asyncio.timeout(LOAD_S):
                    catalog = await self._read(rule, database, role, key)
            except TimeoutError:
                raise Unavailable(f"target {target} did not give its catalogue in time", "see its load") from None
            except (ProtocolError, login.TargetError, Gone) as error:
                raise Unavailable(f"target {target} did not give its catalogue", str(error)) from error
            self._kept[key] = catalog
            return catalog

    async def _read(self, target: Target, database: str, role: str, key: tuple[str, str, str]) -> Catalog:
        pipe = await dial.dial(target)
        try:
            now_us = self._now_us()
            if target.tls != "disable":
                await _begin_tls(pipe, target)
            rows, pid = await _run(_session(role, database), pipe, target, role)
            pipe.write(frames.TERMINATE)
        finally:
            pipe.close()
        digest = hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()
        old = self._kept.get(key)
        if old is not None and self._digests.get(key) == digest:
            return Catalog(
                database, old.version, now_us, old.relations, old.by_oid, old.functions, old.depends, old.inherits,
                old.shipped, old.ruled,
            )  # fmt: skip
        catalog = catalogue.read_catalog(rows, database, next(_versions), now_us)
        self._digests[key] = digest
        entry = CatalogueRead(
            target=target.name, database=database, role=role, pid=pid, relations=len(catalog.relations), digest=digest
        )
        self._journal.append([entry])
        return catalog


async def _begin_tls(pipe: Pipe, target: Target) -> None:
    pipe.write(frames.SSL_REQUEST_PACKET)
    if await pipe.read(1) != b"S":
        raise Unavailable(f"target {target.name} does not speak TLS", "turn TLS on there")
    await dial.secure(pipe, target)


def _session(role: str, database: str) -> Generator[Step, Any, tuple[catalogue.Rows, int]]:
    settings = {"application_name": TAG, "client_encoding": "UTF8"}
    yield from login.enter(role, database, settings, random.token_bytes(18))
    _, pid, _, _ = yield from login.until_ready()
    rows, _, _ = yield from login.ask(catalogue.CATALOG_QUERY)
    return rows, pid


async def _run(
    steps: Generator[Step, Any, tuple[catalogue.Rows, int]], pipe: Pipe, target: Target, role: str
) -> tuple[catalogue.Rows, int]:
    answer: object = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        answer = None
        match step:
            case Read(_, size):
                answer = await pipe.read(size)
            case Send(_, data):
                pipe.write(data)
            case Unlock():
                answer = secret_of(target, role)
            case _:
                raise Unavailable("a step that has no place in the gateway's own login")


def secret_of(target: Target, name: str) -> str:
    """The target's secret for this role. Unavailable when nobody configured one or it cannot be read; where it should
    be read from is in the mend alone, which clients are not told."""
    role = next((role for role in target.roles if role.name == name), None)
    if role is None or role.secret is None:
        mend = f"give roles.{name}.password in Target/{target.name}"
        raise Unavailable(f"target {target.name} asks for a secret that nobody configured", mend)
    try:
        return secrets.resolve(role.secret)
    except Unavailable as why:
        raise Unavailable(f"the gateway has no secret for target {target.name}", str(why)) from None
