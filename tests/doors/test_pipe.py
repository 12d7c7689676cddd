"""One connection's buffer and its end, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from muniment.doors.wire import pipe as pipes
from muniment.doors.wire.pipe import AHEAD_BYTES, Gone, Pipe


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Pipe, socket.socket]]:
    """A pipe that was accepted, and the peer's socket, which blocks nobody."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Pipe] = loop.create_future()
    server = await loop.create_server(lambda: Pipe(made.set_result), "127.0.0.1", 0)
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    await loop.sock_connect(peer, server.sockets[0].getsockname())
    try:
        yield await made, peer
    finally:
        (await made).abort()
        peer.close()
        server.close()


def over(body: Callable[[Pipe, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), connected() as (pipe, peer):
            await body(pipe, peer)

    asyncio.run(run())


async def push(peer: socket.socket) -> int:
    """Send until nothing is taken any more for half a second. Returns how much was."""
    sent, idle = 0, 0
    while idle < 50:
        try:
            sent += peer.send(b"x" * 65536)
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0 if not idle else 0.01)
    return sent


def test_a_stranger_who_sends_ahead_is_not_kept_in_memory() -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        await push(peer)
        assert pipe.waiting_bytes < AHEAD_BYTES + (256 << 10)  # one read more
        assert not pipe.closed

    over(body)


def test_what_came_ahead_is_there_when_it_is_asked_for() -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        sent = await push(peer)
        got = 0
        while got < sent:
            size = min(100_000, sent - got)
            assert await pipe.read(size) == b"x" * size
            got += size

    over(body)


def test_one_answer_may_be_longer_than_what_may_come_ahead() -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        sending = asyncio.get_running_loop().sock_sendall(peer, b"y" * (1 << 20))
        data, _ = await asyncio.gather(pipe.read(1 << 20), sending)
        assert data == b"y" * (1 << 20)

    over(body)


def test_after_the_login_all_that_came_ahead_goes_on() -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        sent = await push(peer)
        got: list[bytes] = []
        pipe.hand_over(got.append, lambda: None, lambda may: None)
        while sum(map(len, got)) < sent:
            await asyncio.sleep(0.01)

    over(body)


def test_a_peer_who_takes_nothing_does_not_keep_its_connection_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        pipe.write(b"z" * (8 << 20))
        pipe.close()
        await asyncio.sleep(0.1)
        assert not pipe.closed  # it has its time
        await asyncio.wait_for(pipe.until_lost(), 5)

    monkeypatch.setattr(pipes, "CLOSE_S", 0.5)
    over(body)


def test_a_peer_whose_machine_is_gone_is_noticed() -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        sock = pipe.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1

    over(body)


def test_a_read_ends_with_the_peer() -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        peer.close()
        with pytest.raises(Gone):
            await pipe.read(1)

    over(body)


def test_a_peer_that_hung_up_is_known_although_nothing_is_read() -> None:
    async def body(pipe: Pipe, peer: socket.socket) -> None:
        pipe.pause()
        peer.send(b"x")
        assert not pipe.hung_up()
        peer.close()
        await asyncio.sleep(0.05)
        assert pipe.hung_up()
        assert not pipe.closed

    over(body)
