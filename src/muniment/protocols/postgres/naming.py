"""What names mean in a session: what it prepared and declared, and when its names must be read again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from muniment.model.effects import Close, Send, Side
from muniment.model.exchange import Action, Catalog
from muniment.protocols.postgres import catalogue, frames
from muniment.protocols.postgres.meaning import Names
from muniment.protocols.postgres.state import FAILED, IDLE, OURS, Exchange, Expect, Inner, Item, Memory, Mode, State

_Q, _P, _B, _E, _D, _C, _H, _S, _F, _X = b"QPBEDCHSFX"
_REFERS = re.compile(r"execute|fetch|move|close|deallocate|discard|current\s+of|prepare|declare", re.IGNORECASE)
MAX_REMEMBERED = 4096  # characters of a text for which that is remembered, since the search costs 5 us
_DEFINING = frozenset({"create", "drop", "alter", "truncate", "grant", "revoke", "reassign", "import", "comment"})


def _refers(text: str) -> bool:
    """Whether a keyword stands in it that refers to a prepared statement or a cursor."""
    return _short_refers(text) if len(text) <= MAX_REMEMBERED else _REFERS.search(text) is not None


@lru_cache(maxsize=1024)
def _short_refers(text: str) -> bool:
    return _REFERS.search(text) is not None


def _may_rename(each: Item | Expect) -> bool:
    """Whether it may prepare, deallocate, declare or close, as far as it is read."""
    if each.kind == _P:
        return each.prepared is not None and bool(each.prepared.name)
    if each.kind not in (_Q, _B, _E) or each.exchange is None:
        return each.kind == _C
    action = each.exchange.action
    return action is None or bool(action.defines or action.forgets)


class Naming(Memory):
    """Keeps the names true: every epoch ends in a question of the gateway's own, at a quiet point."""

    _newer: Catalog | None = None  # what others changed: taken up when nothing runs, so that one batch has one reading

    def _names_now(self, text: str) -> Names:
        """How names are resolved for this text. The session's own prepared statements and cursors come along only
        where a keyword that refers to one stands in it, so that all else is read from caches that sessions share."""
        if self._dirty:
            return self._with(path=None)
        if self._newer is not None and not self._items and not self._expects:
            self._known, self._newer = self._with(catalog=self._newer), None
        if (self._prepared or self._cursors) and _refers(text) and not self._unsettled():
            if self._full is None:
                self._full = self._known.replaced(prepared=dict(self._prepared), cursors=dict(self._cursors))
            return self._full
        return self._known

    def _unsettled(self) -> bool:
        """Whether something on its way may change what a prepared statement or cursor is called. Then none is known:
        a Parse, Close or DEALLOCATE ahead in a pipeline is not answered yet when what comes behind it is asked."""
        due = (expect for expect in self._expects if expect.inner is None)
        return any(map(_may_rename, self._items)) or any(map(_may_rename, due))

    def _moves_names(self, action: Action) -> bool:
        """Whether names may mean something else behind it: a transaction's end undoes SET LOCAL and ON COMMIT DROP."""
        return action.changes_names or (self._transaction_dirty and "transaction-end" in action.traits)

    def _with(self, **changes: Any) -> Names:
        self._full = None
        return self._known.replaced(**changes)

    def _mark_dirty(self, action: Action) -> None:
        self._dirty = True
        whole = bool(action.verbs & _DEFINING)
        self._dirty_whole = self._dirty_whole or whole
        self._transaction_dirty = True
        self._transaction_whole = self._transaction_whole or whole

    def _remember(self, exchange: Exchange, tag: str) -> None:
        """A statement succeeded: keep what it prepared or declared, drop what it deallocated or closed."""
        action = exchange.action
        if action is None or not (action.defines or action.forgets):
            return
        for kind, name in action.forgets:
            table = self._prepared if kind == "prepared" else self._cursors
            if name == "*":
                table.clear()
                if kind == "prepared":
                    self._statements = {k: v for k, v in self._statements.items() if not k}
                else:
                    self._drop_portals([key for key in self._portals if key])
            else:
                table.pop(name, None)
                if kind == "prepared":
                    self._statements.pop(name.encode(), None)
                else:
                    self._drop_portals([name.encode()])
        for kind, name, text in action.defines:
            (self._prepared if kind == "prepared" else self._cursors)[name] = text
            if kind == "cursor":
                self._drop_portals([name.encode()])
                self._young.add(name)
                if "with-hold" not in action.traits or "several-statements" in action.traits:
                    self._brief.add(name)
        self._full = None

    def _drop_portals(self, names: Iterable[bytes]) -> None:
        """A cursor and a portal of one name are one thing: these portals are gone."""
        for name in names:
            portal = self._portals.pop(name, None)
            if portal is not None:
                self._done(portal.exchange, "unexecuted")

    def _drop_cursors(self, names: set[str]) -> None:
        """These cursors are not there any more, or nobody knows: their names may come to mean something else."""
        for name in names:
            self._cursors.pop(name, None)
        names.clear()
        self._full = None

    def _transaction_ended(self) -> None:
        """The target is idle: cursors without HOLD are closed."""
        if self._brief:
            self._drop_cursors(self._brief)
        self._young.clear()

    def _forget_doubtful(self, exchange: Exchange) -> None:
        """Of several statements some failed: what they would have prepared or declared is not known any more."""
        action = exchange.action
        if action is None or "several-statements" not in action.traits:
            return
        for kind, name in (*((kind, name) for kind, name, _ in action.defines), *action.forgets):
            table = self._prepared if kind == "prepared" else self._cursors
            table.clear() if name == "*" else table.pop(name, None)
            self._full = None

    def _quiet(self) -> None:
        """The target is idle. If names may have changed, read them before anything else is judged."""
        if self._expects or self._refreshing or self._closed or self._cancelling:
            return  # a cancel on its way to the target could hit our own question
        if self.status == IDLE and self._transaction_dirty:
            self._dirty = True
            self._dirty_whole = self._dirty_whole or self._transaction_whole
            self._transaction_dirty = self._transaction_whole = False
        if self._dirty and self.status != FAILED and not self._exchange_waiting():
            self._refreshing = True
            inner = Inner(self._dirty_whole, [])
            self._send_inner(inner)

    def _exchange_waiting(self) -> bool:
        return any(item.state is State.READY for item in self._items)

    def _send_inner(self, inner: Inner) -> None:
        """Our question, in the extended protocol: a Query would destroy the client's unnamed statement."""
        text = catalogue.PATH_QUERY
        if inner.whole:
            text += "UNION ALL" + catalogue.CATALOG_QUERY
        name = OURS + b"names"
        close = frames.frame(b"C", b"S" + name + b"\0")
        parts = [
            close,
            frames.frame(b"P", name + b"\0" + text.encode() + b"\0\0\0"),
            frames.frame(b"B", name + b"\0" + name + b"\0" + b"\0" * 6),
            frames.execute(name.decode()),
            frames.frame(b"C", b"P" + name + b"\0"),
            close,
            frames.SYNC,
        ]
        for kind in (_C, _P, _B, _E, _C, _C, _S):
            expect = Expect(kind, Mode.SWALLOW)
            expect.inner = inner
            self._expects.append(expect)
        self._out.append(Send(Side.TARGET, b"".join(parts)))

    def _refreshed(self, inner: Inner) -> None:
        self._refreshing = False
        if inner.failed:
            self._closed = True
            message = "the gateway could not read the session's names"
            self._out.append(Send(Side.CLIENT, frames.error("08006", message, severity="FATAL")))
            self._out.append(Close(f"names: {inner.failed}"))
            return
        paths = [row for row in inner.rows if row[0] in (b"p", b"t")]
        path, temporary = catalogue.read_path(paths)
        catalog = self._known.catalog
        if inner.whole and catalog is not None:
            self._loads += 1
            version = -((self._number << 24) + self._loads)
            rows = [row for row in inner.rows if row[0] not in (b"p", b"t")]
            catalog = catalogue.read_catalog(rows, catalog.database, version, catalog.loaded_at_us)
            self._newer = None
        self._dirty = self._dirty_whole = False
        self._known = self._with(path=path, temporary=temporary, catalog=catalog)
