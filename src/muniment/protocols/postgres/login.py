"""Both logins of a PostgreSQL connection, as straight-line code: the client to us, then us to the target.

Source: PostgreSQL manual, "Message Flow" (Start-up, SSL Session Encryption, Canceling Requests) and "SASL
Authentication"; RFC 5802 and RFC 7677 for SCRAM-SHA-256.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NoReturn

from muniment.model.access import Admission, Refusal
from muniment.model.effects import Authorize, Dial, Read, Secure, Send, Side, Step, Unlock
from muniment.model.errors import ProtocolError, Unavailable
from muniment.protocols.postgres import catalogue, frames
from muniment.protocols.postgres.credentials import Scram, md5
from muniment.protocols.postgres.startup import STARTUP, Startup, codec_of, read_startup

MAX_SECRET_BYTES = 16 << 10  # CI tokens are about 2,000; a header full of claims stays under 16 KiB
MAX_LOGIN_FRAME_BYTES = 1 << 20  # what the target may say at once during its login
MAX_PARAMETERS, MAX_PARAMETER_BYTES = 200, 64 << 10  # that a target reports; PostgreSQL 18 has 15


@dataclass(frozen=True, slots=True)
class CancelKey:
    """What a cancel request carries: whom it is for, and the proof."""

    pid: int
    secret: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Both sides are logged in. key: the target's own cancel key; status: transaction status; names: path and temps."""

    admission: Admission
    user: str
    database: str
    client_name: str
    client_tls: str
    target_tls: str
    target_pid: int
    target_key: bytes
    parameters: dict[str, str]
    path: tuple[str, ...]
    temporary: frozenset[str]
    status: int
    server: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What this listener and this session bring to the login.

    plain_ok: a password may come without TLS; tls: the listener can speak TLS; key: the cancel key that we give out;
    tag: what stands as application_name in the target's log; nonce: 18 random bytes for SCRAM.
    """

    plain_ok: bool
    tls: bool
    key: CancelKey
    tag: str
    nonce: bytes


class LoginRefused(Exception):
    """The login ends here; `code` and `message` were said to the client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


Login = Generator[Step, Any, "Ready | CancelKey"]


def login(terms: Terms) -> Login:
    """Log both sides in. Returns `Ready`, or the `CancelKey` when the connection is a cancel request.

    Raises LoginRefused (already said to the client), ProtocolError, Unavailable.
    """
    secured = ""
    asked: set[int] = set()  # each once, as at the server: a third is a way to keep us busy
    while True:
        size, code = struct.unpack("!ii", (yield Read(Side.CLIENT, 8)))
        if code == frames.CANCEL_REQUEST and size == 16:
            pid, secret = struct.unpack("!ii", (yield Read(Side.CLIENT, 8)))
            return CancelKey(pid, secret)
        if code not in (frames.SSL_REQUEST, frames.GSSENC_REQUEST) or size != 8 or code in asked:
            break
        asked.add(code)
        if code == frames.SSL_REQUEST and terms.tls:
            yield Send(Side.CLIENT, b"S")
            secured = yield Secure(Side.CLIENT)
        else:
            yield Send(Side.CLIENT, b"N")
    if code >> 16 != 3:
        yield from _refuse("0A000", f"protocol {code >> 16}.{code & 0xFFFF} is not spoken here; use 3.0")
    if not 8 <= size <= frames.MAX_STARTUP_BYTES:
        raise ProtocolError(Side.CLIENT, f"startup packet of {size} bytes")
    startup = read_startup(code, (yield Read(Side.CLIENT, size - 8)))
    yield from _check_startup(startup, bool(secured) or terms.plain_ok)
    if startup.minor or startup.unknown:
        body = struct.pack("!ii", 0, len(startup.unknown)) + b"".join(n.encode() + b"\0" for n in startup.unknown)
        yield Send(Side.CLIENT, frames.frame(b"v", body))
    secret_text = yield from _ask_password()
    verdict = yield Authorize(startup.user, secret_text, startup.database)
    if isinstance(verdict, Refusal):
        hint = f"The operator of the gateway sees each check with: muniment logins show {verdict.reference}"
        yield from _refuse("28P01", f"login refused (ref {verdict.reference})", hint=hint)
    ready = yield from _target(terms, startup, verdict, secured)
    hello = [frames.frame(b"R", b"\0\0\0\0")]
    for name, value in ready.parameters.items():
        hello.append(frames.frame(b"S", name.encode() + b"\0" + value.encode() + b"\0"))
    hello.append(frames.frame(b"K", struct.pack("!ii", terms.key.pid, terms.key.secret)))
    hello.append(frames.frame(b"Z", bytes([ready.status])))
    yield Send(Side.CLIENT, b"".join(hello))
    return ready


def _refuse(code: str, message: str, *, hint: str = "", detail: str = "") -> Generator[Step, Any, NoReturn]:
    yield Send(Side.CLIENT, frames.error(code, message, hint=hint, detail=detail, severity="FATAL"))
    raise LoginRefused(code, message)


