"""Listeners, and the life of one connection: login under a deadline, then the relay, then its end in the record."""

from __future__ import annotations

import asyncio
import logging
import secrets as random
from collections.abc import Iterable
from dataclasses import replace
from itertools import count

from muniment.doors.wire.door import Door
from muniment.doors.wire.login import LoginDriver
from muniment.doors.wire.pipe import Gone, Pipe
from muniment.doors.wire.relay import Relay
from muniment.model.effects import Side
from muniment.model.entries import SessionClose, SessionTarget
from muniment.model.errors import ConfigError, Problem, ProtocolError, Unavailable
from muniment.model.exchange import Catalog
from muniment.model.rules import Rules
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.conversation import Conversation
from muniment.protocols.postgres.login import CancelKey, LoginRefused, Ready, TargetError, Terms, login
from muniment.protocols.postgres.meaning import Names
from muniment.protocols.postgres.startup import codec_of
from muniment.services.refusals import host_of

log = logging.getLogger("muniment.wire")

MAX_LOGGING_IN = 512  # connections that are not logged in yet; more are closed at once
MAX_FROM_ONE = 128  # of them, from one address: one host that says nothing does not lock all the others out
_numbers = count(1)


class Listeners:
    """The sockets: the shared one, and one for each target that has a port of its own."""

    def __init__(self, door: Door, host: str, shared_port: int) -> None:
        self._door = door
        self._host = host
        self._shared = shared_port
        self._open: dict[str, tuple[int, asyncio.Server]] = {}

    @property
    def ports(self) -> dict[str, int]:
        """Port by target's name; the shared listener's under the empty name."""
        return {name: port for name, (port, _) in self._open.items()}

    async def follow(self, rules: Rules) -> None:
        """Open and close listeners so that they are those of these rules. ConfigError when a port is taken."""
        wanted = {name: target.listen_port for name, target in rules.targets.items() if target.listen_port}
        if self._shared >= 0:
            wanted[""] = self._shared
        for name, (port, server) in list(self._open.items()):
            if wanted.get(name) not in (port, 0):
                server.close()
                del self._open[name]
        for name, port in wanted.items():
            if name not in self._open:
                self._open[name] = await self._listen(name, port)

    async def _listen(self, name: str, port: int) -> tuple[int, asyncio.Server]:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: Pipe(lambda pipe: self._accept(pipe, name)), self._host, port)
        except OSError as error:
            where = f"listener of {name}" if name else "listen.postgres"
            problem = Problem(where, f"{self._host}:{port} cannot be listened on ({error.strerror})", "take another")
            raise ConfigError(problem) from error
        return server.sockets[0].getsockname()[1], server

    def close(self) -> None:
        """Take no more connections."""
        for _, server in self._open.values():
            server.close()
        self._open.clear()

    def _accept(self, pipe: Pipe, name: str) -> None:
        door = self._door
        host = host_of(pipe.peer)
        door.arithmetic.accepted += 1
        if door.logging_in.total() >= MAX_LOGGING_IN or door.logging_in[host] >= MAX_FROM_ONE:
            door.arithmetic.rejected += 1
            pipe.abort()
            return
        door.logging_in[host] += 1
        door.spawn("connection", serve(door, pipe, name, host))


