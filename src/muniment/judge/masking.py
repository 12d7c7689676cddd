"""Masks at one target: which output columns are protected, and one function per column that masks its values.

Three things protect a value: the column it comes from, the name it goes out under, and what it looks like. What cannot
be told is treated as protected. See DESIGN section 3, "Rules for PostgreSQL", rule 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from muniment.judge import detect, shapes
from muniment.judge.protected import UNRESOLVED, Protected, Rule, calls_out, copies_out
from muniment.model.exchange import Action, Beneath, Catalog, Column, Parameter
from muniment.model.rules import Mask
from muniment.model.verdict import RowPlan
from muniment.scan import values
from muniment.scan.quick import may_hit
from muniment.scan.rows import Constant

# Types by PostgreSQL's own ids (pg_type.dat); ids are for ever.
BYTEA, JSON, JSONB = 17, 114, 3802
TEXTS = frozenset({25, 1043, 1042, 19, 705, 142, 2275})  # text varchar bpchar name unknown xml cstring
NUMBERS = frozenset({detect.INT8, detect.NUMERIC})
# Never looked into: bool int2 int4 oid tid xid cid, floats, dates and times, uuid, networks, bits, money, geometry ...
PLAIN = frozenset(
    {16, 18, 21, 23, 26, 27, 28, 29, 700, 701, 1082, 1083, 1114, 1184, 1266, 1186, 2950, 869, 650, 829, 774, 1560, 1562}
    | {790, 600, 601, 602, 603, 604, 628, 718, 2278, 3220, 5069, 2205, 2206, 24, 2202, 22, 30}
    | {1000, 1005, 1007, 1021, 1022, 1115, 1182, 1183, 1185, 1187, 1270, 2951, 1028}
)
FIRST_USER_OID = 16384  # PostgreSQL's FirstNormalObjectId: below are the server's own relations

REDACT = "redact"

Masker = Callable[[bytes], bytes | None]


def masks_for(
    masks: Sequence[Mask], catalog: Catalog | None, key: bytes, previous: TargetMasks | None = None
) -> TargetMasks | None:
    """The masks of one target and database; None when there is nothing to mask there.

    masks: those that select the target. catalog: None while it is unknown, then every user column counts as protected.
    key: for pseudonyms. previous: what was in force before this catalog was loaded; under the same masks, columns that
    were protected stay so when they were renamed. Cost: one match per column of the catalog; make it once per load and
    share it. Raises ValueError for a detector that does not exist.
    """
    masks = tuple(masks)
    bits = detect.kinds(name for mask in masks for name in mask.detect)
    rules = tuple((name, patterns) for mask in masks for name, patterns in mask.columns if patterns)
    if not bits and not rules:
        return None
    modes: dict[str, str] = {}
    for mask in masks:
        for name, mode in mask.show:
            modes[name] = min(mode, modes.get(name, mode), key=_strictness)
    earlier = previous.protected if previous is not None and previous.masks == masks else None
    return TargetMasks(masks, bits, modes, Protected.find(rules, catalog, earlier), key)


def _strictness(mode: str) -> int:
    return shapes.MODES.index(mode) if mode in shapes.MODES else shapes.MODES.index(REDACT)


class TargetMasks:
    """The masks of one target; implements `model.verdict.Masks`. Immutable, and shared by the target's sessions."""

    __slots__ = ("_bits", "_key", "_modes", "_shows", "masks", "protected")

    def __init__(self, masks: tuple[Mask, ...], bits: int, modes: dict[str, str], protected: Protected, key: bytes):
        self.masks = masks
        self.protected = protected
        self._bits = bits
        self._modes = modes
        self._shows = {name: shapes.shape(modes.get(name, REDACT), name, key) for name in detect.CLASSES}
        self._key = key

    @property
    def forgets(self) -> bool:
        """Whether originals are kept nowhere: one mask that says `forget` is enough."""
        return any(mask.original == "forget" for mask in self.masks)

    def plan(self, columns: tuple[Column, ...], action: Action | None, nth: int) -> RowPlan | None:
        """See `Masks.plan`. The plan may be used for more results of the same shape after `counts.clear()`."""
        counts: dict[str, int] = {}
        beneath = self._beneath(columns, action, nth)
        maskers: list[Masker | None] = []
        always = False
        named = self.protected.named(action)
        for column, under in zip(columns, beneath, strict=True):
            rule = self._rule(column, under, named)
            if rule is not None:
                maskers.append(self._whole(column, rule, counts))
                always = True
                continue
            masker, quick = self._detector(column, counts)
            maskers.append(masker)
            always = always or not quick
        if not any(maskers):
            return None
        return RowPlan(tuple(maskers), None if always else partial(may_hit, kinds=self._bits), counts)

    def protects(self, action: Action) -> bool:
        """See `Masks.protects`. A relation that could not be resolved counts as protected."""
        return self.protected.concerns(action)

    def tells(self, action: Action) -> bool:
        """See `Masks.tells`."""
        return self.protected.concerns(action) or self.protected.calls(action)

    def closed(self, action: Action) -> str:
        """See `Masks.closed`."""
        reason = self.protected.closed(action)
        if not reason and self._bits and copies_out(action):
            return "COPY sends rows past the value detectors that are in force at this target; use SELECT"
        return reason

    def text(self, text: str) -> tuple[str, dict[str, int]]:
        """See `Masks.text`. A class that is shown as NULL is redacted here."""
        data = text.encode("utf-8", "surrogateescape") if self._bits else b""
        hits = values.find(data, self._bits)
        if not hits:
            return text, {}
        counts: dict[str, int] = {}
        shown = shapes.in_text(data, self._spans(hits, counts))
        return shown.decode("utf-8", "surrogateescape"), counts

    def parameters(self, parameters: tuple[Parameter, ...]) -> bool:
        """See `Masks.parameters`."""
        return any(
            self._hits(parameter.value, parameter.type, parameter.binary)
            for parameter in parameters
            if parameter.value is not None
        )

    def _hits(self, value: bytes, type_id: int, binary: bool) -> bool:
        if not self._bits:
            return False
        if binary and type_id in NUMBERS:
            return bool(_number_class(value, type_id, self._bits, False))
        if binary and type_id not in TEXTS:
            return bool(detect.binary_class(value, self._bits))
        return bool(values.find(value, self._bits))

    def _beneath(self, columns: tuple[Column, ...], action: Action | None, nth: int) -> tuple[Beneath, ...]:
        """What each column is computed from, None for all of them when the reading does not fit the result."""
        unknown = (None,) * len(columns)
        if action is None or not action.complete:
            return unknown
        if not action.counted or not 0 <= nth < len(action.outputs):
            return unknown  # rows that a rule of the target made
        if not self.protected.concerns(action) and not calls_out(action):
            return (NOTHING,) * len(columns)  # nothing in the whole statement is protected, stars included
        outputs = action.outputs[nth]
        if outputs is None or len(outputs) != len(columns):
            return unknown
        if self.protected.unknown(action):
            return tuple(None if beneath else beneath for beneath in outputs)
        return outputs

    def _rule(self, column: Column, beneath: Beneath, named: Callable[[str], Rule | None]) -> Rule | None:
        """How the whole column is protected; None when only its values can be."""
        protected = self.protected
        if not protected.exists:
            return None
        if column.origin is not None:
            oid, number = column.origin
            rule = protected.by_column.get((oid, number))
            if rule is not None or (oid < FIRST_USER_OID and oid not in protected.known):
                return rule
            if number <= protected.known.get(oid, -1):
                return None
            return Rule(UNRESOLVED, REDACT)  # a relation, or a column of it, that is younger than the catalogue
        rule = named(column.name)
        if rule is not None:
            return rule
        if beneath is None or "*" in beneath:
            return Rule(UNRESOLVED, REDACT)
        for name in sorted(beneath):
            rule = named(name)
            if rule is not None:
                return Rule(rule.name, REDACT)  # computed from it: the shape of the class does not fit
        return None

    def _whole(self, column: Column, rule: Rule, counts: dict[str, int]) -> Masker:
        """Mask every value of the column, whatever it is."""
        name = rule.name
        mode = rule.mode or self._modes.get(name, REDACT)
        json = column.type in (JSON, JSONB)
        if mode == "null" or not (json or column.type in TEXTS):
            return Constant(None, name, counts)
        show = shapes.shape(mode, name, self._key)
        if json:
            head = b"\x01" if column.type == JSONB and column.binary else b""
            if mode != "pseudonym":
                return Constant(head + REDACTED_JSON, name, counts)
            return partial(_whole_json, name, counts, head, show)
        if show is shapes.redact:
            return Constant(shapes.REDACTED, name, counts)
        return partial(_shown, name, counts, show)

    def _detector(self, column: Column, counts: dict[str, int]) -> tuple[Masker | None, bool]:
        """Mask what the detectors find in the column's values; None where they find nothing in its type.

        The second: whether the quick test on raw rows sees all that this masker sees.
        """
        bits = self._bits
        if not bits:
            return None, True
        type_id, binary = column.type, column.binary
        ssn = bool(bits & values.SSN) and detect.names_ssn(column.name)
        if type_id in NUMBERS or (ssn and type_id == detect.INT4):
            if not ssn and not bits & values.CARD:
                return None, True
            return partial(self._in_number, counts, type_id, binary, ssn), not (binary or ssn)
        if type_id in TEXTS:
            return partial(self._in_text, counts, ssn), not ssn
        if type_id in (JSON, JSONB):
            return partial(self._in_json, counts, type_id == JSONB and binary), True
        if type_id in PLAIN:
            return None, True
        if type_id == BYTEA and not binary:
            return partial(self._in_hex, counts), False
        # Arrays, records, types of extensions: shown as NULL when anything is found
        return partial(self._in_other, counts, binary), not (binary and bits & values.CARD)

    def _spans(
        self, hits: list[tuple[int, int, int]], counts: dict[str, int]
    ) -> list[tuple[int, int, Callable[[bytes], bytes]]]:
        """What to do with each hit; counts them."""
        spans = []
        for start, end, kind in hits:
            name = detect.NAME_OF[kind]
            counts[name] = counts.get(name, 0) + 1
            spans.append((start, end, self._shows[name]))
        return spans

    def _nulls(self, value: bytes, hits: list[tuple[int, int, int]]) -> bool:
        """Whether the hit is the whole value and its class is shown as NULL."""
        start, end, kind = hits[0]
        return end - start == len(value) and self._modes.get(detect.NAME_OF[kind]) == "null"

    def _in_text(self, counts: dict[str, int], ssn: bool, value: bytes) -> bytes | None:
        hits = values.find(value, self._bits)
        if not hits and ssn and detect.bare_ssn(value):
            hits = [(0, len(value), values.SSN)]
        if not hits:
            return value
        spans = self._spans(hits, counts)
        return None if self._nulls(value, hits) else shapes.in_text(value, spans)

    def _in_json(self, counts: dict[str, int], versioned: bool, value: bytes) -> bytes | None:
        hits = values.find(value[1:] if versioned else value, self._bits)
        if not hits:
            return value
        spans = self._spans(hits, counts)
        if versioned:  # jsonb's binary format: one byte of version, then text
            return value[:1] + shapes.in_json(value[1:], spans)
        return shapes.in_json(value, spans)

    def _in_number(self, counts: dict[str, int], type_id: int, binary: bool, ssn: bool, value: bytes) -> bytes | None:
        if binary:
            name = _number_class(value, type_id, self._bits, ssn)
        else:
            whole, _, fraction = value.partition(b".")
            whole = whole.removeprefix(b"-")
            number = int(whole) if whole.isdigit() and len(whole) < 32 and not fraction.strip(b"0") else None
            name = detect.number_class(number, self._bits, ssn)
        return _null(name, counts, value) if name else value

    def _in_hex(self, counts: dict[str, int], value: bytes) -> bytes | None:
        data = value
        if value.startswith(b"\\x"):
            try:
                data = bytes.fromhex(value[2:].decode("ascii"))
            except ValueError:
                return _null(UNRESOLVED, counts, value)
        name = detect.binary_class(data, self._bits)
        return _null(name, counts, value) if name else value

    def _in_other(self, counts: dict[str, int], binary: bool, value: bytes) -> bytes | None:
        if binary:
            name = detect.binary_class(value, self._bits)
        else:
            hits = values.find(value, self._bits)
            name = detect.NAME_OF[hits[0][2]] if hits else ""
        return _null(name, counts, value) if name else value


NOTHING: frozenset[str] = frozenset()
REDACTED_JSON = shapes.json_string(shapes.REDACTED)


def _number_class(value: bytes, type_id: int, bits: int, ssn: bool) -> str:
    """The class of a binary number; a value that is no such number is not shown either."""
    try:
        return detect.number_class(detect.whole_number(value, type_id), bits, ssn)
    except ValueError:
        return UNRESOLVED


def _null(name: str, counts: dict[str, int], value: bytes) -> bytes | None:
    counts[name] = counts.get(name, 0) + 1
    return None


def _shown(name: str, counts: dict[str, int], show: shapes.Show, value: bytes) -> bytes:
    counts[name] = counts.get(name, 0) + 1
    return show(value)


def _whole_json(name: str, counts: dict[str, int], head: bytes, show: shapes.Show, value: bytes) -> bytes:
    counts[name] = counts.get(name, 0) + 1
    return head + shapes.json_string(show(value[len(head) :]))
