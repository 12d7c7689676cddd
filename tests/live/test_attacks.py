"""Strangers, clients and targets that want the gateway to stop, to forget, or to release what it must not."""

from __future__ import annotations

import contextlib
import json
import secrets as random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muniment.doors.wire.listen import MAX_FROM_ONE
from tests.live import gateway as gateway_process
from tests.live import rules
from tests.live.gateway import Gateway
from tests.live.raw import SSL_REQUEST, Raw, connected, message, startup
from tests.live.servers import HOST, Cluster

READY = message("Z", b"I")
DONE = message("C", b"SELECT 1\0")
WELCOME = (
    message("R", b"\0\0\0\0")
    + message("S", b"client_encoding\0UTF8\0")
    + message("S", b"standard_conforming_strings\0on\0")
    + message("K", struct.pack("!ii", 4242, 77))
    + READY
)
NAMES = message("T", b"\0\0") + DONE + READY  # an answer without rows to what the gateway itself asks
Answer = Callable[[socket.socket, str, bytes], None]


class Liar:
    """A target that lets everybody in and then answers as it likes."""

    def __init__(self) -> None:
        self.answer: Answer = lambda peer, kind, body: None
        self.cancel: Callable[[], None] = lambda: None
        self.heard: list[bytes] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError), peer.makefile("rb") as stream:
            size, code = struct.unpack("!ii", stream.read(8))
            stream.read(size - 8)
            if code == 80877102:
                self.cancel()
                return
            peer.sendall(WELCOME)
            while len(head := stream.read(5)) == 5:
                body = stream.read(struct.unpack("!i", head[1:])[0] - 4)
                if b"pg_catalog." in body or b"current_schemas" in body:
                    peer.sendall(NAMES)
                    continue
                self.heard.append(body)
                self.answer(peer, head[:1].decode(), body)


@pytest.fixture(scope="module")
def fooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Liar]]:
    liar = Liar()
    with gateway_process.made(tmp_path_factory.mktemp("fooled")) as made:
        made.start()
        spec = {
            "protocol": "postgres", "address": f"{HOST}:{liar.port}", "tls": {"mode": "disable"},
            "roles": {"r": {"trust": True}},
        }  # fmt: skip
        everything = {"verbs": rules.EVERY_VERB, "resources": ["*"]}
        made.apply(
            [
                rules.issuer(made.issuer.url),
                rules.identity("wide"),
                rules.document("Target", "plain", spec),
                rules.grant("all", "wide", "plain", "r", everything),
            ]
        )
        yield made, liar
    liar.close()


@contextlib.contextmanager
def session(gateway: Gateway, at: str = "plain") -> Iterator[Raw]:
    with connected(gateway.port, gateway.ca, timeout=20) as raw:
        raw.hello = raw.log_in(f"wide.{at}", gateway.token("wide"))  # type: ignore[attr-defined]
        assert raw.hello[-1][0] == "Z", raw.hello  # type: ignore[attr-defined]
        yield raw


def query(text: str) -> bytes:
    return message("Q", text.encode() + b"\0")


def unclosed(gateway: Gateway) -> set[str]:
    """Sessions that have a beginning in the log and no end."""
    lines = (gateway.evidence / "log" / "records.jsonl").read_bytes().splitlines()
    leaves = [json.loads(line) for line in lines]
    opened, closed = ({leaf["ses"] for leaf in leaves if leaf["kind"] == f"session.{how}"} for how in ("open", "close"))
    return opened - closed


def test_a_value_of_twelve_megabytes_arrives(gateway: Gateway) -> None:
    value = random.token_hex(6 << 20).encode()
    with session(gateway) as raw:
        raw.send(message("P", b"\0SELECT length($1::text)\0\0\0"))
        raw.send(message("B", b"\0\0" + struct.pack("!hhi", 0, 1, len(value)) + value + b"\0\0"))
        raw.send(message("E", b"\0\0\0\0\0") + message("S"))
        rows = [body for kind, body in raw.until_ready() if kind == "D"]
    assert rows == [struct.pack("!hi", 1, 8) + str(len(value)).encode()]


def test_a_flood_of_messages_does_not_stop_the_others(gateway: Gateway) -> None:
    with session(gateway) as other, session(gateway) as flooding:
        flood = message("S") * 100_000
        sending = threading.Thread(target=flooding.send, args=(flood,), daemon=True)
        sending.start()
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            other.send(query("SELECT 1"))
            other.until_ready()
            slowest = max(slowest, time.monotonic() - began)
        for _ in range(100_000):
            assert flooding.read() == ("Z", b"I")
        sending.join(10)
    assert slowest < 3  # it was over a minute


def test_connections_that_say_nothing_take_a_part_of_the_places_and_end_in_time(gateway: Gateway) -> None:
    with session(gateway) as other, contextlib.ExitStack() as opened:
        silent = [opened.enter_context(socket.create_connection((HOST, gateway.port), 5)) for _ in range(MAX_FROM_ONE)]
        last = opened.enter_context(socket.create_connection((HOST, gateway.port), 5))
        with contextlib.suppress(ConnectionError):
            assert last.recv(1) == b""
        other.send(query("SELECT 1"))
        assert other.until_ready()[-1][0] == "Z"
        for one in silent:
            one.settimeout(15)
        assert silent[0].recv(100).startswith(b"E")
    with session(gateway):
        pass


