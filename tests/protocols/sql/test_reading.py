"""Reading is total, bounded and honest: what is not known by name makes a text incomplete."""

from __future__ import annotations

import string
from typing import Any

import pgparse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.protocols.sql import postgres
from muniment.protocols.sql.postgres import MAX_STATEMENT_BYTES, read
from muniment.protocols.sql.reading import Reading
from tests.evasions.test_evasions import CASES
from tests.protocols.sql.world import action, clients, touches

TEXTS = [case.text for case in CASES] + [text for texts in clients().values() for text in texts]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_reading_survives_the_pipe(text: str) -> None:
    reading = read(text)
    assert Reading.from_json(reading.to_json()) == reading


@given(st.text(max_size=60))
def test_any_text_has_a_reading(text: str) -> None:
    reading = read(text)
    assert reading.why or all(part is not None for part in reading.parts)


@given(st.sampled_from(TEXTS), st.integers(0, 400), st.sampled_from(string.printable), st.integers(0, 3))
def test_a_text_with_a_changed_character_has_a_reading_or_a_reason(text: str, at: int, char: str, cut: int) -> None:
    at %= len(text)
    found = action(text[:at] + char + text[at + cut :])
    assert found.complete or found.why


WORDS = st.sampled_from(
    """SELECT FROM WHERE WITH x AS ( ) , ; customers c . * md5 ssn 1 'a' $1 INSERT INTO VALUES UPDATE SET = DELETE
    RETURNING UNION ALL LATERAL JOIN ON true ORDER BY LIMIT FOR UPDATE TABLE COPY TO STDOUT CREATE VIEW DROP ALTER
    GRANT CASE WHEN THEN END EXISTS IN NOT NULL ARRAY [ ] ::text OVER EXECUTE PREPARE p EXPLAIN ANALYZE""".split()
)


@given(st.lists(WORDS, min_size=2, max_size=14).map(" ".join))
def test_any_words_of_sql_have_a_reading_or_a_reason(text: str) -> None:
    found = action(text)
    assert found.complete or found.why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT '" + "a" * MAX_STATEMENT_BYTES + "'", "longer"),
        ("SELECT '" + "é" * (MAX_STATEMENT_BYTES // 2) + "'", "longer"),
        ("SELECT 1\0; DROP TABLE customers", "NUL"),
        ("SELECT '\udc80'", "UTF-8"),
        ("SELECT " + "NOT " * 3000 + "true", "nested"),
        ("SELECT " + "1+" * 20000 + "1", "nested"),
        ("SELECT 1;" * 501, "more than 500"),
        ("SELECT * FROM 'secret-value'", "syntax error"),
    ],
)
def test_what_cannot_be_read_says_why_and_shows_nothing_of_the_text(text: str, why: str) -> None:
    found = action(text)
    assert not found.complete
    assert why in found.why
    assert "secret-value" not in found.why


def test_an_empty_text_does_nothing() -> None:
    for text in ("", ";", " ; ;", "-- nothing"):
        assert (action(text).touches, action(text).complete) == ((), True)


