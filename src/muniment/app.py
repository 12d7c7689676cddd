"""The only place where things are wired together: from `muniment.yaml` to a running gateway, and back in order."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import logging
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

import muniment
from muniment.doors.http import server as http
from muniment.doors.http.routes import Services
from muniment.doors.wire import tls
from muniment.doors.wire.catalogs import Catalogs
from muniment.doors.wire.door import Door
from muniment.doors.wire.listen import Listeners, listening
from muniment.judge import basics
from muniment.judge.settings import Settings, read_settings
from muniment.model.entries import Heartbeat, InstanceFail, InstanceStart, InstanceStop
from muniment.model.errors import ConfigError, Unavailable
from muniment.model.rules import Rules
from muniment.protocols.languages import POSTGRES
from muniment.services.access import Access, ApiKeys, Logins
from muniment.services.approvals import Approvals
from muniment.services.evidence import Evidence
from muniment.services.gate import Gate
from muniment.services.reading import Reader
from muniment.services.registry import Registry
from muniment.services.sessions import Sessions
from muniment.services.status import Status
from muniment.store import disk, recordings, recovery
from muniment.store.database import Database
from muniment.store.index import Index
from muniment.store.journal import Journal
from muniment.store.keys import Keys
from muniment.store.log import Log
from muniment.store.replay import SyncedLine

log = logging.getLogger("muniment")

TICK_S = 1.0
GARBAGE = 50_000  # new containers until the collector looks for cycles; exchanges make none, only the API's calls do
HEARTBEAT_US = 60_000_000
DISK_US = 5_000_000


def now_us() -> int:
    """Microseconds UTC."""
    return time.time_ns() // 1000


class Tasks:
    """Every task of the program: kept, logged when it crashes, and ended with it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task; the one way to do so."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, Unavailable):
                log.error("%s: %s", task.get_name(), error)
            else:
                log.error("%s crashed", task.get_name(), exc_info=error)

    async def finish(self, timeout_s: float, name: str = "") -> None:
        """Wait for those called `name` (all, when empty), then cancel what is left of them."""
        waiting = {task for task in self._running if not name or task.get_name() == name}
        if (me := asyncio.current_task()) is not None:
            waiting.discard(me)
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


