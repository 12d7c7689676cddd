"""Entries to leaf lines, fast: the same bytes as `proof.canonical` over `model.entries.header`, and the same
commitments as `proof.commitment`. The tests hold them equal; the plain versions are the truth.

A request's public fields repeat from one exchange to the next, except for a few. So the canonical line of each shape is
kept as a format string with holes for what changes: about 1 us in place of 10.
"""

from __future__ import annotations

import os
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from muniment.model.entries import Entry, Request, header, secrets
from muniment.proof import canonical
from muniment.proof.canonical import CanonicalError
from muniment.proof.commitment import LABEL, SECRET_BYTES
from muniment.store.payloads import RECORD

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_INNER_REST = b"\x36" * 32  # HMAC pads a key of 32 bytes with zeros to SHA-256's block of 64 (RFC 2104)
_OUTER_REST = b"\x5c" * 32
_POOL_BYTES = 4096  # one call of the system's generator gives 128 secrets
_MAX_TEMPLATES = 2048  # shapes kept at once, so that a client which makes new ones forever costs time, not memory
_PACK = RECORD.pack
_MAX_TEMPLATE = 4096  # characters; longer shapes are encoded in full each time


class Field(NamedTuple):
    """What never changes of one committed field: its part of the messages that are hashed, of the line, and of the
    payload's record."""

    salt: bytes
    commit: bytes
    json: str
    packed: bytes


def _new_field(name: str) -> Field:
    raw = name.encode()
    return Field(
        _INNER_REST + LABEL + b"salt/" + raw,
        _INNER_REST + LABEL + raw + b"\0",
        f'"{name}":"',
        len(name).to_bytes(1) + raw,
    )


_FIELDS: dict[str, Field] = {}  # a handful: the committed fields of the model
_STATEMENT = _FIELDS["statement"] = _new_field("statement")
_PARAMETERS = _FIELDS["parameters"] = _new_field("parameters")
_WHY = _FIELDS["why"] = _new_field("why")


class Again:
    """A request of a session that comes again and again with other values: all of its line but these.

    with_values, without: the line as a format string, with and without bound values.
    """

    __slots__ = ("decision", "ses", "with_values", "without")

    def __init__(self, ses: str, decision: str, template: str) -> None:
        quoted = encode_basestring(ses).replace("%", "%%")
        before, behind = template.split('"sd":{%s"}')
        behind = behind.replace('"ses":%s', f'"ses":{quoted}')
        self.ses = ses
        self.decision = decision
        self.without = f'{before}"sd":{{"statement":"%s"}}{behind}'
        self.with_values = f'{before}"sd":{{"parameters":"%s","statement":"%s"}}{behind}'


