"""One TCP connection: bytes asked for one by one during a login, then handed on as they come."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable

AHEAD_BYTES = 64 << 10  # what a peer may send before it is asked for; then it is not read further
CLOSE_S = 5.0  # how long a peer has to take what is still to be sent when we close
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # s, s, times: two minutes


class Gone(Exception):
    """The peer closed the connection, or it broke."""


class Pipe(asyncio.Protocol):
    """A transport with a buffer for the login. After `hand_over` it has none, and every read goes to the receiver."""

    def __init__(self, connected: Callable[[Pipe], None] | None = None) -> None:
        self._connected = connected
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0  # how many bytes are asked for
        self._held = False  # not read, since too much came ahead
        self._lost: Callable[[], None] | None = None
        self._writable: Callable[[bool], None] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol; again after TLS was begun."""
        first = self._transport is None
        self._transport = transport  # type: ignore[assignment]
        if first:
            _keep_alive(transport)
        if first and self._connected is not None:
            self._connected(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. During the login; then the receiver stands in its place."""
        self._buffer += data
        if len(self._buffer) >= max(self._wanted, AHEAD_BYTES) and not self._held:
            self._held = True
            self.pause()
        self._wake()

    def eof_received(self) -> bool:
        """See asyncio.Protocol; a half-closed connection is a closed one."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.closed = True
        self._wake()
        if self._lost is not None:
            self._lost()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._writable is not None:
            self._writable(False)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._writable is not None:
            self._writable(True)

    # --- ours ---

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def transport(self) -> asyncio.Transport:
        """The transport; there is one from the first moment on."""
        if self._transport is None:
            raise Gone
        return self._transport

    @property
    def peer(self) -> str:
        """The other end's address, for the record."""
        name = self.transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name or "local")

    @property
    def waiting_bytes(self) -> int:
        """How much has come that nobody asked for yet."""
        return len(self._buffer)

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Gone when the peer closes before."""
        self._wanted = size
        while len(self._buffer) < size:
            if self.closed:
                raise Gone
            self._go_on()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._wanted = 0
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def until_lost(self) -> None:
        """Return when the peer has closed."""
        while not self.closed:
            self._buffer.clear()
            self._go_on()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def write(self, data: bytes) -> None:
        """Send; what a closed peer cannot take is dropped."""
        if not self.closed and self._transport is not None:
            self._transport.write(data)

    async def secure(self, context: ssl.SSLContext, *, server: bool, name: str | None = None) -> str:
        """Speak TLS from here on. Returns what was negotiated, e.g. "TLSv1.3 TLS_AES_256_GCM_SHA384"."""
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(
            self.transport, self, context, server_side=server, server_hostname=name, ssl_handshake_timeout=10
        )
        if transport is None:
            raise Gone
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        cipher = tls.cipher() if tls is not None else None
        return f"{tls.version()} {cipher[0]}" if tls is not None and cipher else "TLS"

    def hand_over(
        self, receiver: Callable[[bytes], None], lost: Callable[[], None], writable: Callable[[bool], None]
    ) -> None:
        """The login is over: give what comes, what came already included, to `receiver`."""
        self._lost, self._writable = lost, writable
        data = bytes(self._buffer)
        self._buffer.clear()
        self.data_received = receiver  # type: ignore[method-assign, assignment]
        if not self.closed:
            self.transport.set_protocol(self)  # it keeps what it calls
        self._go_on()
        if data:
            receiver(data)
        if self.closed:
            lost()

    def hung_up(self) -> bool:
        """Whether the peer has closed its side; for when we do not read, and so are not told. Linux only."""
        sock = None if self.closed else self.transport.get_extra_info("socket")
        if sock is None or not hasattr(select, "POLLRDHUP"):
            return False
        watch = select.poll()
        watch.register(sock.fileno(), select.POLLRDHUP)
        return any(event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) for _, event in watch.poll(0))

    def pause(self) -> None:
        """Stop reading."""
        if not self.closed:
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self.closed:
            self.transport.resume_reading()

    def close(self) -> None:
        """Send what is still to be sent, then close; at once, when the peer does not take it in time."""
        if self._transport is not None and not self.closed:
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_S, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None and not self.closed:
            self._transport.abort()

    def _go_on(self) -> None:
        if self._held:
            self._held = False
            self.resume()


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the system notice a peer whose machine or way is gone, which says nothing for ever."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
