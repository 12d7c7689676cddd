"""A PostgreSQL client that sends what it is told, byte by byte: for what no well-behaved client ever sends.

Written from the protocol's manual and not from the gateway's own frames: two readings that must agree.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.live.servers import HOST

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
Message = tuple[str, bytes]


def message(kind: str, body: bytes = b"") -> bytes:
    """One frame."""
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def startup(*words: str, version: int = 196608) -> bytes:
    """A startup packet of names and values."""
    body = struct.pack("!i", version) + b"".join(word.encode() + b"\0" for word in words) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def fields(body: bytes) -> dict[str, str]:
    """An error's or notice's fields by their letter."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


class Raw:
    """One connection. Reads fail after `timeout` seconds."""

    def __init__(self, port: int, *, timeout: float = 10) -> None:
        self.socket: socket.socket = socket.create_connection((HOST, port), timeout)
        self._rest = b""

    def secure(self, ca: Path) -> None:
        """Ask for TLS and check the gateway's certificate."""
        self.send(SSL_REQUEST)
        assert self.socket.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(ca))
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def log_in(self, user: str, secret: str, database: str = "billing", *more: str) -> list[Message]:
        """Up to ReadyForQuery, or to the error that is said instead."""
        self.send(startup("user", user, "database", database, *more))
        kind, body = self.read()
        if (kind, body) != ("R", b"\0\0\0\x03"):
            return [(kind, body)]
        self.send(message("p", secret.encode() + b"\0"))
        return self.until_ready()

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def read(self) -> Message:
        """The next message; EOFError when there is none."""
        while len(self._rest) < 5 or len(self._rest) < 1 + struct.unpack("!i", self._rest[1:5])[0]:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self._rest)
            self._rest += more
        end = 1 + struct.unpack("!i", self._rest[1:5])[0]
        found, self._rest = self._rest[:end], self._rest[end:]
        return found[:1].decode(), found[5:]

    def until_ready(self) -> list[Message]:
        """All messages up to ReadyForQuery, or to a fatal error."""
        found = [self.read()]
        while found[-1][0] != "Z" and not (found[-1][0] == "E" and fields(found[-1][1])["S"] == "FATAL"):
            found.append(self.read())
        return found

    def closed(self) -> bool:
        """Whether the other side ends the connection before anything else is said."""
        try:
            return self.socket.recv(1) == b""
        except (ConnectionError, ssl.SSLError):
            return True
        except TimeoutError:
            return False


@contextlib.contextmanager
def connected(port: int, ca: Path | None = None, *, timeout: float = 10) -> Iterator[Raw]:
    """A connection, over TLS if a CA is given."""
    made = Raw(port, timeout=timeout)
    try:
        if ca is not None:
            made.secure(ca)
        yield made
    finally:
        made.socket.close()