class Encoder:
    """Encodes the entries of one instance. Not thread-safe; the journal's lock is around it."""

    __slots__ = ("_instance", "_pool", "_pos", "_templates")

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._templates: dict[tuple[Any, ...], str] = {}
        self._pool = b""
        self._pos = 0

    def encode(self, entry: Entry, iseq: int, iprev: str, t_us: int) -> tuple[bytes, bytes]:
        """(line without newline, payload record; empty where nothing is committed). Raises CanonicalError."""
        if entry.__class__ is Request:
            return self._request(entry, iseq, iprev, t_us)
        return self._any(entry, secrets(entry), iseq, iprev, t_us)

    def _secret(self) -> bytes:
        if self._pos == len(self._pool):
            self._pool, self._pos = os.urandom(_POOL_BYTES), 0
        pos = self._pos
        self._pos = pos + SECRET_BYTES
        return self._pool[pos : self._pos]

    def _any(self, entry: Entry, hidden: dict[str, bytes], iseq: int, iprev: str, t_us: int) -> tuple[bytes, bytes]:
        line = header(entry)
        line |= {"v": 1, "inst": self._instance, "iseq": iseq, "t": t_us}
        if iprev:
            line["iprev"] = iprev
        record = b""
        if hidden:
            secret = self._secret()
            sd, packed = seal_fields(secret, [(_field(name), value) for name, value in hidden.items()])
            line["sd"] = dict(zip(hidden, sd, strict=True))
            record = RECORD.pack(iseq, len(hidden), secret) + packed
        return canonical.encode(line), record

    def _request(self, entry: Request, iseq: int, iprev: str, t_us: int) -> tuple[bytes, bytes]:
        hidden = []
        if entry.parameters:
            hidden.append((_PARAMETERS, entry.parameters))
        if entry.statement:
            hidden.append((_STATEMENT, entry.statement.encode("utf-8", "surrogateescape")))
        if entry.why:
            hidden.append((_WHY, entry.why.encode("utf-8", "surrogateescape")))
        shape = _shape(entry)
        template = self._templates.get(shape) or self._template(shape, entry)
        if not template or not hidden or not iprev or not entry.ses:
            return self._any(entry, secrets(entry), iseq, iprev, t_us)
        secret = self._secret()
        sd, packed = seal_fields(secret, hidden)
        shown = '",'.join([field[0].json + digest for field, digest in zip(hidden, sd)])  # noqa: B905 - 0.2 us
        try:
            line = (template % (iprev, iseq, entry.n, shown, encode_basestring(entry.ses), t_us)).encode()
        except UnicodeEncodeError:
            raise CanonicalError("text with a lone surrogate has no UTF-8 form") from None
        if len(line) > canonical.MAX_BYTES or entry.n > canonical.MAX_INTEGER:
            raise CanonicalError("a request that does not fit in one line")
        return line, RECORD.pack(iseq, len(hidden), secret) + packed

    def again(self, entry: Request) -> Again | None:
        """What `encode_again` takes for requests that differ from this one in `n`, statement and parameters alone; None
        where it has no place in it (a reason) or is too long."""
        if entry.why or not entry.ses:
            return None
        shape = _shape(entry)
        template = self._templates.get(shape) or self._template(shape, entry)
        return Again(entry.ses, entry.decision, template) if template else None

    def encode_again(
        self, again: Again, n: int, statement: bytes, parameters: bytes, iseq: int, iprev: str, t_us: int
    ) -> tuple[bytes, bytes]:
        """The same as `encode` of the whole request, at half the cost. statement: not empty."""
        secret = self._secret()
        inner = secret.translate(_INNER)
        outer = secret.translate(_OUTER) + _OUTER_REST
        salt = sha256(outer + sha256(inner + _STATEMENT.salt).digest()).digest()
        inside = sha256(salt.translate(_INNER) + _STATEMENT.commit + statement).digest()
        said = sha256(salt.translate(_OUTER) + _OUTER_REST + inside).hexdigest()
        packed = _STATEMENT.packed + len(statement).to_bytes(4, "big") + statement
        if not parameters:
            line = again.without % (iprev, iseq, n, said, t_us)
            return line.encode(), _PACK(iseq, 1, secret) + packed
        salt = sha256(outer + sha256(inner + _PARAMETERS.salt).digest()).digest()
        inside = sha256(salt.translate(_INNER) + _PARAMETERS.commit + parameters).digest()
        bound = sha256(salt.translate(_OUTER) + _OUTER_REST + inside).hexdigest()
        line = again.with_values % (iprev, iseq, n, bound, said, t_us)
        head = _PACK(iseq, 2, secret) + _PARAMETERS.packed + len(parameters).to_bytes(4, "big")
        return line.encode(), head + parameters + packed

    def _template(self, shape: tuple[Any, ...], entry: Request) -> str:
        """The canonical line of this shape with holes; empty if it is too long to keep."""
        holes = {"iprev": "\0", "iseq": "\0", "n": "\0", "sd": "\0", "ses": "\0", "t": "\0"}
        line = header(entry) | {"v": 1, "inst": self._instance} | holes
        text = canonical.encode(line).decode()
        if len(text) > _MAX_TEMPLATE:
            return ""
        text = text.replace("%", "%%")
        for (
            name
        ) in holes:  # a NUL in a value is written \u0000 too, but never as a whole value after one of these names
            hole = {"iprev": '"%s"', "sd": '{%s"}', "ses": "%s"}.get(name, "%d")
            text = text.replace(f'"{name}":"\\u0000"', f'"{name}":{hole}')
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        self._templates[shape] = text
        return text


def _shape(entry: Request) -> tuple[Any, ...]:
    """What the lines of requests that share a template have in common."""
    return (
        entry.decision,
        entry.rule,
        entry.rules,
        entry.touches,
        entry.traits,
        entry.complete,
        entry.reader,
        entry.phase,
        entry.approval,
        entry.redacted,
    )


def seal_fields(secret: bytes, hidden: list[tuple[Field, bytes]]) -> tuple[list[str], bytes]:
    """The commitments in hex, and the fields as they stand in a payload record.

    HMAC is written out, since `hmac.digest` costs half as much again and would pad the record's secret each time.
    """
    inner = secret.translate(_INNER)
    outer = secret.translate(_OUTER) + _OUTER_REST
    digests = []
    packed = b""
    for (salt_message, commit_message, _, head), value in hidden:
        salt = sha256(outer + sha256(inner + salt_message).digest()).digest()
        inside = sha256(salt.translate(_INNER) + commit_message + value).digest()
        digests.append(sha256(salt.translate(_OUTER) + _OUTER_REST + inside).hexdigest())
        packed += head + len(value).to_bytes(4) + value
    return digests, packed


def _field(name: str) -> Field:
    found = _FIELDS.get(name)
    if found is None:
        found = _FIELDS[name] = _new_field(name)
    return found