class Gateway:
    """One running gateway. Made by `running`."""

    def __init__(self, settings: Settings, tasks: Tasks) -> None:
        self.settings = settings
        self.tasks = tasks
        self.started_us = now_us()
        self.boot = _boot()
        self.data = Path(settings.store)
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.evidence_dir = self.data / "evidence"
        self.instance = _instance(self.data / "instance")
        self.keys = Keys.open(self.data / "keys")
        self.database = Database(self.data / "muniment.db")
        self.database.upgrade()
        year = datetime.datetime.now(datetime.UTC).year
        self.log = Log.open(self.evidence_dir, settings.deployment, year, self.keys)
        self.journal, self.recovery = Journal.open(
            self.evidence_dir, self.instance, self.keys, now_us=now_us, folded=self.log.folded(self.instance)
        )
        self.index = Index(self.database, self.evidence_dir, self.keys)
        self._fold_the_past()
        self.journal.add_sink(self._fold)
        self.journal.append(list(recovery.settle(self.recovery, self.boot, self._finish_recording)))
        recovered = len(self.recovery.open_exchanges)
        if not self.recovery.clean:
            log.warning("%s", _recovered(self.recovery))
        self.journal.append(
            [InstanceStart(software=f"muniment {muniment.__version__}", boot=self.boot, recovered=recovered)]
        )
        digest = self.log.publish_basics(basics.published())
        directory = Path(settings.manifests) if settings.manifests else None
        self.registry = Registry(
            self.database, self.journal, now_us=now_us, directory=directory, basics=digest
        )  # fmt: skip
        self.sessions = Sessions(lambda: self.registry.current, now_us)
        self.reader = Reader()
        self.approvals = Approvals(
            self.database, self.journal, lambda: self.registry.current, deployment=settings.deployment, now_us=now_us
        )
        self.gate = Gate(
            self.journal, self.reader, lambda: self.registry.current, self.approvals, redact=POSTGRES.redact,
            reader_version=POSTGRES.reader, pseudonym_key=self.keys.pseudonym_key(), now_us=now_us, spawn=tasks.spawn,
        )  # fmt: skip
        self.logins = Logins(self.database)
        self.access = Access(
            rules=lambda: self.registry.current, deployment=settings.deployment, logins=self.logins,
            append=self.journal.append, spawn=tasks.spawn, count=self.sessions.count,
        )  # fmt: skip
        self.ca, self.cert, self.key = self._certificates()
        self._context = tls.server_context(self.cert, self.key)
        self.door = Door(
            access=self.access, gate=self.gate, sessions=self.sessions, keys=self.keys,
            rules=lambda: self.registry.current, catalogs=Catalogs(lambda: self.registry.current, self.journal, now_us),
            evidence=self.evidence_dir, now_us=now_us, spawn=tasks.spawn, tls=lambda: self._context,
            plain_ok=settings.plain_on_loopback, login_s=settings.login_s, refuse=self.why_refuse,
        )  # fmt: skip
        self.listeners = Listeners(self.door, settings.postgres_host, settings.postgres_port)
        self.evidence = Evidence(
            self.index, self.database, self.journal, self.sessions, deployment=settings.deployment
        )  # fmt: skip
        self._failure_told = False
        self._disk = disk.Level.FINE
        self._disk_seen_us = self._beat_us = 0
        self.problems: tuple[str, ...] = ()

    # --- evidence -----------------------------------------------------------------------------------------------------

    def _fold_the_past(self) -> None:
        for batch in self.journal.replay_from(self.log.folded(self.instance) + 1):
            self.log.fold([line.line for line in batch])

    def _fold(self, lines: list[SyncedLine]) -> None:
        self.index.expect(self.instance, lines)
        self.log.fold_synced(self.instance, lines)
        self.index.wake()

    def _finish_recording(self, ses: str) -> tuple[recordings.Closed | None, recordings.Closed | None]:
        return recordings.finish_session(self.evidence_dir, ses, self.keys)

    def _certificates(self) -> tuple[Path | None, Path, Path]:
        if self.settings.tls_cert and self.settings.tls_key:
            return None, Path(self.settings.tls_cert), Path(self.settings.tls_key)
        now = datetime.datetime.now(datetime.UTC)
        return tls.ensure(self.data / "tls", self.settings.deployment, now)

    def why_refuse(self) -> str:
        """Why no session may begin now; empty when it may."""
        if self.journal.failed:
            return f"the journal cannot be written: {self.journal.failed}"
        if self._disk is disk.Level.NO_NEW_SESSIONS:
            return f"less than {disk.NO_SESSIONS_BELOW:.0%} of the evidence's disk is free"
        return ""

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self, *, api: bool = True) -> None:
        """Put the rules in force and listen. ConfigError, Unavailable."""
        self._look_at_disk(now_us())
        await self.reader.start()
        await self.registry.start()
        self.registry.on_change(self.sessions.recheck)
        self.registry.on_change(lambda _old, _new: self.tasks.spawn("listeners", self._relisten()) and None)
        self.index.start()
        self.index.wake()
        await self.listeners.follow(self.registry.current)
        self.tasks.spawn("ticks", self._ticks())
        self.tasks.spawn("approvals", self.approvals.run())
        if self.registry.directory is not None:
            self.tasks.spawn("manifests", self.registry.watch())
        if api:
            listener, token = http.listen(self.settings.api, self.data)
            keys = ApiKeys(self.logins, self.journal.append, lambda: self.registry.current)
            services = Services(
                self.registry, self.approvals, self.sessions, self.evidence, keys, self.logins, self.status, now_us
            )
            self.tasks.spawn("api", http.serve(http.api(services, token), listener))
        for line in listening(self.listeners.ports):
            log.info("listening: %s", line)

    async def _relisten(self) -> None:
        try:
            await self.listeners.follow(self.registry.current)
        except ConfigError as error:
            log.error("%s", error)
            self.problems = (str(error),)

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            # A task each, so that one that fails is told of and the next one is tried: without ticks nothing is signed.
            await asyncio.wait([self.tasks.spawn("tick", self._one_tick())])

    async def _one_tick(self) -> None:
        self._tick(now_us())
        await asyncio.to_thread(self.log.tick, now_us())

    def _tick(self, now: int) -> None:
        if self.journal.failed and not self._failure_told:
            self._failure_told = True
            log.error("no traffic: the journal cannot be written: %s", self.journal.failed)
            self.journal.append_closing([InstanceFail(what=f"journal: {self.journal.failed}")])
            self.sessions.cut_all("the journal cannot be written")
        if abs(now - self._disk_seen_us) > DISK_US:  # the clock may be set back
            self._look_at_disk(now)
        if abs(now - self._beat_us) >= HEARTBEAT_US:
            self._beat_us = now
            self.journal.append([self._heartbeat()])
        self.access.tick(now)

    def _heartbeat(self) -> Heartbeat:
        sums = self.door.arithmetic
        return Heartbeat(
            accepted=sums.accepted, rejected=sums.rejected, opened=sums.opened, closed=sums.closed,
            open=sums.opened - sums.closed,
        )  # fmt: skip

    def _look_at_disk(self, now: int) -> None:
        self._disk_seen_us = now
        free = disk.free_fraction(self.evidence_dir)
        level = disk.level(free)
        if level > self._disk:
            what = f"{free:.0%} of the evidence's disk is free"
            log.error("%s; under %.0f %% no session begins", what, disk.NO_SESSIONS_BELOW * 100)
            self.journal.append_closing([InstanceFail(what=what)])
        self._disk = level

    def status(self) -> Status:
        """For operators."""
        problems = list(self.problems)
        problems += filter(None, (self.why_refuse(), self.registry.problem, self.index.failed))
        if self._disk is disk.Level.ALARM:
            problems.append(f"less than {disk.ALARM_BELOW:.0%} of the evidence's disk is free: make room")
        rules: Rules = self.registry.current
        return Status(
            version=muniment.__version__, deployment=self.settings.deployment, instance=self.instance,
            evidence=str(self.evidence_dir), started_us=self.started_us, rules_version=rules.version,
            rules_digest=rules.digest, manifests=self.settings.manifests or "", sessions=len(self.sessions.live()),
            log_size=self.log.size, checkpoint_size=self.log.signed.size, problems=tuple(problems),
        )  # fmt: skip

    async def stop(self, reason: str) -> None:
        """End every session, write the last lines, sign, and let go."""
        self.listeners.close()
        deadline = time.monotonic() + self.settings.drain_s
        while self.sessions.live() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self.sessions.cut_all("the gateway is stopping")
        await self.tasks.finish(10.0, "connection")
        await self.tasks.finish(0.0)
        self.gate.flush()
        with contextlib.suppress(Unavailable):
            self.access.flush(now_us())
            self.journal.append([self._heartbeat()])
            self.journal.append([InstanceStop(reason=reason)])
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """The files; blocking."""
        self.journal.close()
        with contextlib.suppress(Unavailable):
            self.log.checkpoint(now_us())
        recordings.shared_worker().stop()
        self.index.close()
        self.log.close()
        self.reader.close()
        self.database.close()


