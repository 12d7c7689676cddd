"""Masks at one target: columns by origin, by name and by value, and what is closed."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.judge.billing import (
    BY_COLUMN,
    BY_VALUE,
    BYTEA,
    CARDS_VIEW,
    CHILD,
    COPIES,
    CUSTOMERS,
    INT4,
    INT8,
    INVOICES,
    JSON,
    JSONB,
    KEY,
    NAMES_VIEW,
    NUMERIC,
    STAFF,
    TEXT,
    UUID,
    VARCHAR,
    action,
    catalog,
    column,
    mask,
)
from tests.scan.frames import read, row
from tests.scan.table import Maker

from muniment.judge.masking import TargetMasks, masks_for
from muniment.model.exchange import ANYTHING, Action, Catalog, Column, Parameter, Relation
from muniment.model.rules import Mask
from muniment.scan.rows import rewrite_rows

CARD = b"4111111111111111"
NO_ORIGIN: tuple[int, int] | None = None


def masks(*chosen: Mask, known: Catalog | None = None) -> TargetMasks:
    made = masks_for(chosen or (BY_COLUMN,), known or catalog(), KEY)
    assert made is not None
    return made


def show(
    made: TargetMasks,
    columns: Sequence[Column],
    values: Sequence[bytes | None],
    act: Action | None = None,
    nth: int = 0,
) -> list[bytes | None]:
    """One row as a client gets it."""
    block = row(*values)
    plan = made.plan(tuple(columns), act, nth)
    if plan is None or (plan.may_hit is not None and not plan.may_hit(block)):
        return list(values)
    return read(rewrite_rows(block, plan.maskers)[0])[0]


# by origin


@pytest.mark.parametrize(
    ("origin", "protected"),
    [
        ((CUSTOMERS, 3), True),
        ((CUSTOMERS, 1), False),
        ((CUSTOMERS, -1), False),  # ctid
        ((CUSTOMERS, 0), True),  # the whole row
        ((STAFF, 2), True),
        ((INVOICES, 3), False),
        ((INVOICES, 0), False),
        ((CARDS_VIEW, 1), True),  # a view over a protected column, all of it
        ((CARDS_VIEW, 3), True),
        ((NAMES_VIEW, 2), False),
        ((COPIES, 1), True),  # a view of whole rows
        ((CHILD, 5), True),  # a partition
        ((CHILD, 3), False),
        ((99999, 1), True),  # a relation that the catalogue does not have
        ((1259, 2), False),  # pg_class
    ],
)
def test_columns_are_protected_by_where_they_come_from(origin: tuple[int, int], protected: bool) -> None:
    for name in ("x", "card_number"):  # an alias changes nothing where the origin is known
        shown = show(masks(), [column(name, origin)], [CARD], action("select 1"))
        assert shown == ([b"[masked]"] if protected else [CARD])


def test_without_a_catalogue_every_user_column_is_protected() -> None:
    made = masks_for([BY_COLUMN], None, KEY)
    assert made is not None
    assert show(made, [column("id", (CUSTOMERS, 1)), column("oid", (1259, 1))], [b"1", b"2"]) == [b"[masked]", b"2"]


def test_a_target_without_masks_has_none() -> None:
    assert masks_for([], catalog(), KEY) is None
    assert masks_for([mask()], catalog(), KEY) is None


def test_rows_without_anything_to_mask_are_stepped_over() -> None:
    assert masks().plan((column("id", (CUSTOMERS, 1)), column("memo", (INVOICES, 3))), action("select 1"), 0) is None
    assert masks(BY_VALUE).plan((column("id", (CUSTOMERS, 1), INT4), column("u", None, UUID)), None, 0) is None


def test_a_renamed_column_stays_protected_until_the_rules_change() -> None:
    renamed = catalog(Relation(CUSTOMERS, "public", "people", "r", ((1, "id"), (2, "name"), (3, "x"))), version=2)
    before = masks()
    after = masks_for([BY_COLUMN], renamed, KEY, before)
    assert after is not None
    assert show(after, [column("x", (CUSTOMERS, 3))], [CARD]) == [b"[masked]"]
    assert after.protects(action("select x from people", renamed))
    others = masks_for([mask({"us_ssn": ("*.ssn",)})], renamed, KEY, before)
    assert others is not None
    assert show(others, [column("x", (CUSTOMERS, 3))], [CARD]) == [CARD]


# no origin


@pytest.mark.parametrize(
    ("text", "protected"),
    [
        ("select upper(card_number) from customers", True),
        ("select upper(x) from (select card_number as x from customers) s", True),
        ("with w as (select card_number as y from customers) select substr(y, 1) from w", True),
        ("select (select max(card_number) from customers)", True),
        ("select card_number from customers union all select memo from invoices", True),
        ("select row_to_json(c) from customers c", True),
        ("select c::text from customers c", True),
        ("select upper(s.z) from customers as s(a, b, z)", True),
        ("select max(ssn) from hr.staff", True),
        ("select secrets_of(1)", True),  # what a function of the target's own reads, nobody knows
        ("select upper(name) from customers", False),
        ("select count(*) from customers", False),
        ("select count(*) from invoices", False),
        ("select upper(memo) from invoices", False),
        ("select 'card_number'", False),
        ("select now()", False),
        ("select upper(x) from cards", True),
        ("select upper(id::text) from cards", True),
        ("select upper(x) from public.made_since", True),
        ("select 1 from public.made_since", False),
        ("select upper(name) from names", False),
    ],
)
def test_columns_without_an_origin_pass_only_if_nothing_protected_is_beneath(text: str, protected: bool) -> None:
    shown = show(masks(), [column("?column?")], [b"value"], action(text))
    assert shown == ([b"[masked]"] if protected else [b"value"]), text


def test_an_unknown_reading_protects_every_column_without_an_origin() -> None:
    columns = [column("a"), column("id", (CUSTOMERS, 1))]
    known = action("select upper(name), id from customers")
    assert show(masks(), columns, [b"a", b"1"], known) == [b"a", b"1"]
    for act, nth in (
        (None, 0),
        (known, 1),
        (known, -1),
        (action("select upper(card_number), id, 1 from customers"), 0),
    ):
        assert show(masks(), columns, [b"a", b"1"], act, nth) == [b"[masked]", b"1"]
    broken = Action((), outputs=((frozenset(), frozenset()),), complete=False)
    assert show(masks(), columns, [b"a", b"1"], broken) == [b"[masked]", b"1"]


def test_a_column_called_like_a_protected_one_is_masked_by_its_name() -> None:
    act = action("select 1 as card_number")
    assert show(masks(), [column("card_number")], [b"1"], act) == [b"[masked]"]
    by_glob = masks(mask({"pan": ("*.pan*",)}))
    assert show(by_glob, [column("pan_2")], [b"1"], action("select 1 as pan_2")) == [b"[masked]"]
    assert show(by_glob, [column("plan")], [b"1"], action("select 1 as plan")) == [b"1"]


def test_a_whole_table_can_be_protected() -> None:
    made = masks(mask({"person": ("public.customers.*",)}))
    assert show(made, [column("x", (CUSTOMERS, 1)), column("y", (NAMES_VIEW, 2))], [b"1", b"n"]) == [b"[masked]"] * 2
    assert show(made, [column("upper")], [b"N"], action("select upper(name) from customers")) == [b"[masked]"]
    assert show(made, [column("id")], [b"1"], action("select id + 1 as id from invoices")) == [b"1"]
    assert not made.protects(action("select id, memo from invoices"))


def test_each_statement_of_a_text_has_its_own_outputs() -> None:
    act = action("select upper(name) from customers; select upper(card_number) from customers")
    assert show(masks(), [column("upper")], [b"v"], act, 0) == [b"v"]
    assert show(masks(), [column("upper")], [b"v"], act, 1) == [b"[masked]"]


# how they are shown


@pytest.mark.parametrize(
    ("type_id", "binary", "value", "shown"),
    [
        (TEXT, False, CARD, b"[masked]"),
        (VARCHAR, True, CARD, b"[masked]"),
        (INT8, False, CARD, None),
        (INT8, True, struct.pack(">q", 1), None),
        (NUMERIC, True, b"\0\0\0\0\0\0\0\0", None),
        (UUID, False, b"x", None),
        (BYTEA, True, b"\x00", None),
        (1009, False, b"{a}", None),  # text[]
        (16999, False, b"(a)", None),  # a composite type
        (18, True, b"a", None),  # "char", one byte
        (JSON, False, b'{"a": 1}', b'"[masked]"'),
        (JSON, True, b'{"a": 1}', b'"[masked]"'),
        (JSONB, False, b"1", b'"[masked]"'),
        (JSONB, True, b"\x011", b'\x01"[masked]"'),
        (TEXT, False, None, None),
        (TEXT, False, b"", b"[masked]"),
    ],
)
def test_a_protected_value_keeps_its_type(type_id: int, binary: bool, value: bytes | None, shown: bytes | None) -> None:
    columns = [column("x", (CUSTOMERS, 3), type_id, binary)]
    assert show(masks(), columns, [value]) == [shown]


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("redact", b"[masked]"),
        ("last4", b"************1111"),
        ("first6-last4", b"411111******1111"),
        ("null", None),
    ],
)
def test_a_class_is_shown_as_the_mask_says(mode: str, shown: bytes | None) -> None:
    by_column = masks(mask({"card_number": ("*.card_number",)}, show={"card_number": mode}))
    assert show(by_column, [column("x", (CUSTOMERS, 3))], [CARD]) == [shown]
    assert show(by_column, [column("x", (CUSTOMERS, 3), INT8)], [CARD]) == [None]
    by_value = masks(mask(detect=("card_number",), show={"card_number": mode}))
    assert show(by_value, [column("x", (INVOICES, 3))], [CARD]) == [shown]


def test_of_two_masks_the_one_that_shows_less_wins() -> None:
    first = mask({"card_number": ("*.card_number",)}, show={"card_number": "first6-last4"})
    second = mask(detect=("card_number",), show={"card_number": "last4"})
    for chosen in ((first, second), (second, first)):
        assert show(masks(*chosen), [column("x", (CUSTOMERS, 3))], [CARD]) == [b"************1111"]


def test_pseudonyms_join_across_columns_and_formats() -> None:
    made = masks(mask({"card_number": ("*.card_number",)}, detect=("card_number",), show={"card_number": "pseudonym"}))
    whole = show(made, [column("x", (CUSTOMERS, 3))], [b"4111-1111-1111-1111"])[0]
    found = show(made, [column("x", (INVOICES, 3))], [b"paid with " + CARD])[0]
    assert whole is not None and found == b"paid with " + whole
    other = masks_for(made.masks, catalog(), b"x" * 32)
    assert other is not None and show(other, [column("x", (CUSTOMERS, 3))], [CARD]) != [whole]


def test_a_value_computed_from_a_protected_one_is_redacted_whatever_its_class_shows() -> None:
    made = masks(mask({"card_number": ("*.card_number",)}, show={"card_number": "first6-last4"}))
    act = action("select card_number || '' from customers")
    assert show(made, [column("?column?")], [CARD], act) == [b"[masked]"]


# by value


@pytest.mark.parametrize(
    ("type_id", "binary", "value", "shown"),
    [
        (TEXT, False, b"card 4111 1111 1111 1111 of ada@example.org.", b"card [masked] of [masked]."),
        (VARCHAR, True, b"ssn 123-45-6789", b"ssn [masked]"),
        (TEXT, False, b"2027-01-01 12:00:00.123456+00", b"2027-01-01 12:00:00.123456+00"),
        (INT8, False, CARD, None),
        (INT8, True, struct.pack(">q", int(CARD)), None),
        (INT8, True, struct.pack(">q", 17), struct.pack(">q", 17)),
        (INT8, True, b"short", None),  # no int8: not shown either
        (NUMERIC, False, CARD + b".00", None),
        (NUMERIC, False, b"17.5", b"17.5"),
        (NUMERIC, True, struct.pack(">4H4H", 4, 3, 0, 0, 4111, 1111, 1111, 1111), None),
        (JSON, False, b'{"c": 4111111111111111}', b'{"c": "[masked]"}'),
        (JSONB, True, b'\x01{"c": "4111111111111111"}', b'\x01{"c": "[masked]"}'),
        (1009, False, b"{4111111111111111,b}", None),
        (1009, False, b"{a,b}", b"{a,b}"),
        (1016, True, struct.pack(">iiIiiiq", 1, 0, 20, 1, 1, 8, int(CARD)), None),
        (16999, True, struct.pack(">iIi", 1, 25, 16) + CARD, None),
        (BYTEA, False, b"\\x" + CARD.hex().encode(), None),
        (BYTEA, False, b"\\x00ff", b"\\x00ff"),
        (BYTEA, False, b"\\xzz", None),
        (BYTEA, True, b"\x00" + CARD, None),
        (UUID, False, b"41111111-1111-1111-0000-000000000000", b"41111111-1111-1111-0000-000000000000"),
    ],
)
def test_hits_are_masked_in_every_type(type_id: int, binary: bool, value: bytes, shown: bytes | None) -> None:
    made = masks(BY_VALUE)
    columns = [column("id", (INVOICES, 1), INT4), column("x", (INVOICES, 3), type_id, binary)]
    assert show(made, columns, [b"1", value]) == [b"1", shown]


@pytest.mark.parametrize(
    ("name", "type_id", "binary", "value", "shown"),
    [
        ("ssn", TEXT, False, b"123456789", b"[masked]"),
        ("note", TEXT, False, b"123456789", b"123456789"),
        ("ssn", TEXT, False, b"999999999", b"999999999"),
        ("ssn", INT4, False, b"123456789", None),
        ("ssn", INT4, True, struct.pack(">i", 123456789), None),
        ("id", INT4, True, struct.pack(">i", 123456789), struct.pack(">i", 123456789)),
        ("ssn", NUMERIC, False, b"123456789", None),
        ("ssn", INT8, False, b"123456789", None),
    ],
)
def test_nine_bare_digits_are_an_ssn_where_the_column_says_so(
    name: str, type_id: int, binary: bool, value: bytes, shown: bytes | None
) -> None:
    assert show(masks(BY_VALUE), [column(name, (INVOICES, 3), type_id, binary)], [value]) == [shown]


def test_counts_are_per_class_and_start_again_when_cleared() -> None:
    plan = masks(BY_COLUMN, BY_VALUE).plan((column("x", (CUSTOMERS, 3)), column("m", (INVOICES, 3))), None, 0)
    assert plan is not None
    block = row(CARD, b"ada@example.org and 123-45-6789") * 3 + row(None, b"nothing")
    rewrite_rows(block, plan.maskers)
    assert plan.counts == {"card_number": 3, "email": 3, "us_ssn": 3}
    plan.counts.clear()
    rewrite_rows(block, plan.maskers)
    assert plan.counts == {"card_number": 3, "email": 3, "us_ssn": 3}


types = st.sampled_from([TEXT, VARCHAR, JSON, JSONB, INT8, NUMERIC, INT4, UUID, BYTEA, 1009, 1016, 16999, 705, 1042])
origins = st.sampled_from([None, (CUSTOMERS, 3), (CUSTOMERS, 1), (INVOICES, 3), (99999, 1), (STAFF, 2)])


@given(
    made=st.lists(st.tuples(types, st.booleans(), origins, st.sampled_from(["x", "ssn", "card_number"])), max_size=5),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_framing_types_and_counts_stay_valid_and_no_hit_is_left(
    made: list[tuple[int, bool, tuple[int, int] | None, str]], seed: int, data: st.DataObject
) -> None:
    maker = Maker(seed)
    kinds = [maker.card, maker.ssn, maker.email, maker.secret, maker.decoy, maker.words]
    columns = tuple(column(name, origin, type_id, binary) for type_id, binary, origin, name in made)
    value = st.none() | st.binary(max_size=30) | st.sampled_from(kinds).map(lambda make: maker.around(make()).encode())
    table = data.draw(st.lists(st.tuples(*[value] * len(columns)), max_size=4))
    chosen = masks(BY_COLUMN, BY_VALUE)
    plan = chosen.plan(columns, None, 0)
    if plan is None:
        return
    block = b"".join(row(*values) for values in table)
    shown, changed = rewrite_rows(block, plan.maskers)
    rows = read(shown)
    assert [len(values) for values in rows] == [len(columns)] * len(table)
    assert (changed > 0) <= (sum(plan.counts.values()) > 0)
    for before, after in zip(table, rows, strict=True):
        for col, old, new in zip(columns, before, after, strict=True):
            if old is None:
                assert new is None
            elif new is not None:
                if new != old and col.type in (JSON, JSONB):
                    json.loads(new[1:] if col.type == JSONB and col.binary else new)
                if col.type in (TEXT, VARCHAR, 705, 1042, 1009, 16999):
                    assert not chosen.parameters((Parameter(TEXT, False, new),)), new
                if col.origin in ((CUSTOMERS, 3), (STAFF, 2), (99999, 1)):
                    assert new in (b"[masked]", b'"[masked]"', b'\x01"[masked]"')
    assert rewrite_rows(shown, plan.maskers)[0] == shown


@given(st.integers(0, 10**6), st.lists(st.binary(max_size=12), min_size=1, max_size=3))
def test_no_run_of_five_digits_of_a_protected_value_survives(seed: int, others: list[bytes]) -> None:
    secret = Maker(seed).card().encode()
    columns = (*(column("m", (INVOICES, 3)) for _ in others), column("x", (CUSTOMERS, 3)))
    plan = masks(BY_COLUMN).plan(columns, None, 0)
    assert plan is not None
    shown, _ = rewrite_rows(row(*others, secret), plan.maskers)
    kept = b"".join(others)
    for run in re.findall(rb"(?=([0-9]{5}))", secret):
        assert run not in shown or run in kept


@given(st.binary(max_size=60), types, st.booleans())
def test_garbage_values_raise_nothing(value: bytes, type_id: int, binary: bool) -> None:
    for origin in (None, (CUSTOMERS, 3), (INVOICES, 3)):
        plan = masks(BY_COLUMN, BY_VALUE).plan((column("ssn", origin, type_id, binary),), action("select 1"), 0)
        for masker in plan.maskers if plan is not None else ():
            if masker is not None:
                assert masker(value) is None or isinstance(masker(value), bytes)


def test_the_quick_test_is_left_out_where_it_would_not_see_a_hit() -> None:
    made = masks(BY_VALUE)
    quick = made.plan((column("m", (INVOICES, 3)),), None, 0)
    assert quick is not None and quick.may_hit is not None
    assert quick.may_hit(row(CARD)) and not quick.may_hit(row(b"plain"))
    for slow in (column("m", None, INT8, True), column("ssn"), column("b", None, BYTEA), column("a", None, 1016, True)):
        plan = made.plan((slow,), None, 0)
        assert plan is not None and plan.may_hit is None


# actions and texts


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("copy customers to stdout", True),
        ("copy customers (id, name) to stdout", True),
        ("copy (select card_number from customers) to stdout", True),
        ("copy (select x from cards) to stdout", True),
        ("copy customers to program 'cat'", True),
        ("copy invoices to stdout", False),
        ("copy customers from stdin", False),
        ("declare c cursor for select card_number from customers", True),
        ("declare c cursor for select memo from invoices", False),
        ("insert into invoices select card_number from customers", True),
        ("insert into customers select * from invoices", False),
        ("create table y as select card_number from customers", True),
        ("create table y as select memo from invoices", False),
        ("create table y as table hr.staff", True),
        ("create materialized view y as select * from cards", True),
        ("update customers set note = card_number", True),
        ("update customers set note = name", False),
        ("update customers set note = c.x from (select card_number as x from customers) c", True),
        ("update customers set note = 'x' where card_number = '1'", False),
        ("update customers set card_number = null where id = 1", False),
        ("with d as (delete from customers returning card_number) insert into invoices select * from d", True),
        ("with d as (select card_number from customers) insert into invoices select * from d", True),
        ("with d as (delete from customers returning *) insert into customers select * from d", True),
        ("insert into customers (id) values (1) on conflict do update set name = 'x' returning card_number", False),
        ("update customers set name = 'x' where id = 1 returning card_number", False),
        ("update invoices set memo = 'x' where customer in (select id from customers)", False),
        ("alter table customers alter column note type text using card_number", True),
        ("alter table customers add column z text generated always as (card_number) stored", True),
        ("alter table customers add column z text", False),
        ("alter table customers rename column card_number to x", False),
        ("create view v as select card_number from customers", True),
        ("create view v as select memo from invoices", False),
        ("create rule r as on insert to customers do also insert into invoices values (new.card_number)", True),
        ("select card_number into y from customers", True),
        ("select query_to_xml('select * from customers', true, false, '')", True),
        ("select * from pg_stats", True),
        ("select * from pg_catalog.pg_class", False),
        ("select pg_notify('x', card_number) from customers", True),
        ("select pg_notify('x', memo) from invoices", False),
        ("notify x, 'y'", False),
        ("select card_number from customers", False),
        ("select * from nowhere.known", False),
        ("create table y as select * from nowhere.known", True),
        ("copy nowhere.known to stdout", True),
        ("select pg_advisory_lock(card_number::bigint) from customers", True),
        ("select pg_advisory_lock(id) from invoices", False),
        ("select setseed(0.5), card_number from customers", False),
        ("select secrets_of(1)", False),
        ("insert into invoices (memo) values (secrets_of(1))", True),
        ("insert into invoices (memo) values (upper('x'))", False),
        ("update invoices set memo = secrets_of(1)", True),
        ("create table y as select secrets_of(1) as x", True),
        ("create table y (x text default secrets_of(1))", True),
        ("alter table invoices add column z text default secrets_of(1)", True),
        ("create view v as select secrets_of(1) as x", True),
        ("copy (select secrets_of(1)) to stdout", True),
        ("declare c cursor for select secrets_of(1)", True),
        ("create trigger t after insert on invoices for each row execute function secrets_of()", False),
        ("create table y as select chunk_data from pg_toast.pg_toast_20000", True),
    ],
)
def test_what_cannot_be_masked_safely_is_closed(text: str, closed: bool) -> None:
    reason = masks().closed(action(text))
    assert bool(reason) is closed, reason


def test_a_function_of_an_extension_may_fill_a_column() -> None:
    made = masks_for([BY_COLUMN], replace(catalog(), shipped=frozenset({"public.secrets_of"})), KEY)
    assert made is not None
    assert not made.closed(action("insert into invoices (memo) values (secrets_of(1))"))


def test_a_view_that_uses_a_function_of_the_databases_own_is_protected() -> None:
    view = Relation(20010, "public", "of_function", "v", ((1, "x"),))
    found = replace(catalog(view), depends={20010: frozenset({ANYTHING})})
    made = masks_for([BY_COLUMN], found, KEY)
    assert made is not None
    plan = made.plan((Column("x", (20010, 1), TEXT, False),), action("select x from of_function", found), 0)
    assert plan is not None and plan.maskers[0] is not None
    assert made.closed(action("copy of_function to stdout", found))


def test_a_column_that_is_younger_than_the_catalogue_is_redacted() -> None:
    plan = masks().plan((Column("x", (INVOICES, 4), TEXT, False),), action("select x from invoices"), 0)
    assert plan is not None and plan.maskers[0] is not None


def test_rows_that_the_reading_does_not_foresee_are_redacted() -> None:
    plan = masks().plan((Column("x", None, TEXT, False),), action("insert into invoices (id) values (1)"), 0)
    assert plan is not None and plan.maskers[0] is not None


def test_of_several_statements_none_is_believed_where_a_rule_may_answer_too() -> None:
    ruled = replace(catalog(), ruled=frozenset({"public.invoices"}))
    for text, hidden in (("insert into invoices (id) values (1); select 1", True), ("select 1; select 2", False)):
        plan = masks().plan((Column("x", None, TEXT, False),), action(text, ruled), 0)
        assert (plan is not None and plan.maskers[0] is not None) is hidden


def test_an_operator_of_the_databases_own_may_give_anything_back() -> None:
    plan = masks().plan((Column("x", None, TEXT, False),), action("select 1 operator(public.###) 2"), 0)
    assert plan is not None and plan.maskers[0] is not None


@pytest.mark.parametrize(
    ("text", "tells"),
    [("select secrets_of(1)", True), ("select id from customers", True), ("select upper(memo) from invoices", False)],
)
def test_errors_and_notices_of_functions_of_the_databases_own_may_tell(text: str, tells: bool) -> None:
    assert masks().tells(action(text)) is tells


def test_copy_is_closed_where_detectors_could_not_look() -> None:
    made = masks(BY_VALUE)
    assert "COPY" in made.closed(action("copy invoices to stdout"))
    assert not made.closed(action("copy invoices from stdin"))
    assert not made.closed(action("create table y as select card_number from customers"))
    assert not made.protects(action("select card_number from customers"))


@pytest.mark.parametrize(
    ("text", "protects"),
    [
        ("select id from customers", True),
        ("update customers set name = 'x' where id = 1", True),
        ("alter table customers add x int", True),
        ("drop table customers", True),
        ("select card_number from invoices", True),
        ("select * from cards", True),
        ("select * from nowhere.known", True),
        ("not sql at all", True),
        ("select id from invoices", False),
        ("select * from pg_catalog.pg_class", False),
        ("create table public.fresh (a int)", False),
        ("set application_name = 'x'", False),
        ("begin", False),
    ],
)
def test_statements_about_protected_relations_are_known(text: str, protects: bool) -> None:
    assert masks().protects(action(text)) is protects


def test_texts_show_no_hits() -> None:
    made = masks(BY_VALUE)
    assert made.text("key 4111111111111111 of ada@example.org \udcff\u00e4") == (
        "key [masked] of [masked] \udcff\u00e4",
        {"card_number": 1, "email": 1},
    )
    assert made.text("nothing") == ("nothing", {})
    assert masks(BY_COLUMN).text("4111111111111111") == ("4111111111111111", {})
    nulls = masks(mask(detect=("card_number",), show={"card_number": "null"}))
    assert nulls.text("4111111111111111") == ("[masked]", {"card_number": 1})


def test_hits_in_parameters_are_seen_in_every_format() -> None:
    made = masks(BY_VALUE)
    assert made.parameters((Parameter(0, False, CARD),))
    assert made.parameters((Parameter(INT4, True, b"\0\0\0\1"), Parameter(INT8, True, struct.pack(">q", int(CARD)))))
    assert made.parameters((Parameter(1016, True, struct.pack(">iiIiiiq", 1, 0, 20, 1, 1, 8, int(CARD))),))
    assert not made.parameters(
        (Parameter(TEXT, False, b"x"), Parameter(TEXT, False, None), Parameter(INT8, True, b"\0" * 8))
    )
    assert not masks(BY_COLUMN).parameters((Parameter(0, False, CARD),))


def test_one_mask_that_forgets_is_enough() -> None:
    assert not masks(BY_COLUMN, BY_VALUE).forgets
    assert masks(BY_COLUMN, mask(detect=("email",), original="forget")).forgets