def _check_startup(startup: Startup, may_ask: bool) -> Generator[Step, Any, None]:
    if not startup.user:
        yield from _refuse("28000", "no user name in the startup packet")
    replication = startup.settings.pop("replication", "").lower()
    if replication not in ("", "false", "off", "no", "0"):
        yield from _refuse("0A000", "replication connections do not pass this gateway", hint="Connect without it.")
    for name, value in startup.settings.items():
        lower = name.lower()
        if lower not in STARTUP:
            hint = "Leave it out, or SET it after connecting where a grant allows it."
            yield from _refuse("0A000", f"startup parameter {name!r} is not on the gateway's list", hint=hint)
        if lower == "client_encoding" and not codec_of(value):
            yield from _refuse("0A000", f"client_encoding {value!r} is refused", hint="Use UTF8.")
        if lower == "standard_conforming_strings" and value.lower() not in ("on", "true", "yes", "1"):
            yield from _refuse("0A000", "standard_conforming_strings must stay on", hint="Use E'...' for escapes.")
    if not may_ask:
        hint = "Use sslmode=verify-full with sslrootcert set to the gateway's CA certificate."
        yield from _refuse("28000", "this gateway takes no password without TLS", hint=hint)


def _ask_password() -> Generator[Step, Any, str]:
    yield Send(Side.CLIENT, frames.frame(b"R", b"\0\0\0\x03"))
    kind, size = struct.unpack("!ci", (yield Read(Side.CLIENT, 5)))
    if kind != b"p":
        raise ProtocolError(Side.CLIENT, "expected a password message")
    if not 5 <= size <= MAX_SECRET_BYTES + 5:
        raise ProtocolError(Side.CLIENT, f"a secret of {size - 5} bytes; at most {MAX_SECRET_BYTES} are taken")
    body: bytes = yield Read(Side.CLIENT, size - 4)
    if body[-1:] != b"\0" or b"\0" in body[:-1]:
        raise ProtocolError(Side.CLIENT, "the password message is not one text")
    return body[:-1].decode("utf-8", "replace")


# --- the target's side ---------------------------------------------------------------------------------------------


def _target(terms: Terms, startup: Startup, admission: Admission, client_tls: str) -> Generator[Step, Any, Ready]:
    tag = terms.tag.encode()[:63].decode("utf-8", "ignore")
    ours = ("application_name", "standard_conforming_strings")
    settings = {name: value for name, value in startup.settings.items() if name.lower() not in ours}
    client_name = next((v for n, v in startup.settings.items() if n.lower() == "application_name"), "")
    if not any(name.lower() == "client_encoding" for name in settings):
        settings["client_encoding"] = "UTF8"
    # In the startup packet, so that RESET ALL and DISCARD ALL come back to it, whatever the database's own default is.
    settings = {name: value for name, value in settings.items() if name.lower() != "standard_conforming_strings"}
    settings["standard_conforming_strings"] = "on"
    settings["standard_conforming_strings"] = "on"  # as a startup value: RESET and DISCARD bring back this one
    yield Dial()
    target_tls = yield from _secure_target(admission)
    yield from enter(admission.role, startup.database, {"application_name": tag, **settings}, terms.nonce)
    parameters, pid, key, status = yield from until_ready()
    if parameters.get("standard_conforming_strings", "on") != "on":
        raise Unavailable("the target insists on standard_conforming_strings = off", "let it be set by clients")
    if not codec_of(parameters.get("client_encoding", "UTF8")):
        raise Unavailable(f"the target insists on client_encoding {parameters['client_encoding']!r}")
    if client_name:
        quoted = client_name.replace("'", "''")
        _rows, more, status = yield from ask(f"SET application_name TO '{quoted}'")
        parameters.update(more)
    rows, _more, status = yield from ask(catalogue.PATH_QUERY)
    path, temporary = catalogue.read_path(rows)
    return Ready(
        admission, startup.user, startup.database, client_name, client_tls, target_tls, pid, key, parameters, path,
        temporary, status, parameters.get("server_version", ""),
    )  # fmt: skip


def _secure_target(admission: Admission) -> Generator[Step, Any, str]:
    if admission.target.tls == "disable":
        return ""
    yield Send(Side.TARGET, frames.SSL_REQUEST_PACKET)
    answer = yield Read(Side.TARGET, 1)
    if answer != b"S":
        mend = "turn TLS on there, or set tls.mode to disable in the Target"
        raise Unavailable(f"target {admission.target.name} does not speak TLS", mend)
    word: str = yield Secure(Side.TARGET)
    return word