@pytest.mark.parametrize("begun", [b"", SSL_REQUEST, startup("user", "wide.plain")[:-3]])
def test_what_comes_drop_by_drop_is_over_at_the_deadline(gateway: Gateway, begun: bytes) -> None:
    with connected(gateway.port) as raw:
        began = time.monotonic()
        raw.send(begun)
        raw.socket.settimeout(0.5)
        while time.monotonic() - began < 15:
            with contextlib.suppress(TimeoutError):
                data = raw.socket.recv(100)
                if data != b"S":
                    break
        assert 8 < time.monotonic() - began < 14


def test_a_word_of_fifty_kilobytes_costs_no_session_its_end(fooled: tuple[Gateway, Liar]) -> None:
    gateway, liar = fooled
    for lie in (message("C", b"X" * 50_000 + b"\0"), message("E", b"SERROR\0C" + b"9" * 50_000 + b"\0Mx\0\0")):
        liar.answer = lambda peer, kind, body, lie=lie: peer.sendall(lie + READY)  # type: ignore[misc]
        with session(gateway) as raw:
            raw.send(query("SELECT 1"))
            assert raw.until_ready()[-1] == ("Z", b"I")
    gateway.wait(lambda: not unclosed(gateway), "lost the end of a session")


LIES = {
    "a gigabyte": b"D" + struct.pack("!i", 1 << 30),
    "a negative length": b"D" + struct.pack("!i", -5),
    "an unknown message": message("?"),
    "ready twice": DONE + READY + READY,
    "ready without end": DONE + READY * 10_000,
    "another encoding": message("S", b"client_encoding\0SJIS\0") + DONE + READY,
    "backslashes": message("S", b"standard_conforming_strings\0off\0") + DONE + READY,
    "a login again": message("R", b"\0\0\0\3"),
    "copying both ways": message("W", b"\0\0\0"),
    "an error without end": message("E", b"Sx"),
    "no status": DONE + message("Z"),
    "half a row, and gone": b"D\0\0\0\x40\0\1",
}


@pytest.mark.parametrize("name", LIES)
def test_a_target_that_breaks_the_protocol_ends_its_session_and_no_other(
    fooled: tuple[Gateway, Liar], name: str
) -> None:
    gateway, liar = fooled

    def lie(peer: socket.socket, kind: str, body: bytes) -> None:
        if b"innocent" in body:
            peer.sendall(DONE + READY)
        elif kind == "Q":
            peer.sendall(LIES[name])
            if "gone" in name:
                peer.shutdown(socket.SHUT_RDWR)

    liar.answer = lie
    with session(gateway) as other, session(gateway) as raw:
        raw.send(query("SELECT 1"))
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                raw.read()
        other.send(query("SELECT 'innocent'"))
        assert other.until_ready()[-1] == ("Z", b"I")
    gateway.wait(lambda: not unclosed(gateway), "lost the end of a session")


def test_a_cancel_that_the_target_keeps_back_hits_no_later_query(fooled: tuple[Gateway, Liar]) -> None:
    gateway, liar = fooled
    liar.heard.clear()
    liar.cancel = lambda: time.sleep(30)

    def slow(peer: socket.socket, kind: str, body: bytes) -> None:
        if kind == "Q":
            time.sleep(1)
            peer.sendall(DONE + READY)

    liar.answer = slow
    with session(gateway) as raw:
        key = next(body for kind, body in raw.hello if kind == "K")  # type: ignore[attr-defined]
        raw.send(query("SELECT 'first'"))
        time.sleep(0.3)
        with connected(gateway.port) as canceller:
            canceller.send(struct.pack("!ii", 16, 80877102) + key)
            assert canceller.closed()
        raw.until_ready()
        raw.send(query("SELECT 'second'"))
        assert raw.until_ready()[0][0] == "E"  # the session ends
    assert not any(b"second" in body for body in liar.heard)


def test_an_operators_half_character_costs_no_session_its_end(gateway: Gateway) -> None:
    with session(gateway) as raw:
        gateway.wait(lambda: any(one["live"] for one in gateway.sessions()), "shows no session")
        ses = next(one["ses"] for one in gateway.sessions() if one["live"])
        assert gateway.cli("sessions", "cut", ses, "--reason", "no \udcff text").returncode in (0, 1, 2)
        gateway.cli("sessions", "cut", ses, "--reason", "OPS-1412")
        assert raw.until_ready()[-1][0] == "E"
    gateway.wait(lambda: ses not in unclosed(gateway), "lost the end of a session")


def test_no_secret_is_in_a_childs_environment_or_any_title(gateway: Gateway, debian: Cluster) -> None:
    token = gateway.token("wide")
    assert gateway.answer("SELECT 1", secret=token) == "1"
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    for pid in children:
        shown = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"canary" not in shown
        assert token.encode() not in shown
    assert b"canary" not in Path(f"/proc/{gateway.pid}/cmdline").read_bytes()
    limits = Path(f"/proc/{gateway.pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
