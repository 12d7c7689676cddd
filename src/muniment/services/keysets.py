"""Issuers' key sets, kept fresh: fetched once for everybody, again in the background, and never at an attacker's pace.

State is touched on the event loop only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from muniment.model.entries import Entry, KeySet
from muniment.model.errors import Unavailable
from muniment.model.rules import Issuer
from muniment.services.discovery import fetch_key_set
from muniment.services.jose import Keys, read_keys

FRESH_S = 300.0  # behind it, a set is fetched again in the background while logins go on with the old one
RENEW_S = 10.0  # an unknown kid makes at most one fetch in this time: a flood of made-up kids is no flood at the issuer
RETRY_S = 2.0  # after a failed fetch, logins are refused at once for so long
FETCH_S = 5.0  # for the whole fetch; half of a login's deadline
MAX_SETS = 64  # key sets of one issuer that are remembered as seen

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]
Append = Callable[[Sequence[Entry]], list[str]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A key set in use. leaf: the leaf hash of its `jwks` entry."""

    keys: Keys
    leaf: str


@dataclass(slots=True)
class _State:
    seen: Seen | None = None
    fetched: float = 0.0  # when `seen` was confirmed
    started: float = float("-inf")  # the last attempt
    failed: float = float("-inf")  # when the last attempt failed
    error: Unavailable | None = None
    flight: asyncio.Future[None] | None = None
    leaves: dict[str, str] = field(default_factory=dict)  # digest -> leaf hash


class KeySets:
    """The key sets of all issuers. append: the journal's; spawn: how tasks are started; clock: monotonic seconds."""

    def __init__(
        self, append: Append, spawn: Spawn, *, clock: Callable[[], float] = time.monotonic, fetch_s: float = FETCH_S
    ) -> None:
        self._append = append
        self._spawn = spawn
        self._clock = clock
        self._fetch_s = fetch_s
        self._states: dict[tuple[str, str], _State] = {}

    async def get(self, issuer: Issuer) -> Seen:
        """The issuer's keys. Waits only where there are none that may still be used; raises Unavailable if so it stays.

        Keys may be used for `issuer.stale_s` after they were last confirmed, so that an issuer that is down for a
        moment stops nobody, and one that is cut off does not keep withdrawn keys alive.
        """
        state = self._states.setdefault((issuer.url, issuer.ca_file), _State())
        if not self._usable(state, issuer):
            if state.flight is not None or self._clock() - state.failed >= RETRY_S:
                await self._fetched(state, issuer)
            if not self._usable(state, issuer):
                raise state.error or Unavailable(f"no keys of {issuer.url}", "try again")
        elif self._clock() - state.fetched > min(FRESH_S, issuer.stale_s / 2):
            self._refresh(state, issuer)
        assert state.seen is not None  # what _usable says
        return state.seen

    async def renew(self, issuer: Issuer, had: Seen) -> Seen:
        """For a token whose key is unknown: the keys as the issuer has them now, or `had` where it was asked just now.

        At most one fetch in RENEW_S, whatever is presented.
        """
        state = self._states.setdefault((issuer.url, issuer.ca_file), _State())
        if state.seen is had and (state.flight is not None or self._clock() - state.started >= RENEW_S):
            await self._fetched(state, issuer)
        return state.seen if state.seen is not None and self._usable(state, issuer) else had

    def warm(self, issuers: Iterable[Issuer]) -> None:
        """Fetch in the background what logins will soon need, and forget issuers that are no longer trusted."""
        wanted = {(issuer.url, issuer.ca_file): issuer for issuer in issuers}
        for key in self._states.keys() - wanted.keys():
            del self._states[key]
        for key, issuer in wanted.items():
            state = self._states.setdefault(key, _State())
            if state.seen is None or self._clock() - state.fetched > min(FRESH_S, issuer.stale_s / 2):
                self._refresh(state, issuer)

    def trouble(self, issuer: Issuer) -> str:
        """Why the last fetch of this issuer failed; empty when it did not."""
        state = self._states.get((issuer.url, issuer.ca_file))
        return str(state.error) if state and state.error else ""

    def _usable(self, state: _State, issuer: Issuer) -> bool:
        return state.seen is not None and self._clock() - state.fetched <= issuer.stale_s

    def _refresh(self, state: _State, issuer: Issuer) -> None:
        # a failing issuer is asked as seldom as one with unknown kids
        if state.flight is None and self._clock() - state.started >= RENEW_S:
            self._start(state, issuer)

    def _start(self, state: _State, issuer: Issuer) -> asyncio.Future[None]:
        state.flight = asyncio.get_running_loop().create_future()
        state.started = self._clock()
        self._spawn(f"keys of {issuer.name}", self._fly(state, issuer, state.flight))
        return state.flight

    async def _fetched(self, state: _State, issuer: Issuer) -> None:
        """Wait for the fetch that runs, or start one. A login that is given up does not end it for the others."""
        await asyncio.shield(state.flight or self._start(state, issuer))

    async def _fly(self, state: _State, issuer: Issuer, flight: asyncio.Future[None]) -> None:
        try:
            text = await fetch_key_set(issuer.url, issuer.ca_file, self._fetch_s)
            try:
                keys = read_keys(text)
            except ValueError as why:
                raise Unavailable(f"the key set of {issuer.url} is of no use: {why}", "ask who runs it") from why
            state.seen = Seen(keys, self._leaf(state, issuer, keys))
            state.fetched = self._clock()
            state.error = None
        except Unavailable as why:
            state.error = why
            state.failed = self._clock()
        finally:
            state.flight = None
            if not flight.done():
                flight.set_result(None)

    def _leaf(self, state: _State, issuer: Issuer, keys: Keys) -> str:
        leaf = state.leaves.get(keys.digest)
        if leaf is None:
            kids = tuple(key.kid for key in keys.keys if key.kid)
            (leaf,) = self._append([KeySet(issuer.url, kids, keys.digest, keys.text)])
            if len(state.leaves) >= MAX_SETS:
                del state.leaves[next(iter(state.leaves))]
            state.leaves[keys.digest] = leaf
        return leaf