def enter(user: str, database: str, settings: dict[str, str], nonce: bytes) -> Generator[Step, Any, None]:
    """Send the startup packet to the target and answer what it asks, with the secret that `Unlock` gives."""
    words = ["user", user, "database", database]
    for name, value in settings.items():
        words += [name, value]
    body = struct.pack("!i", frames.PROTOCOL_3) + b"".join(word.encode() + b"\0" for word in words) + b"\0"
    yield Send(Side.TARGET, struct.pack("!i", len(body) + 4) + body)
    scram: Scram | None = None
    while True:
        kind, body = yield from _frame()
        if kind == b"N":
            continue
        if kind == b"E":
            _target_refused(body)
        if kind != b"R" or len(body) < 4:
            raise ProtocolError(Side.TARGET, f"message {kind!r} in the middle of the login")
        wanted, rest = int.from_bytes(body[:4], "big"), body[4:]
        if wanted == 0:
            if scram is not None and not scram.proved:
                raise ProtocolError(Side.TARGET, "the target let us in without proving that it knows the secret")
            return
        secret = yield Unlock()
        if wanted == 3:
            yield Send(Side.TARGET, frames.frame(b"p", secret.encode() + b"\0"))
        elif wanted == 5 and len(rest) == 4:
            yield Send(Side.TARGET, frames.frame(b"p", md5(user, secret, rest) + b"\0"))
        elif wanted == 10:
            if b"SCRAM-SHA-256" not in rest.split(b"\0"):
                raise Unavailable("the target offers no SASL mechanism that we speak", "let it use SCRAM-SHA-256")
            scram = Scram(secret, nonce)
            first = scram.first()
            body = b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first
            yield Send(Side.TARGET, frames.frame(b"p", body))
        elif wanted == 11 and scram is not None:
            yield Send(Side.TARGET, frames.frame(b"p", scram.final(rest)))
        elif wanted == 12 and scram is not None:
            scram.check(rest)
        else:
            mend = "let it use scram-sha-256, md5, password or trust for this role"
            raise Unavailable(f"the target asks for authentication method {wanted}, which we do not speak", mend)


def _target_refused(body: bytes) -> None:
    values = frames.fields(Side.TARGET, body)
    code = values.get("C", "")
    if code.startswith("28"):
        raise Unavailable(f"the target refused the gateway's login ({code})", "check the Target's role and secret")
    raise TargetError(code, values.get("M", ""))


class TargetError(Exception):
    """The target refused the session for a reason that is the client's to know (no such database, too many ...)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def _frame() -> Generator[Step, Any, tuple[bytes, bytes]]:
    kind, size = struct.unpack("!ci", (yield Read(Side.TARGET, 5)))
    if not 4 <= size <= MAX_LOGIN_FRAME_BYTES or kind[0] not in frames.TARGET_KINDS:
        raise ProtocolError(Side.TARGET, f"message {kind!r} of {size} bytes during the login")
    body: bytes = (yield Read(Side.TARGET, size - 4)) if size > 4 else b""
    return kind, body


def _keep(parameters: dict[str, str], body: bytes) -> None:
    """Take up a ParameterStatus."""
    name, pos = frames.cstring(Side.TARGET, body, 0, len(body))
    value, _ = frames.cstring(Side.TARGET, body, pos, len(body))
    parameters[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    if len(parameters) > MAX_PARAMETERS or len(body) > MAX_PARAMETER_BYTES:
        raise ProtocolError(Side.TARGET, "more or longer parameters than any server has")


def until_ready() -> Generator[Step, Any, tuple[dict[str, str], int, bytes, int]]:
    """Read up to ReadyForQuery. Returns (parameters, process id, cancel key, transaction status)."""
    parameters: dict[str, str] = {}
    pid, key = 0, b""
    while True:
        kind, body = yield from _frame()
        if kind == b"S":
            _keep(parameters, body)
        elif kind == b"K" and len(body) >= 8:
            pid, key = int.from_bytes(body[:4], "big"), body[4:]
        elif kind == b"Z" and len(body) == 1:
            return parameters, pid, key, body[0]
        elif kind == b"E":
            _target_refused(body)
        elif kind != b"N":
            raise ProtocolError(Side.TARGET, f"message {kind!r} before the target was ready")


def ask(text: str) -> Generator[Step, Any, tuple[list[list[bytes | None]], dict[str, str], int]]:
    """One query of our own, inside the login. Returns (rows, parameters that changed, transaction status)."""
    yield Send(Side.TARGET, frames.query(text))
    rows: list[list[bytes | None]] = []
    parameters: dict[str, str] = {}
    while True:
        kind, body = yield from _frame()
        if kind == b"D":
            rows.append(frames.data_row(body))
        elif kind == b"S":
            _keep(parameters, body)
        elif kind == b"E":
            values = frames.fields(Side.TARGET, body)
            raise Unavailable(f"the target refused a query of the gateway's own ({values.get('C', '')})")
        elif kind == b"Z" and len(body) == 1:
            return rows, parameters, body[0]
        elif kind not in (b"T", b"C", b"N", b"A"):
            raise ProtocolError(Side.TARGET, f"message {kind!r} in answer to a query of the gateway's own")
