"""Statements read into Actions: from a cache in the same call, else by a helper process that may die without harm."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
import subprocess
import sys
import time
from typing import Generic, TypeVar

from muniment.model.errors import Unavailable
from muniment.model.exchange import Action, Catalog, Statement
from muniment.protocols.postgres.meaning import MAX_FOLLOWED, needs, opaque, resolve
from muniment.protocols.sql.literals import shape
from muniment.protocols.sql.postgres import MAX_STATEMENT_BYTES
from muniment.protocols.sql.reading import Reading
from muniment.services.reading_worker import MAX_ANSWER_BYTES

LANGUAGE = "postgres"
HELPERS = 2  # one text that takes long, or kills its helper, does not stop the others
TIMEOUT_S = 2.0  # for one text; 64 KB of the worst that parses takes about a tenth of it
START_S = 20.0  # until a new helper has answered for the first time
DOUBT_S = 5.0  # how long a text that took too long is refused unread: the machine may just have been busy
CACHE_BYTES = 32 << 20
MAX_FAILED = 10_000
STARTS = 3  # attempts to start a helper before we say that it is down

_Value = TypeVar("_Value")


class Reader:
    """Reads statements. `action_now` for what is known already, `action` for everything.

    After `action` has answered, `action_now` knows the answer to the same statement.
    """

    def __init__(self, *, helpers: int = HELPERS, timeout_s: float = TIMEOUT_S, cache_bytes: int = CACHE_BYTES) -> None:
        self._timeout_s = timeout_s
        self._all = [_Helper() for _ in range(helpers)]
        self._idle: asyncio.LifoQueue[_Helper] = asyncio.LifoQueue()
        for helper in self._all:
            self._idle.put_nowait(helper)
        self._actions: _Cache[tuple[Catalog | None, Action]] = _Cache(cache_bytes // 2)
        self._readings: _Cache[Reading] = _Cache(cache_bytes // 2)
        self._failed: dict[bytes, tuple[str, float]] = {}

    async def start(self) -> None:
        """Start the helpers, so that the first statement need not wait. Unavailable."""
        for helper in self._all:
            try:
                await helper.read(b"SELECT 1", START_S)
            except (TimeoutError, _Died) as error:
                raise Unavailable("the process that reads statements does not answer", "is memory short?") from error

    def close(self) -> None:
        """End the helpers."""
        for helper in self._all:
            helper.kill()

    def action_now(self, language: str, statement: Statement) -> Action | None:
        """The Action if no helper is needed for it, else None. Cost: half a microsecond for a text seen before."""
        names = statement.names
        catalog, key = (None, None) if names is None else (names.catalog, names.key)
        kept = self._actions.get((statement.text, key))
        if kept is not None and kept[0] is catalog and language == LANGUAGE:
            return kept[1]
        if language != LANGUAGE:
            return opaque(f"nothing here reads {language}")
        plain = shape(statement.text)
        if plain is not None:
            kept = self._actions.get((plain, key))
            if kept is not None and kept[0] is catalog:
                return kept[1]
        readings = self._known(statement)
        return self._resolved(statement, plain, readings) if isinstance(readings, dict) else None

    async def action(self, language: str, statement: Statement) -> Action:
        """The Action of a statement. A text that cannot be read gives an incomplete one. Unavailable: no helper."""
        found = self.action_now(language, statement)
        while found is None:
            missing = self._known(statement)
            if isinstance(missing, str):
                await self._read(missing)
            found = self.action_now(language, statement)
        return found

    def _resolved(self, statement: Statement, plain: str | None, readings: dict[str, Reading]) -> Action:
        reading = readings[statement.text]
        action = resolve(reading, statement.names, readings)
        names = statement.names
        if not any(part.refers for part in reading.parts) and not self._failure(statement.text):
            text = plain if plain is not None and reading.by_shape else statement.text
            catalog, key = (None, None) if names is None else (names.catalog, names.key)
            self._actions.put((text, key), (catalog, action), 2 * len(text) + 300 * len(action.touches) + 1000)
        return action

    def _known(self, statement: Statement) -> dict[str, Reading] | str:
        """The readings of the statement and of all that it refers to; else the first text that is not read yet."""
        found: dict[str, Reading] = {}
        waiting = [statement.text]
        for _ in range(MAX_FOLLOWED + 1):
            further: list[str] = []
            for text in waiting:
                if text in found:
                    continue
                reading = self._reading(text)
                if reading is None:
                    return text
                found[text] = reading
                further.extend(needs(reading, statement.names))
            waiting = further
        return found

    def _reading(self, text: str) -> Reading | None:
        if len(text) > MAX_STATEMENT_BYTES:
            return Reading(why=f"the statement is longer than {MAX_STATEMENT_BYTES >> 10} KB")
        kept = self._readings.get(text)
        if kept is None and (plain := shape(text)) is not None:
            kept = self._readings.get(plain)
        if kept is None and (why := self._failure(text)):
            return Reading(why=why)
        return kept

    def _keep(self, text: str, reading: Reading) -> None:
        plain = shape(text) if reading.by_shape else None
        size = 3 * len(text) + sum(400 + 200 * len(part.uses) for part in reading.parts)
        self._readings.put(plain if plain is not None else text, reading, size)

    # texts that did harm

    def _failure(self, text: str) -> str:
        if not self._failed:
            return ""
        why, until = self._failed.get(_digest(text), ("", 0.0))
        return why if time.monotonic() < until else ""

    def _fail(self, text: str, why: str, seconds: float) -> None:
        while len(self._failed) >= MAX_FAILED:
            del self._failed[next(iter(self._failed))]
        self._failed[_digest(text)] = (why, time.monotonic() + seconds)

    async def _read(self, text: str) -> None:
        """Have a helper read a text; what comes of it is kept."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            self._keep(text, Reading(why="the statement is not valid UTF-8"))
            return
        helper = await self._idle.get()
        try:
            if self._reading(text) is None:  # somebody else may have had it read meanwhile
                self._keep(text, await self._by(helper, data))
        except TimeoutError:
            helper.kill()
            self._fail(text, "reading the statement takes too long", DOUBT_S)
        except _Died:
            helper.kill()
            self._fail(text, "PostgreSQL's parser crashed on the statement", float("inf"))
        except BaseException:  # cancelled half way: what the helper says next would answer the wrong question
            helper.kill()
            raise
        finally:
            self._idle.put_nowait(helper)

    async def _by(self, helper: _Helper, data: bytes) -> Reading:
        """Ask twice before a text is blamed, and then for ever: the system may have killed the first helper."""
        try:
            return await helper.read(data, self._timeout_s)
        except _Died:
            helper.kill()
            return await helper.read(data, self._timeout_s)


