"""What the conversation does with refusals, holds, cancels, masks and changing names, message by message."""

from __future__ import annotations

import struct

import pytest

from muniment.judge.masking import masks_for
from muniment.model.errors import ProtocolError
from muniment.model.exchange import Action, Catalog, Outcome, Phase, Statement, Touch
from muniment.model.rules import Mask, Selector
from muniment.model.verdict import Allow, Deny, Masks, Verdict
from muniment.protocols.postgres import frames
from tests.kit.cases import CARD, CATALOG, READY, described, masks, row, tag
from tests.kit.table import HARMLESS, Table, allow_masked, deny, hold

IN_TRANSACTION = b"Z\0\0\0\x05T"
GONE = frames.error("34000", 'portal "muniment:1" does not exist')


def query(text: str) -> bytes:
    return frames.query(text)


def parse(name: str, text: str) -> bytes:
    return frames.frame(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(portal: str, name: str, *values: bytes) -> bytes:
    body = b"".join(struct.pack("!i", len(value)) + value for value in values)
    return frames.frame(
        b"B", portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack("!hh", 0, len(values)) + body + b"\0\0"
    )


def kinds(data: bytes) -> str:
    """The letters of what the client was sent."""
    pos, letters = 0, ""
    while pos < len(data):
        letters += chr(data[pos])
        pos += 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
    return letters


def test_a_refused_query_becomes_an_execute_that_cannot_be() -> None:
    table = Table(deny("DROP"))
    table.client(query("DROP TABLE customers"))
    assert b"DROP" not in table.to_target
    assert table.to_target == frames.execute("muniment:1") + frames.SYNC
    table.target(GONE + READY)
    assert kinds(table.to_client) == "EZ"
    assert b"C42501\0Mrule: not this\0" in table.to_client
    assert b"34000" not in table.to_client
    assert table.done[1].status == "refused"


def test_the_session_lives_on_after_a_refusal() -> None:
    table = Table(deny("DROP"))
    table.client(query("DROP TABLE customers"))
    table.target(GONE + READY)
    table.to_target = b""
    table.client(query("SELECT 1"))
    assert table.to_target == query("SELECT 1")


def test_an_earlier_error_in_a_pipeline_comes_before_the_refusal() -> None:
    table = Table(deny("DROP"))
    table.client(parse("", "SELECT bad") + bind("", "") + frames.execute(""))
    table.client(parse("", "DROP x") + bind("", "") + frames.execute("") + frames.SYNC)
    assert b"DROP" not in table.to_target
    table.target(frames.error("42703", "no such column") + READY)
    assert kinds(table.to_client) == "EZ"
    assert b"42703" in table.to_client
    assert b"42501" not in table.to_client


def test_what_follows_a_refusal_up_to_sync_is_not_sent() -> None:
    table = Table(deny("DROP"))
    table.client(parse("", "DROP x") + bind("", "") + frames.execute("") + frames.SYNC + query("SELECT 1"))
    assert table.to_target == frames.execute("muniment:1") + frames.SYNC + query("SELECT 1")
    table.target(GONE + READY)
    table.target(tag("SELECT 1") + READY)
    assert kinds(table.to_client) == "EZCZ"


def test_a_parse_and_its_bind_are_one_refusal() -> None:
    table = Table(deny("DROP"))
    table.client(parse("a", "DROP x") + frames.SYNC)
    table.target(GONE + READY)
    table.client(bind("", "a") + frames.execute("") + frames.SYNC)
    assert table.seen[-1].text == 'EXECUTE "a"'  # the statement was never made


def test_a_held_query_waits_and_says_so_and_is_released_once_approved() -> None:
    table = Table(hold("DROP"))
    table.client(query("DROP DATABASE x"))
    assert table.to_target == b""
    table.do(table.talk.say("waiting for approval A-1"))
    assert kinds(table.to_client) == "N"
    table.do(table.talk.ruled(1, Allow("grant"), HARMLESS))
    assert table.to_target == query("DROP DATABASE x")


def test_a_held_bind_lets_earlier_replies_come_out() -> None:
    table = Table(hold("DROP"))
    table.rule = lambda statement: (
        (Allow("x"), HARMLESS) if statement.phase is Phase.PREPARE else hold("DROP")(statement)
    )
    table.client(parse("", "DROP DATABASE x") + bind("", "") + frames.execute("") + frames.SYNC)
    assert table.to_target == parse("", "DROP DATABASE x") + frames.FLUSH
    table.target(b"1\0\0\0\x04")
    assert kinds(table.to_client) == "1"
    table.do(table.talk.ruled(2, Allow("grant"), HARMLESS))
    assert table.to_target.endswith(bind("", "") + frames.execute("") + frames.SYNC)


def test_a_cancel_of_a_held_query_withdraws_it() -> None:
    table = Table(hold("DROP"))
    table.client(query("DROP DATABASE x"))
    table.do(table.talk.cancelled())
    assert table.withdrawn == [1]
    assert b"DROP" not in table.to_target
    table.target(GONE + READY)
    assert b"C57014" in table.to_client
    assert table.cancels == 0


def test_a_cancel_of_a_running_query_goes_to_the_target_and_holds_back_what_follows() -> None:
    table = Table()
    table.client(query("SELECT pg_sleep(9)"))
    table.do(table.talk.cancelled())
    assert table.cancels == 1
    table.target(frames.error("57014", "canceled") + READY)
    table.to_target = b""
    table.client(query("SELECT 2"))
    assert table.to_target == b""  # the cancel might still hit it
    table.do(table.talk.cancel_over())
    assert table.to_target == query("SELECT 2")


def test_a_cancel_while_idle_is_ignored() -> None:
    table = Table()
    table.do(table.talk.cancelled())
    assert table.cancels == 0


def test_a_hold_may_not_wait_inside_a_transaction_or_behind_released_work() -> None:
    table = Table(status=b"T")
    table.client(query("DROP DATABASE x"))
    assert not table.seen[-1].may_wait
    table = Table()
    table.client(query("SELECT 1") + query("DROP DATABASE x"))
    assert [statement.may_wait for statement in table.seen] == [True, False]


def test_fast_path_is_refused() -> None:
    table = Table()
    table.client(frames.frame(b"F", struct.pack("!ihhh", 1598, 0, 0, 0)))
    table.target(GONE + READY)
    assert b"C0A000" in table.to_client
    assert table.to_target == frames.execute("muniment:1") + frames.SYNC


def test_protected_columns_are_masked_and_originals_kept_apart() -> None:
    table = Table(allow_masked(masks()), catalog=CATALOG)
    table.client(query("SELECT id, card_number, note FROM customers"))
    result = described(("id", 20000, 1, 23), ("card_number", 20000, 2, 25), ("note", 20000, 3, 25))
    rows = row(b"1", CARD, b"card 4111 1111 1111 1111 on file") + row(b"2", None, b"nothing")
    table.target(result + rows + tag("SELECT 2") + READY)
    assert kinds(table.to_client) == "TDDCZ"
    for shown in (table.to_client, table.recorded[next(iter(table.recorded))]):
        assert CARD not in shown
        assert b"4111 1111" not in shown
    assert b"nothing" in table.to_client
    assert CARD in b"".join(table.originals)
    assert dict(table.done[1].masked)["card_number"] == 2
    assert table.done[1].rows == 2


def test_rows_of_a_prepared_statement_are_masked_without_a_description_by_the_client() -> None:
    table = Table(allow_masked(masks()), catalog=CATALOG)
    table.client(parse("s", "SELECT card_number FROM customers") + frames.SYNC)
    table.target(b"1\0\0\0\x04" + READY)
    for _ in range(2):
        table.to_client = table.to_target = b""
        table.client(bind("", "s") + frames.execute("") + frames.SYNC)
        assert table.to_target == bind("", "s") + frames.describe_portal(b"") + frames.execute("") + frames.SYNC
        table.target(b"2\0\0\0\x04" + described(("card_number", 20000, 2, 25)) + row(CARD) + tag("SELECT 1") + READY)
        assert kinds(table.to_client) == "2DCZ"  # the description was ours and is swallowed
        assert CARD not in table.to_client


def test_a_relation_that_is_younger_than_the_catalogue_is_looked_up_before_its_rows_are_shown() -> None:
    before = masks_for(
        [Mask("m", Selector(), (("card_number", ("public.customers.card_number",)),))], Catalog("db", 0, 0), b"k" * 32
    )
    assert before is not None
    table = Table(allow_masked(before), younger=(CATALOG, masks()))
    table.client(query("SELECT id, card_number FROM customers"))
    result = described(("id", 20000, 1, 23), ("card_number", 20000, 2, 25))
    table.target(frames.notice("first") + result + row(b"1", CARD) + tag("SELECT 1"))
    table.target(READY)
    assert kinds(table.to_client) == "NTDCZ"
    assert CARD not in table.to_client
    assert row(b"1", b"[masked]")[7:12] in table.to_client  # the id is known to be harmless now


def test_rows_without_any_description_are_never_shown_where_masks_are_in_force() -> None:
    table = Table(allow_masked(masks()), catalog=CATALOG)
    table.client(query("SELECT 1"))
    with pytest.raises(ProtocolError):
        table.target(row(CARD) + tag("SELECT 1") + READY)
    assert CARD not in table.to_client


class _Protecting:
    """The real masks, but every action counts as one that touches a protected relation."""

    def __init__(self, inner: Masks) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def tells(self, action: Action) -> bool:
        return True


def test_errors_of_a_statement_on_protected_data_keep_codes_and_lose_texts() -> None:
    table = Table(allow_masked(_Protecting(masks())))  # type: ignore[arg-type]
    table.client(query("SELECT card_number::int FROM customers"))
    values = {"S": "ERROR", "V": "ERROR", "C": "22P02", "M": 'invalid input: "zebra"', "D": "zebra", "t": "customers"}
    table.target(frames.report(b"E", values) + READY)
    assert b"22P02" in table.to_client
    assert b"customers" in table.to_client
    assert b"zebra" not in table.to_client
    assert b"zebra" not in table.recorded[next(iter(table.recorded))]


def _changing(statement: Statement) -> tuple[Verdict, Action]:
    changes = statement.text.startswith("SET")
    return Allow("all"), Action((Touch("setting", "search_path", "set"),) if changes else (), changes_names=changes)


def test_names_are_read_again_before_what_follows_a_set_is_judged() -> None:
    table = Table(_changing)
    table.client(query("SET search_path = other") + query("SELECT 1 FROM t"))
    assert [statement.text for statement in table.seen if statement.names.path] == ["SET search_path = other"] or (
        table.to_target == query("SET search_path = other")
    )
    table.target(tag("SET") + READY)
    inner = table.to_target.removeprefix(query("SET search_path = other"))
    assert inner.startswith(frames.frame(b"C", b"Smuniment:names\0"))
    assert b"SELECT 1 FROM t" not in inner
    path = row(b"p", b"other", b"1", b"", b"")
    table.target(
        b"3\0\0\0\x04" b"1\0\0\0\x04" b"2\0\0\0\x04" + path + tag("SELECT 1") + b"3\0\0\0\x04" b"3\0\0\0\x04" + READY
    )  # fmt: skip
    assert table.to_client == tag("SET") + READY  # of our own question the client sees nothing
    assert table.seen[-1].text == "SELECT 1 FROM t"
    assert table.seen[-1].names.path == ("other",)
    assert table.to_target.endswith(query("SELECT 1 FROM t"))


def test_within_a_pipeline_names_behind_a_set_are_unknown() -> None:
    table = Table(_changing)
    table.client(parse("", "SET search_path = x") + bind("", "") + frames.execute(""))
    table.client(parse("", "SELECT 1 FROM t") + bind("", "") + frames.execute("") + frames.SYNC)
    assert [statement.names.path for statement in table.seen if statement.text == "SELECT 1 FROM t"] == [None, None]


def test_names_of_the_gateway_are_refused_to_clients() -> None:
    for message in (parse("muniment:x", "SELECT 1"), bind("muniment:x", ""), frames.execute("muniment:1")):
        with pytest.raises(ProtocolError):
            Table().client(message)


def test_replies_that_nothing_asked_for_are_refused() -> None:
    for message in (row(b"x"), tag("SELECT 1"), b"1\0\0\0\x04", b"2\0\0\0\x04", b"3\0\0\0\x04", b"n\0\0\0\x04", READY):
        with pytest.raises(ProtocolError):
            Table().target(message)


def test_a_hang_up_withdraws_what_waits_and_leaves_what_runs_unknown() -> None:
    table = Table(hold("DROP"))
    table.client(query("SELECT 1"))
    table.client(query("DROP DATABASE x"))
    table.do(table.talk.ended())
    assert table.withdrawn == [2]
    assert table.done[1] == Outcome("unknown")
    assert table.done[2].status == "withdrawn"


def test_a_portal_that_is_executed_again_is_asked_again() -> None:
    table = Table()
    table.client(parse("", "SELECT g") + bind("p", "") + frames.frame(b"E", b"p\0\0\0\0\1") + frames.FLUSH)
    asked = len(table.seen)
    table.target(b"1\0\0\0\x042\0\0\0\x04" + row(b"1") + b"s\0\0\0\x04")
    table.client(frames.frame(b"E", b"p\0\0\0\0\1") + frames.SYNC)
    assert len(table.seen) == asked + 1
    table.target(row(b"2") + b"s\0\0\0\x04" + READY)
    assert [outcome.rows for outcome in table.done.values()] == [1, 1]


def test_copy_in_is_forwarded_only_when_the_target_asked_for_it() -> None:
    table = Table()
    line = frames.frame(b"d", b"1\tx\n")
    table.client(line)
    assert table.to_target == b""  # the server would ignore it too
    table.client(query("COPY t FROM STDIN") + line)
    assert table.to_target == query("COPY t FROM STDIN")
    table.target(frames.frame(b"G", b"\0\0\1\0\0"))
    assert table.to_target.endswith(line)
    with pytest.raises(ProtocolError):
        table.client(query("SELECT 1"))


def test_a_denied_exchange_records_nothing_of_its_text() -> None:
    table = Table(deny("DROP"))
    table.client(query("DROP TABLE secret_plan"))
    assert all(b"secret_plan" not in kept for kept in table.recorded.values())


def test_a_statement_with_values_is_recorded_without_them() -> None:
    table = Table(lambda statement: (Allow("x", masks(), shown="SELECT ?"), HARMLESS))
    table.client(query("SELECT '4111111111111111'"))
    assert CARD in table.to_target
    assert all(CARD not in kept for kept in table.recorded.values())
    table.target(tag("SELECT 1") + READY)
    table.client(parse("", "SELECT '4111111111111111'") + bind("", "", CARD) + frames.execute("") + frames.SYNC)
    assert all(CARD not in kept for kept in table.recorded.values())


def test_a_cancel_is_a_deny_of_its_own() -> None:
    assert Deny("cancelled", "x").rule == "cancelled"
    assert IN_TRANSACTION[5:] == b"T"


def test_a_cancel_on_its_way_does_not_hit_the_gateways_own_question() -> None:
    changing = Action(touches=(), changes_names=True)
    table = Table(lambda statement: (Allow("all"), changing if "SET" in statement.text else HARMLESS))
    table.client(query("SET search_path TO x"))
    table.do(table.talk.cancelled())
    assert table.cancels == 1
    table.target(tag("SET") + READY)
    table.client(query("SELECT 1"))
    assert table.to_target == query("SET search_path TO x")  # neither our question nor the next query
    table.do(table.talk.cancel_over())
    assert b"current_schemas" in table.to_target
    assert b"SELECT 1\0" not in table.to_target


@pytest.mark.parametrize(
    "message",
    [
        frames.frame(b"A", b"\0\0\0\1" + CARD + b"\0x\0"),
        frames.frame(b"A", b"\0\0\0\1x\0" + CARD + b" \xff\0"),
        frames.frame(b"S", b"application_name\0" + CARD + b"\0"),
    ],
    ids=["channel", "payload", "setting"],
)
def test_what_a_target_reports_beside_rows_is_masked_too(message: bytes) -> None:
    table = Table(allow_masked(masks()))
    table.client(query("SELECT 1"))
    table.target(message + tag("SELECT 1") + READY)
    assert CARD not in table.to_client
    assert kinds(table.to_client)[1:] == "CZ"


def test_a_setting_made_of_protected_data_is_withheld_in_its_report() -> None:
    made = masks()
    reading = Action(touches=(Touch("relation", "public.customers", "select"),))
    table = Table(lambda statement: (Allow("all", made), reading))
    table.client(query("SELECT set_config('application_name', note, false) FROM customers"))
    table.target(frames.frame(b"S", b"application_name\0pineapple\0") + frames.frame(b"S", b"DateStyle\0ISO\0"))
    assert table.to_client == frames.frame(b"S", b"application_name\0\0") + frames.frame(b"S", b"DateStyle\0ISO\0")


def test_a_status_that_nobody_knows_breaks_the_protocol() -> None:
    table = Table()
    table.client(query("SELECT 1"))
    with pytest.raises(ProtocolError):
        table.target(tag("SELECT 1") + b"Z\0\0\0\5X")


def test_a_good_bye_does_not_wait_for_the_names() -> None:
    table = Table(_changing)
    table.client(query("SET search_path = other"))
    table.target(tag("SET") + READY)
    table.client(frames.TERMINATE)
    assert table.closed == "client"
    assert table.to_target.endswith(frames.TERMINATE)
