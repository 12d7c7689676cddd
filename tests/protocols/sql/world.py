"""A database as the tests of names and readings see it: PostgreSQL's own catalog (15 and 18, taken from real servers)
and a few relations and functions of an application."""

from __future__ import annotations

import json
from pathlib import Path

from muniment.model.exchange import Action, Catalog, Relation
from muniment.protocols.postgres.meaning import Names, needs, resolve
from muniment.protocols.sql.postgres import read
from muniment.protocols.sql.reading import Reading

APPLICATION = {
    "public.customers": "id name email ssn card_number balance",
    "public.invoices": "id customer_id total note",
    "public.orders": "id customer_id item qty",
    "public.v_customers": "id name",
    "app.secrets": "id value",
    "app.customers": "id name password",
    "public.Mixed Case": "id Value",
}
SEQUENCES = ("public.invoices_id_seq",)
FUNCTIONS = {"public": "fx_rate evil lower_all total", "app": "evil refresh", "extra": "dblink crosstab"}
DATABASE = "billing"


def catalog() -> Catalog:
    """Everything of both releases, and the application's own."""
    data = json.loads((Path(__file__).parent / "catalog.json").read_text())
    relations: list[Relation] = []
    named = {name: (kind, columns) for name, (kind, columns) in data["relations"].items()}
    named |= {name: ("r", columns) for name, columns in APPLICATION.items()}
    named |= dict.fromkeys(SEQUENCES, ("S", ""))
    for oid, (full, (kind, columns)) in enumerate(named.items(), 16384):
        schema, _, name = full.partition(".")
        relations.append(Relation(oid, schema, name, kind, tuple(enumerate(columns.split(), 1))))
    functions: dict[str, set[str]] = {}
    for schema, words in [*data["functions"].items(), *FUNCTIONS.items()]:
        for word in words.split():
            functions.setdefault(word, set()).add(schema)
    return Catalog(
        database=DATABASE,
        version=1,
        loaded_at_us=0,
        relations={(r.schema, r.name): r for r in relations},
        by_oid={r.oid: r for r in relations},
        functions={name: frozenset(schemas) for name, schemas in functions.items()},
    )


CATALOG = catalog()
NAMES = Names(CATALOG, ("pg_catalog", "public"))


def action(text: str, names: Names | None = NAMES) -> Action:
    """The Action of a text, with what it refers to read as well."""
    reading = read(text)
    others: dict[str, Reading] = {}
    waiting = list(needs(reading, names))
    while waiting:
        inner = waiting.pop()
        if inner not in others:
            others[inner] = read(inner)
            waiting.extend(needs(others[inner], names))
    return resolve(reading, names, others)


def touches(text: str, names: Names | None = NAMES) -> list[str]:
    """The touches of a text as "verb kind name"."""
    return [f"{touch.verb} {touch.kind} {touch.name}" for touch in action(text, names).touches]


def clients() -> dict[str, list[str]]:
    """Client -> the texts that it sends, as real servers logged them."""
    folder = Path(__file__).parent / "clients"
    return {path.stem: path.read_text().rstrip("\n").split("\n-- ;;\n") for path in sorted(folder.glob("*.sql"))}
