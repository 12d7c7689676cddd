"""What the client is shown of rows, errors and notices: masked where the session's masks say so."""

from __future__ import annotations

from muniment.model.effects import Send, Side
from muniment.model.errors import ProtocolError
from muniment.model.exchange import Column
from muniment.model.verdict import RowPlan
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.asking import Asking
from muniment.protocols.postgres.state import Exchange, Expect, Mode, Portal, Shape
from muniment.scan.rows import rewrite_rows, skip_rows

MAX_PLANS = 256
FIRST_USER_OID = 16384  # below it are the system's own relations, which every catalogue holds
_E = b"E"[0]
_SHOWN_ALWAYS = ("S", "V", "C", "s", "t", "c", "d", "n", "F", "L", "R")  # fields of an error that hold no value
_WITHHELD = "[message withheld: the statement touches protected data]"


class Showing(Asking):
    """Masks results on their way; plans are made once per description."""

    def _pass(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            self._out.append(Send(Side.CLIENT, data if end - start == len(data) else data[start:end]))

    def _swallowing(self) -> bool:
        return bool(self._expects) and self._expects[0].mode is Mode.SWALLOW

    def _rows(self, data: bytes, pos: int, start: int) -> int:
        """Handle the whole DataRows at `pos`. Returns where they end; where they are masked, all before is passed."""
        rows, after = skip_rows(data, pos)
        if not rows:
            return pos
        expect = self._head(b"QE", "DataRow")
        if expect.mode is Mode.SWALLOW:
            self._pass(data, start, pos)
            if expect.inner is not None:
                expect.inner.rows += [frames.data_row(body) for _, body in frames.split(Side.TARGET, data[pos:after])]
            return after
        exchange = expect.exchange
        assert exchange is not None
        if expect.kind == _E and expect.portal is not None:
            self._plan_portal(expect.portal, exchange)
        elif exchange.masks is not None and not self._planned:
            raise ProtocolError(Side.TARGET, "rows without a description")
        exchange.rows += rows
        exchange.bytes += after - pos
        plan = self._plan
        if plan is None:
            return after
        self._pass(data, start, pos)
        block = data[pos:after]
        if plan.may_hit is not None and not plan.may_hit(block):
            self._out.append(Send(Side.CLIENT, block))
            return after
        try:
            shown, changed = rewrite_rows(block, plan.maskers)
        except ValueError as bad:
            raise ProtocolError(Side.TARGET, str(bad)) from None
        self._out.append(Send(Side.CLIENT, shown, block if changed else None))
        if changed:
            self._collect(plan, exchange)
        return after

    @staticmethod
    def _collect(plan: RowPlan, exchange: Exchange) -> None:
        for name, hits in plan.counts.items():
            exchange.masked[name] = exchange.masked.get(name, 0) + hits
        plan.counts.clear()

    def _plan_portal(self, portal: Portal, exchange: Exchange) -> None:
        if exchange.masks is None:
            self._plan = None
            return
        if portal.shape is None:
            raise ProtocolError(Side.TARGET, "rows of a portal without a description")
        if not portal.planned:
            portal.planned = True
            portal.plan = exchange.masks.plan(portal.shape, exchange.action, 0)
        self._plan = portal.plan

    def _unknown(self, body: bytes) -> frozenset[int]:
        """The relations that a description names and our catalogue does not have; a younger one is then asked for."""
        exchange = self._current()
        return frozenset() if exchange is None or exchange.masks is None else self._unknown_in(body)

    def _unknown_in(self, body: bytes) -> frozenset[int]:
        catalog = self._known.catalog
        if catalog is None:
            return frozenset()
        origins = {table for _, table, _, _, _ in frames.row_description(body)}
        return frozenset(oid for oid in origins if oid >= FIRST_USER_OID and oid not in catalog.by_oid)

    def _current(self) -> Exchange | None:
        """The exchange whose replies come now."""
        if not self._expects:
            return None
        expect = self._expects[0]
        return expect.exchange or (expect.portal.exchange if expect.portal is not None else None)

    def _head(self, kinds: bytes, what: str) -> Expect:
        if not self._expects or self._expects[0].kind not in kinds:
            raise ProtocolError(Side.TARGET, f"{what} that nothing asked for")
        return self._expects[0]

    def _plan_for(self, body: bytes, exchange: Exchange) -> RowPlan | None:
        masks, action = exchange.masks, exchange.action
        assert masks is not None
        key = (body, id(action), id(masks), exchange.nth)
        kept = self._plans.get(key)
        if kept is None:
            plan = masks.plan(shape_of(body), action, exchange.nth)
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            kept = self._plans[key] = (action, masks, plan)  # kept alive, so that an id is never another's
        return kept[2]

    def _redacted(self, kind: bytes, values: dict[str, str], exchange: Exchange | None) -> bytes | None:
        if self._touched is not None and _ends_transaction(exchange):
            exchange = self._touched  # what it deferred is checked now, and may tell of any row
        masks = exchange.masks if exchange is not None else self._last_masks
        if masks is None:
            return None
        exchange = exchange or Exchange(0)
        if exchange.protected:
            shown = {name: values[name] for name in values if name in _SHOWN_ALWAYS}
            shown["M"] = _WITHHELD
            exchange.masked["message"] = exchange.masked.get("message", 0) + 1
            return frames.report(kind, shown)
        changed = False
        for name in ("M", "D", "H", "W", "q"):
            if name in values:
                text, hits = masks.text(values[name])
                if hits:
                    values[name], changed = text, True
                    for each, number in hits.items():
                        exchange.masked[each] = exchange.masked.get(each, 0) + number
        return frames.report(kind, values) if changed else None


def _ends_transaction(exchange: Exchange | None) -> bool:
    """Whether deferred constraints may be checked by it; None: by a Sync."""
    action = exchange.action if exchange is not None else None
    return action is None or any(touch.kind == "transaction" for touch in action.touches)


def shape_of(body: bytes) -> Shape:
    return tuple(
        Column(name, (table, column) if table else None, kind, form == 1)
        for name, table, column, kind, form in frames.row_description(body)
    )
