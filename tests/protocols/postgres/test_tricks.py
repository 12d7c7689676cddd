"""Tricks with names: what a pipeline, a rollback or a cut-off name makes of a statement that was judged by another."""

from __future__ import annotations

import pytest

from muniment.model.effects import Side
from muniment.model.errors import ProtocolError
from muniment.model.exchange import Action, Catalog, Statement, Touch
from muniment.model.verdict import Allow, Deny, Masks, Verdict
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.meaning import needs, resolve
from muniment.protocols.sql.postgres import read
from tests.kit.cases import CARD, READY, masks, row, tag
from tests.kit.table import Rule, Table
from tests.protocols.postgres.test_conversation import GONE, IN_TRANSACTION, bind, kinds, parse, query

CATALOG = Catalog("db", 1, 0, {}, {}, {}, {})
PARSED, BOUND, CLOSED = frames.frame(b"1", b""), frames.frame(b"2", b""), frames.frame(b"3", b"")
NO_DATA = frames.frame(b"n", b"")  # in answer to the gateway's own Describe
# What the target answers to the gateway's own question about names: a search path of `app`.
PATH_ROWS = row(b"p", b"pg_catalog", b"1", b"", b"") + row(b"p", b"app", b"2", b"", b"")
PATH_APP = CLOSED + PARSED + BOUND + PATH_ROWS + tag("SELECT 2") + CLOSED + CLOSED + IN_TRANSACTION


def really_read(statement: Statement) -> tuple[Verdict, Action]:
    """Allow what can be read whole, as the gate would under a grant of everything."""
    reading = read(statement.text)
    others = {text: read(text) for text in needs(reading, statement.names)}
    action = resolve(reading, statement.names, others)
    return (Allow("all") if action.complete else Deny("incomplete", action.why)), action


def close(kind: str, name: str) -> bytes:
    return frames.frame(b"C", kind.encode() + name.encode() + b"\0")


def asked(table: Table, text: str) -> bool:
    """Whether the target got this text."""
    return text.encode() in table.to_target


def test_an_execute_behind_an_unanswered_parse_of_its_name_is_refused() -> None:
    table = Table(really_read, catalog=CATALOG)
    table.client(parse("p", "SELECT 1") + frames.SYNC)
    table.target(PARSED + READY)
    table.client(close("S", "p") + parse("p", "DELETE FROM public.customers") + frames.SYNC + query("EXECUTE p"))
    assert not asked(table, "EXECUTE p")
    table.target(CLOSED + PARSED + READY + GONE + READY)
    table.client(query("EXECUTE p"))
    assert "delete" in really_read(table.seen[-1])[1].verbs


def test_an_execute_in_the_pipeline_of_a_deallocate_is_refused() -> None:
    table = Table(really_read, catalog=CATALOG)
    table.client(query("PREPARE p AS SELECT 1"))
    table.target(tag("PREPARE") + READY)
    for text in ("DEALLOCATE p", "PREPARE p AS DELETE FROM public.customers", "EXECUTE p"):
        table.client(parse("", text) + bind("", "") + frames.execute(""))
    assert not asked(table, "EXECUTE p")


def test_a_close_of_a_statement_that_prepare_made_is_seen() -> None:
    table = Table(really_read, catalog=CATALOG)
    table.client(query("PREPARE p AS SELECT 1"))
    table.target(tag("PREPARE") + READY)
    table.client(close("S", "p") + frames.SYNC)
    table.target(CLOSED + READY)
    table.client(query("EXECUTE p"))
    assert not asked(table, "EXECUTE p")


@pytest.mark.parametrize("message", [parse("n" * 64, "SELECT 1"), bind("n" * 64, ""), close("S", "n" * 64)])
def test_a_name_that_the_server_would_cut_off_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError, match="63 bytes"):
        Table(really_read, catalog=CATALOG).client(message)


def test_a_name_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(ProtocolError, match="ASCII"):
        Table(really_read, catalog=CATALOG).client(parse("\xe9", "SELECT 1"))


def test_a_portal_of_a_cursors_name_is_not_read_as_the_cursor() -> None:
    table = Table(really_read, catalog=CATALOG, status=b"T")
    table.client(query("DECLARE c CURSOR FOR SELECT 1"))
    table.target(tag("DECLARE CURSOR") + IN_TRANSACTION)
    table.client(query("CLOSE c"))
    table.target(tag("CLOSE CURSOR") + IN_TRANSACTION)
    table.client(parse("", "SELECT card_number || '' FROM public.customers") + bind("c", "") + frames.SYNC)
    table.target(PARSED + BOUND + IN_TRANSACTION)
    table.client(query("FETCH ALL FROM c"))
    assert not asked(table, "FETCH ALL FROM c")


@pytest.mark.parametrize("text", ["ROLLBACK", "COMMIT"])
def test_a_cursor_ends_with_its_transaction(text: str) -> None:
    table = Table(really_read, catalog=CATALOG, status=b"T")
    table.client(query("DECLARE c CURSOR FOR SELECT 1"))
    table.target(tag("DECLARE CURSOR") + IN_TRANSACTION)
    table.client(query(text))
    table.target(tag(text) + READY)
    table.client(query("FETCH ALL FROM c"))
    assert not asked(table, "FETCH ALL FROM c")


