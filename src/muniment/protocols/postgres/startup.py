"""What a client asks for in its StartupMessage: who, which database, which settings, and how its texts are read.

Source: PostgreSQL manual, "Message Formats" (StartupMessage) and "Protocol Version" negotiation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from muniment.model.effects import Side
from muniment.model.errors import ProtocolError
from muniment.protocols.postgres import frames

CODECS = {"UTF8": "utf-8", "UNICODE": "utf-8", "SQL_ASCII": "ascii"} | {
    f"LATIN{n}": f"iso8859-{part}" for n, part in enumerate((1, 2, 3, 4, 9, 10, 13, 14, 15, 16), 1)
}  # client_encoding -> how its texts are read; under SQL_ASCII a byte that is no ASCII makes a text unreadable
STARTUP = frozenset(
    """application_name client_encoding datestyle timezone extra_float_digits intervalstyle bytea_output search_path
    statement_timeout lock_timeout idle_in_transaction_session_timeout idle_session_timeout client_min_messages jit
    geqo default_transaction_isolation default_transaction_read_only default_transaction_deferrable
    standard_conforming_strings work_mem""".split()
)


@dataclass(slots=True)
class Startup:
    """A StartupMessage as read. minor: of protocol 3; unknown: protocol options that it wants, none of ours."""

    user: str = ""
    database: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    minor: int = 0
    unknown: list[str] = field(default_factory=list)


def read_startup(code: int, body: bytes) -> Startup:
    """Read the body. Raises ProtocolError."""
    startup = Startup(minor=code & 0xFFFF)
    pos, end = 0, len(body)
    while pos < end and body[pos]:
        raw_name, pos = frames.cstring(Side.CLIENT, body, pos, end)
        raw_value, pos = frames.cstring(Side.CLIENT, body, pos, end)
        try:
            name, value = raw_name.decode(), raw_value.decode()
        except UnicodeDecodeError:
            raise ProtocolError(Side.CLIENT, "a startup parameter is not UTF-8") from None
        if name.startswith("_pq_."):
            startup.unknown.append(name)
        elif name == "user":
            startup.user = value
        elif name == "database":
            startup.database = value
        elif name == "options":
            startup.settings.update(_options(value))
        else:
            startup.settings[name] = value
    if pos != end - 1:
        raise ProtocolError(Side.CLIENT, "startup packet does not end where it should")
    startup.database = startup.database or startup.user
    return startup


def _options(text: str) -> dict[str, str]:
    """The settings of `options`: `-c name=value` or `--name=value`; a backslash keeps the blank behind it."""
    words: list[str] = []
    word, started, escaped = "", False, False
    for char in text:
        if escaped:
            word, escaped, started = word + char, False, True
        elif char == "\\":
            escaped = True
        elif char in " \t\n\r\v\f":
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + char, True
    if started:
        words.append(word)
    found: dict[str, str] = {}
    pending = False
    for item in words:
        if item == "-c" and not pending:
            pending = True
            continue
        text_of = item if pending else item[2:] if item.startswith(("-c", "--")) else ""
        name, equals, value = text_of.partition("=")
        found[name.replace("-", "_") if equals else f"options {item}"] = value
        pending = False
    return found


def codec_of(encoding: str) -> str:
    """How texts in this client_encoding are read; empty for one that is refused."""
    plain = encoding.upper().strip("'\"").replace("-", "").replace("_", "")
    plain = {"SQLASCII": "SQL_ASCII", "ISO88591": "LATIN1", "AUTO": "UTF8"}.get(plain, plain)
    return CODECS.get(plain, "")
