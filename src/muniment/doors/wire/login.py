"""Drives a login generator: reads, writes, TLS, the check of who it is, the dial. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from muniment.doors.wire import dial
from muniment.doors.wire.catalogs import secret_of
from muniment.doors.wire.door import Door
from muniment.doors.wire.pipe import Gone, Pipe
from muniment.model.access import Admission, Refusal, Session
from muniment.model.effects import Authorize, Dial, Read, Secure, Send, Side, Unlock
from muniment.model.entries import SessionOpen
from muniment.model.errors import ProtocolError
from muniment.model.identity import Check
from muniment.model.rules import Target
from muniment.protocols.postgres.login import CancelKey, Login, Ready

FORMS = "a listener of the target's own port, or user=IDENTITY.TARGET"


@dataclass(slots=True)
class LoginDriver:
    """One connection's login. target_name: of the listener, empty for the shared one. session is set from the
    admission on, whatever happens afterwards: then its end must be recorded."""

    door: Door
    client: Pipe
    login: Login
    target_name: str
    ses: str
    tls: str = ""
    session: Session | None = None
    target_pipe: Pipe | None = None
    opened: bool = False
    seat: str = ""
    refused: bool = False

    async def run(self) -> Ready | CancelKey:
        """To the end of the login. Raises what the generator raises, Gone, Unavailable."""
        answer: object = None
        error: BaseException | None = None
        while True:
            try:
                step = self.login.throw(error) if error is not None else self.login.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            answer = error = None
            match step:
                case Read(side, size):
                    answer = await self._pipe(side).read(size) if size else b""
                case Send(side, data):
                    self._pipe(side).write(data)
                case Secure(side):
                    answer = await self._secure(side)
                case Authorize(user, secret, database):
                    answer = await self._authorize(user, secret, database)
                case Dial():
                    answer = await self._dial()
                case Unlock():
                    answer = self._unlock()

    def _pipe(self, side: Side) -> Pipe:
        pipe = self.client if side is Side.CLIENT else self.target_pipe
        if pipe is None:
            raise Gone
        return pipe

    async def _secure(self, side: Side) -> str:
        if side is Side.TARGET:
            return await dial.secure(self._pipe(side), self._admitted().target)
        context = self.door.tls()
        if context is None:
            raise Gone
        if self.client.waiting_bytes:
            raise ProtocolError(Side.CLIENT, "bytes before TLS began")
        try:
            self.tls = await self.client.secure(context, server=True)
        except OSError as error:
            raise Gone from error
        return self.tls

    def _admitted(self) -> Admission:
        if self.session is None:
            raise Gone
        return self.session.admission

    def _find(self, user: str) -> tuple[str, Target | None, str]:
        """The identity's name, the target, and what is wrong with how it was named."""
        name, _, suffix = user.partition(".")
        wanted = suffix or self.target_name
        if self.target_name and suffix and suffix != self.target_name:
            return name, None, f"the listener is for {self.target_name}, the user name says {suffix}"
        if not wanted:
            return name, None, "neither the listener nor the user name says which target"
        return name, self.door.rules().targets.get(wanted), f"target {wanted}"

    async def _authorize(self, user: str, secret: str, database: str) -> Admission | Refusal:
        door = self.door
        now_us = door.now_us()
        name, target, got = self._find(user)
        source = self.client.peer
        answer: Admission | Refusal
        if target is None or target.protocol != "postgres":
            check = Check("target", False, got, "a target of this gateway", f"name it by {FORMS}")
            answer = await door.access.refuse(name, "", source, (check,), now_us)
        elif why := door.refuse():
            check = Check("gateway", False, why, "a gateway that can record", "see muniment status")
            answer = await door.access.refuse(name, target.name, source, (check,), now_us)
        elif door.connected[target.name] >= target.connections:
            full = f"{target.connections} connections are open"
            check = Check("connections", False, full, "a free connection", "wait, or raise limits.connections of it")
            answer = await door.access.refuse(name, target.name, source, (check,), now_us)
        else:
            answer = await door.access.authenticate(
                name, secret, target, database=database, source=source, tls=bool(self.tls), now_us=now_us
            )
            if isinstance(answer, Admission) and door.connected[target.name] >= target.connections:
                # others were let in while this one was checked
                check = Check("connections", False, "just taken by others", "a free connection", "wait")
                answer = await door.access.refuse(name, target.name, source, (check,), now_us)
        if isinstance(answer, Refusal):
            self.refused = True
            return answer
        door.sessions.take_seat(answer.identity.name)
        door.connected[answer.target.name] += 1
        self.seat = answer.identity.name
        self.session = Session(self.ses, answer, source, "", self.tls, 0, now_us)
        return answer

    async def _dial(self) -> str:
        admission = self._admitted()
        self.target_pipe = await dial.dial(admission.target)
        session = self.session
        assert session is not None
        self.door.gate.journal.append([session_open(session)])
        self.opened = True
        self.door.arithmetic.opened += 1
        await self.door.gate.journal.durable()
        return self.target_pipe.peer

    def _unlock(self) -> str:
        admission = self._admitted()
        return secret_of(admission.target, admission.role)


def session_open(session: Session) -> SessionOpen:
    """The entry that begins a session's record."""
    admission, identity = session.admission, session.admission.identity
    proof, initiator = identity.provenance, identity.initiator
    return SessionOpen(
        ses=session.id, identity=identity.name, identity_ref=identity.version, groups=tuple(sorted(identity.groups)),
        target=admission.target.name, protocol=admission.target.protocol, role=admission.role,
        database=admission.database, grants=admission.grants, rules=admission.rules_version, method=proof.method,
        iss=proof.issuer, aud=proof.audience, alg=proof.alg, kid=proof.kid, iat=proof.issued_at_us,
        exp=proof.expires_at_us, keys=proof.keys, checks=tuple(check.name for check in proof.checks),
        initiator=initiator.kind.value, tls=session.tls, expires_us=admission.expires_at_us, sub=proof.subject,
        claims="\n".join(f"{name}={value}" for name, value in proof.claims), token=proof.token_digest,
        jti=proof.token_id, initiator_id=initiator.id, run=initiator.run, attempt=initiator.attempt,
        workload=initiator.workload, client=session.client_name, source=session.client_address,
    )  # fmt: skip
