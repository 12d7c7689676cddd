"""The straight way and the general way are one conversation: nobody outside can tell which was taken."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.model.effects import Done, Effect, Send, Side, Withdraw
from muniment.model.errors import ProtocolError
from muniment.model.exchange import Action, Parameter, Statement
from muniment.model.verdict import Allow, Deny, Hold, Verdict
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.asking import _parameters
from muniment.protocols.postgres.conversation import Conversation
from muniment.protocols.postgres.straight import Run, bound
from tests.kit.cases import CASES, CATALOG, masks
from tests.kit.table import HARMLESS, Rule, Table

TAPES = CASES["postgres"].tapes
DEFINING = Action(touches=(), defines=(("prepared", "made", "SELECT 3"),))
RENAMING = Action(touches=(), changes_names=True)
PLAIN = Action(touches=(), reads_only=True, outputs=((frozenset(),),))


class General(Conversation):
    """The general way alone."""

    def _begin(self, data: bytes) -> list[Effect] | None:
        return None


class Counting(Conversation):
    """Counts what went straight through."""

    through = 0

    def _finish(self, run: Run, data: bytes) -> list[Effect] | None:
        effects = super()._finish(run, data)
        Counting.through += effects is not None
        return effects


MASKS = masks()


def rule(statement: Statement) -> tuple[Verdict, Action]:
    """What is decided hangs on words in the text."""
    text = statement.text
    action = DEFINING if "define" in text else RENAMING if "rename" in text else PLAIN
    verdict: Verdict = Allow("all", MASKS if "masked" in text else None, "shown" if "hidden" in text else None)
    if "deny" in text:
        verdict = Deny("rule", "not this", "ask")
    elif "hold" in text:
        verdict = Hold("rule", "may it?", "dba", 1, 60)
    return verdict, action


def seen(table: Table) -> tuple[Any, ...]:
    """Everything that can be told from outside."""
    talk = table.talk
    asked = [(a.ticket, a.statement.text, a.statement.parameters, a.statement.phase, a.statement.may_wait)
             for a in table.asks]  # fmt: skip
    wants = [ticket for ticket in range(1, 40) if talk.wants(ticket)]
    return (
        table.to_client, table.to_target, table.recorded, table.originals, asked, len(table.seen),
        list(table.done.items()), table.withdrawn, table.cancels, table.closed, talk.busy, talk.full, talk.status,
        wants,
    )  # fmt: skip


class Both:
    """Two tables that are told the same."""

    def __init__(self, rule: Rule, *, held: bool = False, status: bytes = b"I") -> None:
        self.tables = [
            Table(rule, held=held, status=status, catalog=CATALOG, younger=(CATALOG, MASKS), kind=kind)
            for kind in (General, Counting)
        ]

    def each(self, do: Any) -> bool:
        """Do it at both. Returns whether they go on."""
        broke = []
        for table in self.tables:
            try:
                do(table)
                broke.append("")
            except ProtocolError as error:
                broke.append(str(error))
        assert broke[0] == broke[1]
        assert seen(self.tables[0]) == seen(self.tables[1])
        return not broke[0]


def said(kind: bytes, body: bytes = b"") -> bytes:
    return frames.frame(kind, body)


def bind(name: bytes, portal: bytes = b"", values: tuple[bytes | None, ...] = (), codes: tuple[int, ...] = ()) -> bytes:
    body = portal + b"\0" + name + b"\0" + struct.pack(f"!H{len(codes)}H", len(codes), *codes)
    body += struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return said(b"B", body + b"\0\1\0\1")


def parse(name: bytes, text: bytes) -> bytes:
    return said(b"P", name + b"\0" + text + b"\0\0\1\0\0\0\x17")


DESCRIBE, EXECUTE, SYNC = said(b"D", b"P\0"), frames.execute(""), frames.SYNC
TEXTS = [b"plain", b"plain 2", b"masked", b"deny", b"hold", b"define", b"rename", b"hidden masked", b"\xff"]
NAMED = [b"", b"a", b"b", b"made", b"none"]

texts = st.sampled_from(TEXTS)
names = st.sampled_from(NAMED)
values = st.lists(st.sampled_from([None, b"", b"7", b"\xff\0"]), max_size=2).map(tuple)
binds = st.builds(bind, names, st.sampled_from([b"", b"", b"", b"p"]), values, st.sampled_from([(), (1,), (0, 1)]))
pipelines = st.tuples(binds, st.sampled_from([b"", DESCRIBE]), st.just(EXECUTE), st.just(SYNC)).map(b"".join)
queries = texts.map(lambda text: said(b"Q", text + b"\0"))
preparing = st.builds(parse, names, texts)
prepared = preparing.map(lambda data: data + SYNC)
common = st.one_of(pipelines, queries, prepared)
odd = st.one_of(
    binds,
    preparing,
    st.sampled_from(
        [EXECUTE, SYNC, frames.FLUSH, DESCRIBE, said(b"D", b"Sa\0"), said(b"C", b"Sa\0"), frames.execute("p"),
         said(b"C", b"P\0"), frames.TERMINATE, said(b"d", b"row\n"), b"?", b"Q\0\0\0\2",
         said(b"F", b"\0\0\0\1\0\0\0\0\0\0")]
    ),
)  # fmt: skip
client = st.lists(st.one_of(common, common, common, odd), min_size=1, max_size=3).map(b"".join)

ROW = said(b"D", b"\0\1\0\0\0\1x")
CARD = said(b"D", b"\0\1\0\0\0\x10" + b"4111111111111111")


def described(table: int, column: int) -> bytes:
    return said(b"T", b"\0\1c\0" + struct.pack("!ihihih", table, column, 25, -1, -1, 0))


ERROR = frames.error("42703", "no such column 4111111111111111")
NOTICE = frames.notice("a notice")
rows = st.sampled_from([b"", ROW, ROW * 3, CARD, ROW + CARD])
shapes = st.sampled_from([described(0, 0), described(20000, 1), described(20000, 2)])
tags = st.sampled_from([b"SELECT 1\0", b"INSERT 0 1\0", b"\xff\0"]).map(lambda tag: said(b"C", tag))
statuses = st.sampled_from(list(b"IIIIITE")).map(lambda status: b"Z\0\0\0\5" + bytes([status]))
replies: dict[str, st.SearchStrategy[bytes]] = {
    "Q": st.one_of(
        st.tuples(shapes, rows, tags), st.tuples(shapes, rows, tags), st.tuples(tags), st.just((ERROR,)),
        st.just((said(b"I"),)), st.tuples(shapes, rows, tags, st.just(NOTICE)), st.tuples(shapes, rows, tags, tags),
    ).map(b"".join),
    "P": st.just(said(b"1")),
    "B": st.one_of(st.just(said(b"2")), st.just(said(b"2")), st.just(ERROR)),
    "D": st.one_of(shapes, shapes, st.just(said(b"n"))),
    "E": st.one_of(st.tuples(rows, tags), st.tuples(rows, tags), st.tuples(rows, st.just(said(b"s"))),
                   st.tuples(rows, st.just(ERROR))).map(b"".join),
    "C": st.just(said(b"3")),
    "H": st.just(b""),
    "X": st.just(b""),
    "F": st.just(b""),
    "d": st.just(b""),
}  # fmt: skip


class Server:
    """Answers what reaches it, in the order of the protocol, with whatever is drawn."""

    def __init__(self) -> None:
        self.read = 0
        self.skipping = False

    def answer(self, told: bytes, draw: Any) -> bytes:
        answers = b""
        while end := frames.head(Side.CLIENT, told, self.read):
            letter, gone = chr(told[self.read]), b"muniment:" in told[self.read : end]
            self.read = end
            if letter == "S":
                self.skipping = False
                answers += draw(statuses)
            elif not self.skipping:
                ours = frames.error("34000", "no such portal") if letter == "E" and gone else b""
                answer = ours or draw(replies[letter])
                self.skipping = ERROR in answer or bool(ours)
                answers += answer
                if letter == "Q":
                    self.skipping = False
                    answers += draw(statuses)
        return answers


@settings(max_examples=200)
@given(st.data(), st.booleans(), st.sampled_from([b"I", b"T"]))
def test_both_ways_have_the_same_effects_whatever_is_said(data: st.DataObject, held: bool, status: bytes) -> None:
    both, server = Both(rule, held=held, status=status), Server()
    unsaid = b""
    goes_on = both.each(lambda table: table.client(parse(b"a", b"plain") + SYNC))
    for _ in range(data.draw(st.integers(1, 8))):
        if not goes_on:
            break
        general = both.tables[0]
        step = data.draw(st.sampled_from(["client", "client", "target", "target", "target", "rule", "cancel"]))
        if step == "client":
            said = data.draw(client)
            cut = data.draw(st.sampled_from([len(said), len(said), len(said), len(said) // 2]))
            for part in (said[:cut], said[cut:]):
                goes_on = goes_on and both.each(lambda table, part=part: table.client(part))
        elif step == "target":
            unsaid += server.answer(general.to_target, data.draw)
            cut = data.draw(st.sampled_from([len(unsaid), len(unsaid), len(unsaid), len(unsaid) // 2, 7]))
            part, unsaid = unsaid[:cut], unsaid[cut:]
            goes_on = both.each(lambda table, part=part: table.target(part))
        elif step == "rule" and general.asks:
            verdict = data.draw(st.sampled_from([None, Allow("people"), Deny("rule", "no")]))
            goes_on = both.each(lambda table, verdict=verdict: table.rule_next(verdict))
        elif step == "cancel":
            goes_on = both.each(lambda table: table.do(table.talk.cancelled()))
            goes_on = goes_on and both.each(lambda table: table.do(table.talk.cancel_over()))
    both.each(lambda table: table.do([e for e in table.talk.ended() if isinstance(e, (Withdraw, Done))]))


@pytest.mark.parametrize("name", sorted(TAPES))
@pytest.mark.parametrize("masked", [False, True])
def test_both_ways_have_the_same_effects_on_every_tape(name: str, masked: bool) -> None:
    both = Both(lambda _: (Allow("all", MASKS if masked else None), HARMLESS))
    for side, chunk in TAPES[name]:
        told = both.each(lambda table: table.client(chunk) if side is Side.CLIENT else table.target(chunk))  # noqa: B023
        if not told:
            return


def test_what_is_common_goes_straight_through() -> None:
    Counting.through = 0
    both = Both(rule)
    both.each(lambda table: table.client(parse(b"a", b"masked") + SYNC))
    both.each(lambda table: table.target(said(b"1") + b"Z\0\0\0\5I"))
    reply = said(b"2") + described(0, 0) + ROW + said(b"C", b"SELECT 1\0") + b"Z\0\0\0\5I"
    for _ in range(3):
        both.each(lambda table: table.client(bind(b"a", values=(b"7",)) + DESCRIBE + EXECUTE + SYNC))
        both.each(lambda table: table.target(reply))
        both.each(lambda table: table.client(said(b"Q", b"plain\0")))
        both.each(lambda table: table.target(reply[5:]))
    assert Counting.through == 6


@given(st.binary(max_size=40), st.lists(st.integers(0, 9), max_size=2).map(tuple))
def test_a_bind_is_read_as_the_general_way_reads_it(body: bytes, types: tuple[int, ...]) -> None:
    wanted: tuple[Parameter, ...] | None
    try:
        wanted = _parameters(body, 0, types)
    except ProtocolError:
        wanted = None
    assert bound(body + b"\0\1\0\1", 0, len(body), types) == wanted


@given(values, st.sampled_from([(), (0,), (1,), (0, 1), (1, 1)]), st.integers(0, 4))
def test_a_well_formed_bind_is_read_as_the_general_way_reads_it(
    given_values: tuple[bytes | None, ...], codes: tuple[int, ...], types: int
) -> None:
    raw = bind(b"", values=given_values, codes=codes)
    wanted: tuple[Parameter, ...] | None
    try:
        wanted = _parameters(raw, 7, tuple(range(types)))
    except ProtocolError:
        wanted = None
    assert bound(raw + EXECUTE, 7, len(raw), tuple(range(types))) == wanted


def test_a_run_is_one_write_of_what_was_read() -> None:
    table = Table(rule)
    told = said(b"Q", b"plain\0")
    effects = table.talk.received(Side.CLIENT, told)
    (sent,) = table.talk.ruled(effects[0].ticket, Allow("all"), PLAIN)  # type: ignore[union-attr]
    assert isinstance(sent, Send) and sent.data is told


def test_a_row_that_ends_like_a_ready_message_is_no_end() -> None:
    """A read may stop behind a row whose last bytes look like ReadyForQuery."""
    trap = b"Z\x00\x00\x00\x05I"
    row = said(b"D", struct.pack("!hi", 1, len(trap)) + trap)
    for prepared in (False, True):
        table = Table()
        head = b""
        if prepared:
            table.client(parse(b"", b"SELECT 1") + said(b"S"))
            table.target(said(b"1") + trap)
            table.client(bind(b"") + said(b"E", b"\0\0\0\0\0") + said(b"S"))
            head = said(b"2")
        else:
            table.client(frames.query("SELECT 1"))
            head = said(b"T", struct.pack("!h", 1) + b"n\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0))
        table.to_client = b""
        table.target(head + row)
        table.target(said(b"C", b"SELECT 1\0") + trap)
        assert table.to_client == head + row + said(b"C", b"SELECT 1\0") + trap
