"""A small database of made-up customers for the masks' tests, and its rules."""

from __future__ import annotations

from collections.abc import Mapping

from muniment.model.exchange import Action, Catalog, Column, Relation
from muniment.model.rules import Mask, Selector
from muniment.protocols.postgres.meaning import Names, resolve
from muniment.protocols.sql.postgres import read

KEY = b"k" * 32
TEXT, VARCHAR, INT4, INT8, NUMERIC, JSON, JSONB, BYTEA, UUID = 25, 1043, 23, 20, 1700, 114, 3802, 17, 2950

CUSTOMERS, INVOICES, CARDS_VIEW, NAMES_VIEW, CHILD, STAFF, COPIES = 20000, 20001, 20002, 20003, 20004, 20005, 20006

RELATIONS = (
    Relation(CUSTOMERS, "public", "customers", "r", ((1, "id"), (2, "name"), (3, "card_number"), (4, "note"))),
    Relation(INVOICES, "public", "invoices", "r", ((1, "id"), (2, "customer"), (3, "memo"))),
    Relation(CARDS_VIEW, "public", "cards", "v", ((1, "id"), (2, "x"), (3, "card_number"))),
    Relation(NAMES_VIEW, "public", "names", "v", ((1, "id"), (2, "name"))),
    Relation(CHILD, "public", "customers_2026", "r", ((1, "id"), (3, "name"), (5, "card_number"))),
    Relation(STAFF, "hr", "staff", "r", ((1, "name"), (2, "ssn"))),
    Relation(COPIES, "public", "copies", "v", ((1, "whole"),)),
)
FUNCTIONS = (
    "upper",
    "row_to_json",
    "count",
    "max",
    "query_to_xml",
    "now",
    "pg_notify",
    "pg_advisory_lock",
    "setseed",
    "generate_series",
    "substr",
)


def catalog(*relations: Relation, version: int = 1) -> Catalog:
    """The database as it stands; other relations of the same id replace it."""
    by_oid = {relation.oid: relation for relation in (*RELATIONS, *relations)}
    return Catalog(
        database="billing",
        version=version,
        loaded_at_us=0,
        relations={(relation.schema, relation.name): relation for relation in by_oid.values()},
        by_oid=by_oid,
        functions={name: frozenset({"pg_catalog"}) for name in FUNCTIONS} | {"secrets_of": frozenset({"public"})},
        depends={
            CARDS_VIEW: frozenset({(CUSTOMERS, 1), (CUSTOMERS, 3)}),
            NAMES_VIEW: frozenset({(CUSTOMERS, 1), (CUSTOMERS, 2)}),
            COPIES: frozenset({(CUSTOMERS, 0)}),
        },
        inherits={CHILD: frozenset({CUSTOMERS})},
    )


def mask(
    columns: Mapping[str, tuple[str, ...]] | None = None,
    detect: tuple[str, ...] = (),
    show: Mapping[str, str] | None = None,
    original: str = "seal",
) -> Mask:
    """A mask for every target."""
    return Mask("m", Selector(), tuple((columns or {}).items()), detect, tuple((show or {}).items()), original)


BY_COLUMN = mask({"card_number": ("public.customers.card_number",), "us_ssn": ("*.ssn",)})
BY_VALUE = mask(detect=("card_number", "us_ssn", "email", "api_secret"))


def action(text: str, known: Catalog | None = None) -> Action:
    """What PostgreSQL's own parser and our reader make of a statement."""
    names = Names(known or catalog(), ("pg_catalog", "public"))
    return resolve(read(text), names, {})


def column(name: str, origin: tuple[int, int] | None = None, type_id: int = TEXT, binary: bool = False) -> Column:
    """One output column."""
    return Column(name, origin, type_id, binary)
