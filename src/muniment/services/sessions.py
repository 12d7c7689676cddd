"""The sessions that are open now: counted, cut, and checked again whenever the rules change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from muniment.judge import policy
from muniment.model.access import Session
from muniment.model.rules import Rules


class LiveSession(Protocol):
    """What a door shows of a session that is open."""

    @property
    def session(self) -> Session:
        """The session."""

    def cut(self, reason: str) -> None:
        """End it now: say so in its language, close both sides. Must not wait and must not raise."""


class Sessions:
    """The open sessions of this process. Used on the event loop only."""

    def __init__(self, rules: Callable[[], Rules], now_us: Callable[[], int]) -> None:
        self._rules = rules
        self._now_us = now_us
        self._live: dict[str, LiveSession] = {}
        self._seats: Counter[str] = Counter()

    def take_seat(self, identity: str) -> None:
        """Count a session of this identity from its admission on; given back with `leave_seat`, whatever happens."""
        self._seats[identity] += 1

    def leave_seat(self, identity: str) -> None:
        """It has ended, or never began."""
        self._seats[identity] -= 1
        if self._seats[identity] <= 0:
            del self._seats[identity]

    def count(self, identity: str) -> int:
        """How many seats of this identity are taken."""
        return self._seats[identity]

    def add(self, live: LiveSession) -> None:
        """It is open. What the rules no longer allow since its admission is cut at once."""
        self._live[live.session.id] = live
        if why := no_longer_allowed(live.session, self._rules(), self._now_us()):
            live.cut(why)

    def remove(self, ses: str) -> None:
        """It has ended."""
        self._live.pop(ses, None)

    def live(self) -> list[Session]:
        """The open sessions, oldest first."""
        return [one.session for one in self._live.values()]

    def cut(self, ses: str, reason: str) -> bool:
        """End one. False where it is not open."""
        if (one := self._live.get(ses)) is None:
            return False
        one.cut(reason)
        return True

    def cut_all(self, reason: str) -> int:
        """End every one. Returns how many there were."""
        open_now = list(self._live.values())
        for one in open_now:
            one.cut(reason)
        return len(open_now)

    def cut_credential(self, credential: str) -> int:
        """End those that were opened with this API key. Returns how many."""
        held = []
        for one in self._live.values():
            proof = one.session.admission.identity.provenance
            if (proof.method, proof.token_id) == ("api-key", credential):
                held.append(one)
        for one in held:
            one.cut("the API key that opened this session was revoked")
        return len(held)

    def recheck(self, _old: Rules, new: Rules) -> None:
        """Cut the sessions that the new rules no longer allow, and no other. A callback of `Registry.on_change`."""
        now = self._now_us()
        for one in list(self._live.values()):
            if why := no_longer_allowed(one.session, new, now):
                one.cut(why)


def no_longer_allowed(session: Session, rules: Rules, now_us: int) -> str:
    """Why these rules would not let this session be; empty when they would. The judge says whether they would admit it
    again; how long it has been open is known here alone."""
    if why := policy.still_allowed(rules, session.admission, now_us):
        return why
    name = session.admission.identity.name
    if session.opened_at_us + rules.identities[name].max_age_s * 1_000_000 <= now_us:
        return f"the identity {name} may not have sessions as old as this one"
    return ""