@pytest.mark.parametrize("where", ["statement", "expression", "from", "bare field"])
def test_a_node_that_is_not_known_makes_the_text_incomplete(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = {"StrangeThing": {"inside": 1}}
    tree: dict[str, Any] = {"SelectStmt": {"targetList": [], "op": "SETOP_NONE"}}
    if where == "statement":
        tree = {"StrangeStmt": {}}
    elif where == "expression":
        tree["SelectStmt"]["targetList"] = [{"ResTarget": {"val": {"A_ArrayExpr": {"elements": [strange]}}}}]
    elif where == "from":
        tree["SelectStmt"]["fromClause"] = [strange]
    else:
        tree["SelectStmt"]["newClause"] = {"relname": "customers"}
    monkeypatch.setattr(pgparse, "parse", lambda _text: [{"stmt": tree}])
    assert not action("SELECT 1").complete


# Every statement of PostgreSQL 17's grammar: the parse nodes that stand at the top. Source: its nodetags.h.
STATEMENTS = """
    Insert Delete Update Merge Select CreateSchema AlterTable AlterCollation AlterDomain Grant GrantRole
    AlterDefaultPrivileges Copy VariableSet VariableShow Create CreateTableSpace DropTableSpace AlterTableSpaceOptions
    AlterTableMoveAll CreateExtension AlterExtension AlterExtensionContents CreateFdw AlterFdw CreateForeignServer
    AlterForeignServer CreateForeignTable CreateUserMapping AlterUserMapping DropUserMapping ImportForeignSchema
    CreatePolicy AlterPolicy CreateAm CreateTrig CreateEventTrig AlterEventTrig CreatePLang CreateRole AlterRole
    AlterRoleSet DropRole CreateSeq AlterSeq Define CreateDomain CreateOpClass CreateOpFamily AlterOpFamily Drop
    Truncate Comment SecLabel DeclareCursor ClosePortal Fetch Index CreateStats AlterStats CreateFunction AlterFunction
    Do Call Rename AlterObjectDepends AlterObjectSchema AlterOwner AlterOperator AlterType Rule Notify Listen Unlisten
    Transaction CompositeType CreateEnum CreateRange AlterEnum View Load Createdb AlterDatabase
    AlterDatabaseRefreshColl AlterDatabaseSet Dropdb AlterSystem Cluster Vacuum Explain CreateTableAs RefreshMatView
    CheckPoint Discard Lock ConstraintsSet Reindex CreateConversion CreateCast CreateTransform Prepare Execute
    Deallocate DropOwned ReassignOwned AlterTSDictionary AlterTSConfiguration CreatePublication AlterPublication
    CreateSubscription AlterSubscription DropSubscription
"""


def test_every_statement_of_the_grammar_has_a_reader() -> None:
    assert {f"{name}Stmt" for name in STATEMENTS.split()} == set(postgres._HANDLERS)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT * FROM a.b", ["select relation a.b"]),
        ("DROP VIEW v_customers", ["drop view public.v_customers"]),
        ("DROP INDEX app.i", ["drop index app.i"]),
        ("DROP FUNCTION app.f(int)", ["drop function app.f"]),
        ("DROP TRIGGER t ON orders", ["drop trigger public.orders.t", "alter table public.orders"]),
        ("DROP TYPE app.mood", ["drop type app.mood"]),
        ("DROP ROLE ada, grace", ["drop role ada", "drop role grace"]),
        ("DROP CAST (int AS text)", ["drop cast pg_catalog.int4 text"]),
        ("ALTER SEQUENCE invoices_id_seq RESTART", ["alter sequence public.invoices_id_seq"]),
        ("ALTER TABLE orders RENAME item TO x", ["alter table public.orders", "alter column public.orders.item",
                                                 "create column public.orders.x"]),
        ("ALTER INDEX app.i RENAME TO j", ["alter index app.i", "create index app.j"]),
        ("ALTER SCHEMA app RENAME TO b", ["alter schema app", "create schema b"]),
        ("COMMENT ON COLUMN orders.item IS 'x'", ["comment column public.orders.item"]),
        ("GRANT USAGE ON SCHEMA app TO ada", ["grant schema app"]),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO ada", ["grant default-privileges table"]),
        ("SAVEPOINT a", ["savepoint transaction a"]),
        ("SET LOCAL statement_timeout = 5", ["set setting statement_timeout"]),
        ("RESET ALL", ["reset setting all"]),
        ("DISCARD ALL", ["discard transaction all"]),
        ("NOTIFY x, 'payload'", ["notify channel x"]),
        ("UNLISTEN *", []),
        ("CHECKPOINT", ["checkpoint server server"]),
        ("REINDEX TABLE orders", ["reindex table public.orders"]),
        ("CLUSTER", ["cluster database billing"]),
        ("ANALYZE orders", ["analyze table public.orders"]),
        ("SET CONSTRAINTS ALL DEFERRED", ["constraints transaction constraints"]),
        ("CREATE STATISTICS app.s ON id, item FROM orders", ["create statistics app.s", "alter table public.orders"]),
        ("CREATE PUBLICATION p FOR TABLE orders", ["create publication p", "alter table public.orders"]),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", ["create subscription s"]),
        ("CREATE OPERATOR app.+ (FUNCTION = app.evil, LEFTARG = int)", ["create operator app.+"]),
        ("REASSIGN OWNED BY ada TO grace", ["reassign owned ada"]),
    ],
)  # fmt: skip
def test_what_other_statements_touch(text: str, wanted: list[str]) -> None:
    assert action(text).complete
    assert touches(text) == wanted
