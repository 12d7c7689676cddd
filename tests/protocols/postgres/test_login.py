"""Both logins on the table: strangers who keep us busy, and targets that lie."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Iterator

import pytest

from muniment.model.access import Admission
from muniment.model.effects import Authorize, Dial, Read, Secure, Send, Side, Step, Unlock
from muniment.model.errors import ProtocolError, Unavailable
from muniment.model.identity import Identity, Initiator, InitiatorKind, Provenance
from muniment.model.rules import Target
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.login import CancelKey, Login, LoginRefused, Ready, TargetError, Terms, login

SECRET = "canary"
SSL, GSS = (struct.pack("!ii", 8, code) for code in (frames.SSL_REQUEST, frames.GSSENC_REQUEST))
OK = frames.frame(b"R", b"\0\0\0\0")
IDLE = b"Z\0\0\0\5I"


def startup(**words: str) -> bytes:
    body = b"".join(f"{name}\0{value}\0".encode() for name, value in words.items()) + b"\0"
    return struct.pack("!ii", len(body) + 8, frames.PROTOCOL_3) + body


HELLO = startup(user="report", database="billing") + frames.frame(b"p", b"token\0")


def terms(*, tls: bool = True, plain_ok: bool = True) -> Terms:
    return Terms(plain_ok, tls, CancelKey(1, 2), "muniment:s-1", b"n" * 18)


def admission() -> Admission:
    proof = Provenance("oidc", "https://i.example.org", "sub", "gw", "k", "RS256", 0, 0, "", "", (), ())
    who = Identity("report", "ci-job", "ada@example.org", frozenset(), Initiator(InitiatorKind.UNKNOWN), proof, "")
    target = Target("billing", "postgres", "127.0.0.1", 5432, roles=(), tls="disable")
    return Admission(who, target, "report_ro", "billing", ("g",), 1, 1 << 60)


class Both:
    """Feeds a login with what both sides say, and keeps what it says to them."""

    def __init__(self, client: bytes = HELLO, target: bytes = b"", **how: bool) -> None:
        self.said = {Side.CLIENT: b"", Side.TARGET: b""}
        self.left = {Side.CLIENT: client, Side.TARGET: target}
        self.unlocked = 0
        self.steps: Login = login(terms(**how))

    def run(self) -> Ready | CancelKey | None:
        """To its end, or until it waits for bytes that never come (None)."""
        answer: object = None
        while True:
            try:
                step: Step = self.steps.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            answer = None
            match step:
                case Read(side, size):
                    if len(self.left[side]) < size:
                        return None
                    answer, self.left[side] = self.left[side][:size], self.left[side][size:]
                case Send(side, data):
                    self.said[side] += data
                case Secure():
                    answer = "TLSv1.3"
                case Authorize():
                    answer = admission()
                case Dial():
                    answer = "127.0.0.1:5432"
                case Unlock():
                    self.unlocked += 1
                    answer = SECRET


@pytest.mark.parametrize("asked", [SSL + SSL, GSS + GSS, SSL + GSS + SSL, GSS + SSL + GSS, SSL + GSS + GSS])
def test_each_encryption_is_asked_for_once(asked: bytes) -> None:
    both = Both(asked * 50)
    with pytest.raises(LoginRefused):
        both.run()
    assert len(both.said[Side.CLIENT]) < 200


def test_both_may_be_asked_for_in_turn() -> None:
    both = Both(GSS + SSL + HELLO)
    assert both.run() is None  # it waits for the target
    assert both.said[Side.CLIENT].startswith(b"NS" + frames.frame(b"R", b"\0\0\0\3"))


def scram(proof: bool) -> Iterator[bytes]:
    """What a server says that knows the secret, or that does not."""
    nonce = base64.b64encode(b"n" * 18) + b"server"
    salt, rounds = b"salt", 4096
    first = b"r=" + nonce + b",s=" + base64.b64encode(salt) + b",i=%d" % rounds
    yield frames.frame(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")
    yield frames.frame(b"R", b"\0\0\0\x0b" + first)
    salted = hashlib.pbkdf2_hmac("sha256", SECRET.encode() if proof else b"guess", salt, rounds)
    bare = b"n=,r=" + base64.b64encode(b"n" * 18)
    key = hmac.digest(salted, b"Server Key", "sha256")
    signature = hmac.digest(key, b",".join((bare, first, b"c=biws,r=" + nonce)), "sha256")
    yield frames.frame(b"R", b"\0\0\0\x0cv=" + base64.b64encode(signature))


SIMPLE = frames.frame(b"T", b"\0\0") + frames.frame(b"C", b"SELECT 0\0") + IDLE


def test_a_target_that_proves_itself_is_let_go_on() -> None:
    both = Both(target=b"".join(scram(proof=True)) + OK + IDLE + SIMPLE)
    assert isinstance(both.run(), Ready)
    assert SECRET.encode() not in both.said[Side.TARGET] + both.said[Side.CLIENT]


def test_the_settings_that_are_pinned_are_those_of_the_startup_packet_so_that_a_reset_comes_back_to_them() -> None:
    both = Both(target=OK + IDLE + SIMPLE)
    both.run()
    assert b"standard_conforming_strings\0on\0" in both.said[Side.TARGET]
    assert b"client_encoding\0UTF8\0" in both.said[Side.TARGET]


LIES = {
    "scram-without-proof": b"".join(list(scram(proof=True))[:2]) + OK,
    "scram-by-another-secret": b"".join(scram(proof=False)) + OK,
    "scram-final-first": frames.frame(b"R", b"\0\0\0\x0cv=x"),
    "scram-continue-first": frames.frame(b"R", b"\0\0\0\x0br=x,s=eA==,i=1"),
    "scram-foreign-nonce": frames.frame(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")
    + frames.frame(b"R", b"\0\0\0\x0br=evil,s=eA==,i=4096"),
    "scram-endless-rounds": frames.frame(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")
    + frames.frame(b"R", b"\0\0\0\x0br=" + base64.b64encode(b"n" * 18) + b"x,s=eA==,i=2000000000"),
    "no-method": frames.frame(b"R", b""),
    "unknown-method": frames.frame(b"R", b"\0\0\0\x63"),
    "kerberos": frames.frame(b"R", b"\0\0\0\x07"),
    "md5-with-a-short-salt": frames.frame(b"R", b"\0\0\0\x05abc"),
    "a-gigabyte": b"R" + struct.pack("!i", 1 << 30),
    "a-negative-length": b"R" + struct.pack("!i", -1),
    "rows-first": frames.frame(b"D", b"\0\0"),
    "http": b"HTTP/1.1 400 Bad Request\r\n",
    "ready-before-it-let-us-in": IDLE,
    "ready-without-a-status": OK + frames.frame(b"Z", b""),
    "ready-without-a-status-later": OK + IDLE + frames.frame(b"Z", b""),
    "endless-parameters": OK + b"".join(frames.frame(b"S", b"p%d\0x\0" % n) for n in range(100_000)),
    "a-parameter-without-an-end": OK + frames.frame(b"S", b"x"),
    "rows-that-are-none": OK + IDLE + frames.frame(b"D", b"\0\x05") + IDLE,
    "an-error-without-an-end": OK + frames.frame(b"E", b"Sx"),
    "an-encoding-that-is-refused": OK + frames.frame(b"S", b"client_encoding\0SJIS\0") + IDLE,
    "latin-nonsense": OK + frames.frame(b"S", b"\xff\xfe\0\xff\0") + frames.frame(b"V", b"") + IDLE,
}


@pytest.mark.parametrize("name", LIES)
def test_a_target_that_lies_is_an_error_and_never_a_session(name: str) -> None:
    both = Both(target=LIES[name])
    with pytest.raises((ProtocolError, Unavailable, TargetError)):
        both.run()
    assert both.said[Side.CLIENT][-6:-5] != b"Z"
    assert SECRET.encode() not in both.said[Side.TARGET]


def test_notices_of_a_target_do_not_count_as_anything() -> None:
    notice = frames.notice("hello")
    both = Both(target=notice + OK + notice + IDLE + notice + SIMPLE)
    assert isinstance(both.run(), Ready)