async def serve(door: Door, client: Pipe, target_name: str, host: str) -> None:
    """One connection, from the first byte to the last line of its record. It is counted as logging in already."""
    key = _new_key(door)
    tls = door.tls() is not None
    ses = "s-" + random.token_hex(8)
    terms = Terms(_plain_ok(door, client), tls, key, f"muniment:{ses}", random.token_bytes(18))
    driver = LoginDriver(door, client, login(terms), target_name, ses)
    relay: Relay | None = None
    why = ""
    try:
        try:
            async with asyncio.timeout(door.login_s):
                ready = await driver.run()
                if isinstance(ready, CancelKey):
                    door.cancel(ready.pid, ready.secret)
                    return
                catalog = await _catalog(door, ready)
        finally:
            _logged_in(door, host)
        relay = _open(door, driver, ready, catalog, key)
        await relay.run()
    except TimeoutError:
        why = f"the login took longer than {door.login_s:.0f} s"
        _say(client, "08006", why)
    except LoginRefused as refused:
        why = "refused"
        log.info("login refused: %s %s", refused.code, refused.message)
    except TargetError as refused:
        why = f"target: {refused.code}"
        _say(client, refused.code or "08006", f"the target says: {refused.message}")
    except ProtocolError as broke:
        why = f"protocol: {broke}"
        _say(client, "08P01", broke.what if broke.side is Side.CLIENT else "the target broke the protocol")
        log.warning("login: %s", broke)
    except (Unavailable, ConfigError) as down:
        why = f"unavailable: {down.what}" if isinstance(down, Unavailable) else "configuration"
        _say(client, "08006", down.what if isinstance(down, Unavailable) else "the target cannot be reached")
        log.error("login: %s", down)
    except Gone:
        why = "hung up during the login"
        if driver.target_pipe is not None and driver.target_pipe.closed:
            why = "target hung up during the login"
            _say(client, "08006", "the target closed the connection")
    except Exception:
        why = "internal error"
        log.error("connection %s: our own fault; it is ended", ses)
        _say(client, "XX000", "internal error of the gateway")
        raise  # whoever spawned us tells what it was
    finally:
        door.cancels.pop(key.pid, None)
        client.close()
        if driver.target_pipe is not None:
            driver.target_pipe.close()
        _after(door, driver, relay, why)


def _logged_in(door: Door, host: str) -> None:
    door.logging_in[host] -= 1
    if not door.logging_in[host]:
        del door.logging_in[host]


def _after(door: Door, driver: LoginDriver, relay: Relay | None, why: str) -> None:
    if driver.seat:
        door.sessions.leave_seat(driver.seat)
        if driver.session is not None:
            door.connected[driver.session.admission.target.name] -= 1
    if not driver.opened:
        door.arithmetic.rejected += 1
    elif relay is None and driver.session is not None:
        door.arithmetic.closed += 1
        door.gate.journal.append_closing([SessionClose(ses=driver.session.id, reason=why[:200])])


def _say(client: Pipe, code: str, message: str) -> None:
    client.write(frames.error(code, message, severity="FATAL"))


def _plain_ok(door: Door, client: Pipe) -> bool:
    address = client.transport.get_extra_info("sockname")
    host = address[0] if isinstance(address, tuple) else ""
    return door.plain_ok and (host.startswith("127.") or host == "::1")


def _new_key(door: Door) -> CancelKey:
    while True:
        pid = random.randbelow(2**31 - 2) + 1
        if pid not in door.cancels:
            return CancelKey(pid, random.randbelow(2**32) - 2**31)


async def _catalog(door: Door, ready: Ready) -> Catalog:
    admission = ready.admission
    return await door.catalogs.get(admission.target.name, admission.database, admission.role)


def _open(door: Door, driver: LoginDriver, ready: Ready, catalog: Catalog, key: CancelKey) -> Relay:
    session, target = driver.session, driver.target_pipe
    assert session is not None and target is not None
    session = replace(session, client_name=ready.client_name, target_pid=ready.target_pid, tls=ready.client_tls)
    entry = SessionTarget(ses=session.id, pid=ready.target_pid, server=ready.server[:64], tls=ready.target_tls)
    door.gate.journal.append([entry])
    grants = door.rules().grants
    waits = any(grants[name].hold_in_transaction for name in session.admission.grants if name in grants)
    codec = codec_of(ready.parameters.get("client_encoding", "UTF8"))
    names = Names(catalog, ready.path, ready.temporary, codec=codec)
    talk = Conversation(names, ready.status, next(_numbers), hold_in_transaction=waits, codec=codec)
    relay = Relay(door, session, ready, talk, driver.client, target)
    door.cancels[key.pid] = (key.secret, relay)
    door.sessions.add(relay)
    return relay


def listening(ports: dict[str, int]) -> Iterable[str]:
    """For the log: where each listener is."""
    return (f"{name or 'postgres'}: port {port}" for name, port in sorted(ports.items()))
