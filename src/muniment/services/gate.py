"""What all sessions share at the gate: the journal, the reader, the rules, the people, and responses on their way.

A session's own place at it is a `turnstile.Turnstile`, which keeps the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from muniment.judge import masking
from muniment.model.entries import Response
from muniment.model.errors import Unavailable
from muniment.model.exchange import Catalog, Outcome
from muniment.model.rules import Rules, selects
from muniment.model.verdict import Masks
from muniment.services.approvals import Approvals
from muniment.services.reading import Reader
from muniment.store.journal import Journal

BATCH = 64  # responses on one line
MAX_TAG = 64  # characters of what a target says was done; PostgreSQL's have at most 40
FLUSH_S = 0.25  # how long a response waits for others

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


class Gate:
    """What all turnstiles share."""

    def __init__(
        self,
        journal: Journal,
        reader: Reader,
        rules: Callable[[], Rules],
        approvals: Approvals,
        *,
        redact: Callable[[str], str],
        reader_version: str,
        pseudonym_key: bytes,
        now_us: Callable[[], int],
        spawn: Spawn,
    ) -> None:
        self.journal = journal
        self.reader = reader
        self.rules = rules
        self.approvals = approvals
        self.redact = redact
        self.reader_version = reader_version
        self.now_us = now_us
        self.spawn = spawn
        self._key = pseudonym_key
        self._masks: dict[tuple[str, int, str, int], tuple[Catalog | None, masking.TargetMasks | None]] = {}
        self._latest: dict[tuple[str, str], masking.TargetMasks] = {}
        self._results: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def masks(self, rules: Rules, target_name: str, catalog: Catalog | None) -> Masks | None:
        """The masks in force at a target over this catalogue; made once per rules' version and load."""
        target = rules.targets.get(target_name)
        database, version = (catalog.database, catalog.version) if catalog is not None else ("", 0)
        key = (target_name, rules.version, database, version)
        kept = self._masks.get(key)
        if kept is not None and kept[0] is catalog:
            return kept[1]
        chosen = [mask for mask in rules.masks.values() if target is not None and selects(mask.target, target)]
        previous = self._latest.get((target_name, database))
        made = masking.masks_for(chosen, catalog, self._key, previous)
        if len(self._masks) > 256:
            self._masks.clear()
        self._masks[key] = (catalog, made)
        if made is not None:
            self._latest[target_name, database] = made
        return made

    def ended(self, ses: str, n: int, outcome: Outcome) -> None:
        """Record how an exchange ended; batched with others."""
        masked = ",".join(f"{name}={count}" for name, count in outcome.masked) if outcome.masked else ""
        tag, code = _word(outcome.tag, MAX_TAG), _word(outcome.code, 5)
        self._results.append(f"{ses}:{n}:{outcome.status}:{outcome.rows}:{outcome.bytes}:{code}:{tag}:{masked}")
        if len(self._results) >= BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write the responses that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._results:
            results, self._results = self._results, []
            try:
                self.journal.append([Response(results=tuple(results))])
            except Unavailable:
                self.journal.append_closing([Response(results=tuple(results))])


def _word(text: str, most: int) -> str:
    """A target's word as it may stand in the record: a line of it is shared with other sessions and must fit."""
    if len(text) <= most and text.isascii() and text.isprintable() and ":" not in text:
        return text
    return "".join(char if " " <= char <= "~" and char != ":" else " " for char in text[:most])