def test_a_cursor_with_hold_outlives_a_commit_and_not_a_rollback() -> None:
    table = Table(really_read, catalog=CATALOG, status=b"T")
    table.client(query("DECLARE c CURSOR WITH HOLD FOR SELECT 1"))
    table.target(tag("DECLARE CURSOR") + IN_TRANSACTION)
    table.client(query("COMMIT"))
    table.target(tag("COMMIT") + READY)
    table.client(query("FETCH ALL FROM c"))
    assert asked(table, "FETCH ALL FROM c")
    other = Table(really_read, catalog=CATALOG, status=b"T")
    other.client(query("DECLARE c CURSOR WITH HOLD FOR SELECT 1"))
    other.target(tag("DECLARE CURSOR") + IN_TRANSACTION)
    other.client(query("SELECT 1/0"))
    other.target(frames.error("22012", "division by zero") + frames.frame(b"Z", b"E"))
    other.client(query("FETCH ALL FROM c"))
    assert not asked(other, "FETCH ALL FROM c")


def test_what_was_set_for_a_transaction_is_not_believed_behind_its_end() -> None:
    table = Table(really_read, catalog=CATALOG, status=b"T")
    table.client(query("SET LOCAL search_path = app"))
    table.target(tag("SET") + IN_TRANSACTION)
    assert table.to_target.endswith(frames.SYNC)  # the gateway's own question
    table.target(PATH_APP)
    table.client(query("COMMIT") + query("SELECT * FROM customers"))
    assert asked(table, "COMMIT") and not asked(table, "FROM customers")


def test_a_portal_that_is_executed_again_means_what_it_meant_when_it_was_bound() -> None:
    table = Table(really_read, catalog=CATALOG, status=b"T")
    table.client(parse("", "SELECT 1") + bind("c", "") + frames.execute("c") + frames.SYNC)
    table.target(PARSED + BOUND + tag("SELECT 1") + IN_TRANSACTION)
    first = table.seen[-1]
    table.client(query("SET search_path = app"))
    table.target(tag("SET") + IN_TRANSACTION + PATH_APP)
    table.client(frames.execute("c") + frames.SYNC)
    assert table.seen[-1].text == "SELECT 1" and table.seen[-1].names is first.names


YOUNGER = Catalog("db", 2, 30_000_000, {}, {}, {}, {})


def test_names_that_others_changed_count_from_the_next_message_that_nothing_runs_before() -> None:
    table = Table(really_read, catalog=CATALOG)
    table.client(query("SELECT 1"))
    table.do(table.talk.renewed(YOUNGER))
    table.client(query("SELECT 2"))  # the first still runs
    assert table.seen[-1].names.catalog is CATALOG
    table.target(tag("SELECT 1") + READY + tag("SELECT 1") + READY)
    table.client(query("SELECT 3"))
    assert table.seen[-1].names.catalog is YOUNGER


def test_names_that_the_session_itself_changed_in_a_transaction_are_read_there() -> None:
    table = Table(really_read, catalog=Catalog("db", -1, 0, {}, {}, {}, {}), status=b"T")
    table.do(table.talk.renewed(YOUNGER))
    assert b"pg_rewrite" in table.to_target  # the gateway's own question, for the whole catalogue
    table.client(query("SELECT * FROM public.customers"))
    assert not asked(table, "FROM public.customers")  # until it is answered


def about_cards(made: Masks) -> Rule:
    """Statements touch a protected relation; COMMIT is one of the transaction's."""

    def rule(statement: Statement) -> tuple[Verdict, Action]:
        if statement.text == "COMMIT":
            return Allow("all", made), Action((Touch("transaction", "transaction", "commit"),))
        return Allow("all", made), Action((Touch("relation", "public.customers", "insert"),))

    return rule


DUPLICATE = frames.error("23505", "duplicate key", detail="Key (card_number)=(nobody may see) already exists.")


def test_an_error_that_only_a_sync_meets_tells_no_value() -> None:
    table = Table(about_cards(masks()), catalog=CATALOG)
    insert = parse("", "INSERT INTO customers VALUES (1)") + bind("", "") + frames.execute("") + frames.SYNC
    table.client(insert)
    table.target(PARSED + BOUND + NO_DATA + tag("INSERT 0 1") + DUPLICATE + READY)
    assert "E" in kinds(table.to_client) and b"nobody may see" not in table.to_client


def test_an_error_that_only_a_commit_meets_tells_no_value() -> None:
    table = Table(about_cards(masks()), catalog=CATALOG, status=b"T")
    table.client(query("INSERT INTO customers VALUES (1)"))
    table.target(tag("INSERT 0 1") + IN_TRANSACTION)
    table.client(query("COMMIT"))
    table.target(DUPLICATE + READY)
    assert "E" in kinds(table.to_client) and b"nobody may see" not in table.to_client


def test_what_is_copied_into_a_protected_relation_is_not_recorded() -> None:
    table = Table(about_cards(masks()), catalog=CATALOG)
    table.client(query("COPY customers FROM STDIN"))
    table.target(frames.frame(b"G", b"\0\0\0"))
    table.client(frames.frame(b"d", b"1\tnobody may see\n"))
    assert b"nobody may see" in table.to_target
    assert b"nobody may see" not in table.recorded[Side.TARGET]


def test_a_detector_sees_an_error_that_no_exchange_asked_for() -> None:
    table = Table(lambda statement: (Allow("all", masks()), Action(())), catalog=CATALOG)
    table.client(parse("", "SELECT 1") + bind("", "") + frames.execute("") + frames.SYNC)
    table.target(PARSED + BOUND + NO_DATA + tag("SELECT 1") + frames.error("23505", "it has " + CARD.decode()) + READY)
    assert CARD not in table.to_client
