"""Reads that were allowed, and will be asked for again with other values: nothing about them is found out anew while
the rules and the names stay what they were."""

from __future__ import annotations

from muniment.model.exchange import Action, Statement
from muniment.model.verdict import Allow
from muniment.services import leaves
from muniment.services.reading import Reader
from muniment.store.journal import Journal
from muniment.store.lines import Again

MAX_KEPT = 2_000  # of one session


class Repeat:
    """One such read: what it does, what was decided, and its line in the journal without what changes."""

    __slots__ = ("_again", "_encoded", "_names", "_text", "action", "verdict")

    def __init__(self, statement: Statement, action: Action, verdict: Allow, again: Again) -> None:
        self.action = action
        self.verdict = verdict
        self._text = statement.text
        self._names = statement.names
        self._encoded = statement.text.encode("utf-8", "surrogateescape")
        self._again = again

    def is_like(self, statement: Statement) -> bool:
        """Whether this statement is the same but for values that may stand in the record."""
        if self._names is not statement.names:
            return False
        masks = self.verdict.masks
        if masks is None:
            return True
        return statement.text == self._text and not (statement.parameters and masks.parameters(statement.parameters))

    def record(self, journal: Journal, n: int, statement: Statement) -> None:
        """Write the request. Raises Unavailable."""
        text = statement.text
        encoded = self._encoded if text is self._text else text.encode("utf-8", "surrogateescape")
        journal.append_again(self._again, n, encoded, leaves.parameters(statement.parameters))


class Repeats:
    """Those of one session, under one version of the rules."""

    __slots__ = ("_by_action", "_by_text")

    def __init__(self) -> None:
        self._by_text: dict[str, Repeat] = {}
        self._by_action: dict[int, Repeat] = {}

    def clear(self) -> None:
        """Forget all: the rules have changed."""
        self._by_text.clear()
        self._by_action.clear()

    def like(self, statement: Statement, reader: Reader, language: str) -> Repeat | None:
        """The earlier read that this statement repeats. A text never seen may do the same as one that was, with other
        literals: the reader knows."""
        repeat = self._by_text.get(statement.text)
        if repeat is None and self._by_action:
            repeat = self._by_action.get(id(reader.action_now(language, statement)))
        return repeat if repeat is not None and repeat.is_like(statement) else None

    def keep(self, statement: Statement, action: Action, verdict: Allow, again: Again | None) -> None:
        """A read was recorded and allowed, with nothing to wait for and nothing to leave out of the record."""
        if again is None or not statement.text:
            return
        if max(len(self._by_text), len(self._by_action)) >= MAX_KEPT:
            self.clear()
        self._by_text[statement.text] = self._by_action[id(action)] = Repeat(statement, action, verdict, again)