class _Died(Exception):
    """The helper ended while it read a text."""


class _Helper:
    """One helper process, started when it is needed, at the other end of a socket pair."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def read(self, data: bytes, timeout_s: float) -> Reading:
        """Have one text read. TimeoutError, _Died."""
        async with asyncio.timeout(timeout_s):  # the sending too: a helper that stands still takes nothing
            stream = await self._ask(data)
            try:
                (length,) = struct.unpack("!I", await stream.readexactly(4))
                if length > MAX_ANSWER_BYTES:
                    raise _Died
                return Reading.from_json(await stream.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
                raise _Died from error

    async def _ask(self, data: bytes) -> asyncio.StreamReader:
        """Send a text. A helper that died before it got one is started anew; the text is not to blame."""
        for _ in range(STARTS):
            if self._process is None or self._process.poll() is not None or self._stream is None:
                self.kill()
                self._stream = await self._start()
            reader, writer = self._stream
            try:
                writer.write(struct.pack("!I", len(data)) + data)
                await writer.drain()
            except ConnectionError:
                self.kill()
                continue
            return reader
        raise Unavailable("the process that reads statements ends at once", "see whether memory is short")

    async def _start(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.to_thread(_spawn, theirs)
        except OSError as error:
            ours.close()
            raise Unavailable("the process that reads statements cannot be started", str(error)) from error
        finally:
            theirs.close()
        return await asyncio.open_connection(sock=ours)

    def kill(self) -> None:
        """End the process; another is started when one is needed."""
        process, self._process = self._process, None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream[1].close()
        if process is not None:
            process.kill()
            process.wait()  # a killed process is gone within a moment


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a helper. It gets none of our environment but where programs and packages are."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    command = (sys.executable, "-P", "-m", "muniment.services.reading_worker")
    return subprocess.Popen(
        command,
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
        stderr=subprocess.DEVNULL,
        env=kept,
        start_new_session=True,
    )


class _Cache(Generic[_Value]):
    """Keeps what was asked for lately, up to a number of bytes: two generations, the older dropped whole."""

    def __init__(self, limit_bytes: int) -> None:
        self._half = limit_bytes // 2
        self._size = 0
        self._new: dict[object, tuple[_Value, int]] = {}
        self._old: dict[object, tuple[_Value, int]] = {}

    def get(self, key: object) -> _Value | None:
        entry = self._new.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            self.put(key, *entry)
        return entry[0]

    def put(self, key: object, value: _Value, size: int) -> None:
        if self._size + size > self._half:
            self._old, self._new, self._size = self._new, {}, 0
        self._new[key] = (value, size)
        self._size += size


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