def _boot() -> str:
    """The machine's boot id: after a power cut it is another one, after a kill the same."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(16)


def _recovered(found: recovery.Recovery) -> str:
    """What the last run left behind, in words for its operator."""
    counts = (
        (len(found.open_sessions), "sessions were open"),
        (len(found.open_exchanges), "exchanges had been released without an end on record: outcome unknown"),
        (len(found.waiting), "exchanges waited for people and were never released"),
        (found.torn_bytes, "bytes of a line that was never released were cut"),
        (found.lost_payloads, "lines lost their sealed payload"),
    )
    said = "; ".join(f"{number} {what}" for number, what in counts if number)
    return f"recovered: the last run did not end in order: {said}"


def _instance(path: Path) -> str:
    """The name of this instance's journal, made once."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()  # the journal refuses what is no name
    except FileNotFoundError:
        name = "i-" + secrets.token_hex(4)
        path.write_text(name + "\n", encoding="ascii")
        return name


@asynccontextmanager
async def running(settings: Settings, *, api: bool = True, reason: str = "stopped") -> AsyncIterator[Gateway]:
    """A gateway that runs inside the block."""
    tasks = Tasks()
    gateway = Gateway(settings, tasks)
    try:
        await gateway.start(api=api)
        yield gateway
    finally:
        await gateway.stop(reason)


async def _serve(settings: Settings, ready: Callable[[Gateway], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, reason="signal") as gateway:
        ready(gateway)
        gc.collect()
        gc.freeze()  # what is here now stays: it need not be looked through each time
        gc.set_threshold(GARBAGE, 10, 10)
        await stop.wait()


def _say_ready(gateway: Gateway) -> None:
    log.info("ready: rules version %d, evidence in %s", gateway.registry.current.version, gateway.evidence_dir)
    if gateway.ca is not None:
        log.info("clients verify us by %s (sslmode=verify-full sslrootcert=...)", gateway.ca)


def _limits() -> None:
    """As many files as we may have, a session needs four; and no core dump, which would hold every secret."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(path: Path) -> int:
    """`muniment serve -c path`: run until SIGTERM or SIGINT. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for chatty in ("alembic", "httpx", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.umask(0o077)
    _limits()
    try:
        settings = read_settings(str(path), path.read_text(encoding="utf-8"))
        uvloop.run(_serve(settings, _say_ready))
    except (ConfigError, Unavailable) as error:
        print(f"muniment: {error}", file=sys.stderr)
        return 1
    except UnicodeDecodeError:
        print(f"muniment: {path}: it is not UTF-8\n    mend: write it as UTF-8 text", file=sys.stderr)
        return 1
    except OSError as error:
        mend = "name a place that this user may read, and write where it is the store"
        print(f"muniment: {error.filename or path}: {error.strerror or error}\n    mend: {mend}", file=sys.stderr)
        return 1
    return 0
