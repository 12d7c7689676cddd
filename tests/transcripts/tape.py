"""Tape real clients talking to real servers: `python -m tests.transcripts.tape [NAME…]` writes tests/transcripts/.

The relay copies bytes and knows nothing of the protocol; no product code runs here. The servers let the taped roles in
by trust and without TLS, so no secret is on a tape. The scenarios stand in `scenarios.py`.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.live import servers
from tests.live.servers import HOST, Cluster
from tests.transcripts import scenarios
from tests.transcripts.tapes import HERE

LARGEST = 100_000  # bytes a tape may have: it is read by people and by every run of the kit
READ = 1 << 16


class Relay:
    """Copies every connection to `port`, and keeps who said what in order of arrival."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.connections: list[list[tuple[str, bytes]]] = []
        self.listener = socket.create_server((HOST, 0))
        self.port = int(self.listener.getsockname()[1])
        self.lock = threading.Lock()
        self.threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """Wait until every connection has ended."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)
            if thread.is_alive():
                raise TimeoutError("a taped connection did not end")

    def longest(self) -> list[tuple[str, bytes]]:
        """The connection with the most said: a client may open others to look around."""
        return max(self.connections, key=lambda chunks: sum(len(data) for _, data in chunks))

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            target = socket.create_connection((HOST, self.target))
            chunks: list[tuple[str, bytes]] = []
            self.connections.append(chunks)
            for side, source, sink in (("c", client, target), ("t", target, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._start(self._copy, side, source, sink, chunks)

    def _copy(self, side: str, source: socket.socket, sink: socket.socket, chunks: list[tuple[str, bytes]]) -> None:
        while True:
            try:
                data = source.recv(READ)
            except ConnectionError:
                data = b""
            with self.lock:  # kept before it is passed on, so that an answer never stands before its question
                chunks.append((side, data))
            if not data:
                break
            try:
                sink.sendall(data)
            except OSError:
                break
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def tape(scenario: scenarios.Scenario, cluster: Cluster, directory: Path = HERE / "postgres") -> int:
    """Tape one scenario to `directory/<its name>.json`. Returns the tape's size in bytes."""
    relay = Relay(cluster.port)
    try:
        client = scenario.run(scenarios.At(relay.port, cluster.build))
    finally:
        relay.close()
    server = "PostgreSQL " + cluster.sql("SHOW server_version").split()[0]
    kept = {
        "client": client,
        "server": server,
        "made": f"python -m tests.transcripts.tape {scenario.name}",
        "chunks": [[side, data.decode("latin-1")] for side, data in relay.longest()],
    }
    text = json.dumps(kept, indent=0, ensure_ascii=True) + "\n"
    if len(text) > LARGEST:
        raise ValueError(f"{scenario.name} is {len(text)} bytes; make the scenario smaller")
    (directory / f"{scenario.name}.json").write_text(text, "ascii")
    return len(text)


def main(names: list[str]) -> int:
    """Tape the named scenarios, or all."""
    unknown = set(names) - {scenario.name for scenario in scenarios.SCENARIOS}
    if unknown:
        print(f"no such scenario: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        clusters = {build.name.split()[0]: build for build in (servers.debian(), servers.embedded())}
        started = {name: stack.enter_context(servers.running(build)) for name, build in clusters.items()}
        for cluster in started.values():
            scenarios.prepare(cluster)
        for scenario in scenarios.SCENARIOS:
            if not names or scenario.name in names:
                size = tape(scenario, started[scenario.server])
                print(f"{scenario.name:32} {size:7,d} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
