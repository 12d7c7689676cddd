"""`muniment.yaml`: the facts of one gateway process. Every field has a default, or the start says what to write."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import ClassVar

from muniment.judge.documents import Map, Problems, read
from muniment.judge.fields import NOT_IN_FORCE, Duration, Field, Flag, Shape, Word, check

MAX_SOCKET_PATH = 100  # of sun_path's 108 bytes
MAX_LOGIN_S = 120  # a peer that has not logged in costs memory
_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Settings:
    """A process's facts, paths as written.

    deployment: token audience, log origin, certificate name. store: the data directory. manifests: their directory,
    empty where `apply` is used. postgres_host: the interface of every listener, empty for all; postgres_port: that of
    the shared one, -1 where there are only targets' own. api: "unix:PATH" or "HOST:PORT", empty for STORE/api.sock.
    plain_on_loopback: a secret without TLS is taken from loopback clients. tls_cert, tls_key: PEM files, empty means
    that they are made under STORE/tls. drain_s: how long a stop waits for sessions; login_s: a login's deadline.
    """

    deployment: str
    store: str
    manifests: str = ""
    postgres_host: str = "127.0.0.1"
    postgres_port: int = 5432
    api: str = ""
    plain_on_loopback: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    drain_s: int = 600
    login_s: int = 10


class _Listen(Shape):
    LATER: ClassVar = ("ssh", "mysql", "http", "kubernetes", "lease", "ops", "web")
    postgres: Word = "127.0.0.1:5432"
    api: Word = ""
    allow_plaintext_loopback: Flag = False


class _Tls(Shape):
    LATER: ClassVar = ("acme", "clientCa")
    cert: Word = Field(examples=["/etc/muniment/tls.pem"])
    key: Word = Field(examples=["/etc/muniment/tls.key"])


class _Sessions(Shape):
    drain: Duration = 600
    login: Duration = 10


class _File(Shape):
    LATER: ClassVar = (
        "workers",
        "limits",
        "connections",
        "witness",
        "anchor",
        "retention",
        "keys",
        "cluster",
        "notify",
    )
    deployment: Word = Field(examples=["gw.example.org"])
    store: Word = Field(examples=["/var/lib/muniment"])
    manifests: Word = ""
    listen: _Listen = Field(default_factory=_Listen)
    tls: _Tls | None = None
    sessions: _Sessions = Field(default_factory=_Sessions)


def read_settings(file: str, text: str) -> Settings:
    """The settings that a text states. Raises ConfigError with every problem."""
    problems = Problems()
    nodes = list(read(file, text, problems))
    if not nodes and not problems:
        problems.add(file, 1, "the file is empty", "write `deployment: gw.example.org` and `store: /var/lib/muniment`")
    for node in nodes[1:]:
        problems.add(file, node.line, "a second document begins here", "manifests go to files of their own")
    made = check(_File, nodes[0], file, problems) if nodes else None
    settings = _settings(made, nodes[0], file, problems) if made is not None else None
    problems.stop()
    if settings is None:  # cannot be: what is not made has a problem
        raise TypeError("no settings and no problem")
    return settings


parse = read_settings


def _settings(made: _File, node: Map, file: str, problems: Problems) -> Settings:
    def wrong(path: tuple[str, ...], what: str, mend: str) -> None:
        from_line = node.lines.get(path[0], node.line)
        inner = node.get(path[0])
        line = inner.lines.get(path[-1], from_line) if isinstance(inner, Map) else from_line
        problems.add(file, line, what, mend)

    if not _HOST.match(made.deployment):
        mend = "write a host name in lower case, like gw.example.org; tokens are made out to it"
        wrong(("deployment",), "`deployment` is not a host name", mend)
    if re.match(r"[a-z+]+://", made.store):
        wrong(("store",), f"a database server as the store is {NOT_IN_FORCE}", "write a directory: /var/lib/muniment")
    if made.sessions.login > MAX_LOGIN_S:
        wrong(("sessions", "login"), "`login` is longer than two minutes", "write 10s")
    host, port = "127.0.0.1", -1
    if made.listen.postgres != "none":
        found = _address(made.listen.postgres)
        if found is None:
            mend = "write it like 127.0.0.1:5432, :5432 for every interface, or none for targets' own ports only"
            wrong(("listen", "postgres"), "`postgres` is not an address to listen at", mend)
        else:
            host, port = found
    api = made.listen.api
    if api.startswith("unix:"):
        if not 0 < len(api.removeprefix("unix:").encode()) <= MAX_SOCKET_PATH:
            mend = f"write unix:/run/muniment/api.sock; a socket's path has at most {MAX_SOCKET_PATH} bytes"
            wrong(("listen", "api"), "`api` is not the path of a socket", mend)
    elif api:
        at = _address(api)
        if at is None or not _loopback(at[0]):
            mend = "write unix:/run/muniment/api.sock or 127.0.0.1:9464; put a TLS proxy before it to open it further"
            wrong(("listen", "api"), "`api` is plain HTTP, and this is not a loopback address with a port", mend)
    return Settings(
        made.deployment,
        made.store,
        made.manifests,
        host,
        port,
        api,
        made.listen.allow_plaintext_loopback,
        made.tls.cert if made.tls else "",
        made.tls.key if made.tls else "",
        made.sessions.drain,
        made.sessions.login,
    )


def _address(text: str) -> tuple[str, int] | None:
    """Host and port; None where it is not that."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    strange = re.search(r"[\s/@\[\]]", host)
    if not colon or strange or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        return None
    return host, int(port)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
