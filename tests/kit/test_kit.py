"""The kit: what every conversation must keep, run against every entry of LANGUAGES. See DESIGN section 6."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.model.effects import Side
from muniment.model.errors import ProtocolError
from muniment.model.verdict import Allow
from muniment.protocols.languages import LANGUAGES
from tests.kit.cases import CARD, CASES, CATALOG, Case, Chunks, masks
from tests.kit.table import HARMLESS, Table, allow_masked, deny, hold

TAPED = [(name, tape) for name, case in CASES.items() for tape in case.tapes]
each_tape = pytest.mark.parametrize(("name", "tape"), TAPED)
each_language = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def said(chunks: Chunks, side: Side) -> bytes:
    return b"".join(data for one, data in chunks if one is side)


def through(chunks: Chunks, table: Table) -> None:
    for side, data in chunks:
        table.client(data) if side is Side.CLIENT else table.target(data)


def test_every_language_is_on_the_table() -> None:
    assert CASES.keys() == LANGUAGES.keys()


# 1. Any split of the bytes gives the same conversation.


@each_tape
def test_an_allowed_conversation_is_forwarded_byte_for_byte(name: str, tape: str) -> None:
    chunks, table = CASES[name].tapes[tape], Table()
    through(chunks, table)
    assert table.to_target == said(chunks, Side.CLIENT)
    assert table.to_client == said(chunks, Side.TARGET)


@each_tape
def test_byte_at_a_time_is_the_same_conversation(name: str, tape: str) -> None:
    chunks, table = CASES[name].tapes[tape], Table()
    through([(side, data[at : at + 1]) for side, data in chunks for at in range(len(data))], table)
    assert table.to_target == said(chunks, Side.CLIENT)
    assert table.to_client == said(chunks, Side.TARGET)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(TAPED))
def test_any_split_is_the_same_conversation(data: st.DataObject, which: tuple[str, str]) -> None:
    chunks = CASES[which[0]].tapes[which[1]]
    split = []
    for side, chunk in chunks:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(chunk)), max_size=4)))
        split += [(side, chunk[a:b]) for a, b in itertools.pairwise([0, *cuts, len(chunk)]) if b > a]
    table = Table()
    through(split, table)
    assert table.to_target == said(chunks, Side.CLIENT)
    assert table.to_client == said(chunks, Side.TARGET)


# 2. Corrupted bytes give ProtocolError or nothing, never another exception.


@settings(max_examples=200)
@given(st.data(), st.sampled_from(TAPED), st.sampled_from(list(Side)), st.booleans())
def test_corrupted_bytes_are_a_protocol_error_or_nothing(
    data: st.DataObject, which: tuple[str, str], broken: Side, masked: bool
) -> None:
    chunks = CASES[which[0]].tapes[which[1]]
    at = data.draw(st.sampled_from([i for i, (side, _) in enumerate(chunks) if side is broken] or [0]))
    side, chunk = chunks[at]
    spot = data.draw(st.integers(0, len(chunk) - 1))
    cut = chunk[:spot] + bytes([data.draw(st.integers(0, 255))]) + chunk[spot + data.draw(st.integers(0, 2)) :]
    rule = allow_masked(masks())
    table = Table(rule, younger=(CATALOG, masks())) if masked else Table()
    with suppress(ProtocolError):
        through([*chunks[:at], (side, cut), *chunks[at + 1 :]], table)


@settings(max_examples=100)
@given(st.sampled_from(list(CASES)), st.sampled_from(list(Side)), st.binary(max_size=200))
def test_noise_is_a_protocol_error_or_nothing(name: str, side: Side, noise: bytes) -> None:
    table = Table()
    with suppress(ProtocolError):
        through([(Side.CLIENT, CASES[name].harmless), (side, noise)], table)


# 3. Not one byte of a refused or waiting exchange reaches the target.


@each_language
def test_a_refused_exchange_never_reaches_the_target(case: Case) -> None:
    table = Table(deny(case.word.decode()))
    table.client(case.forbidden)
    assert case.word not in table.to_target


@each_language
def test_a_waiting_exchange_never_reaches_the_target(case: Case) -> None:
    for table in (Table(held=True), Table(hold(case.word.decode()))):
        table.client(case.forbidden)
        assert table.to_target == b""


# 4. After a refusal the session goes on; earlier replies come first; the target's state is what the client was told.


@each_language
def test_after_a_refusal_the_session_goes_on(case: Case) -> None:
    table = Table(deny(case.word.decode()))
    table.client(case.harmless + case.forbidden + case.harmless)
    table.target(case.harmless_answer)
    table.target(case.refused_answer + case.harmless_answer)
    assert table.to_client.startswith(case.harmless_answer)
    assert table.to_client.endswith(case.harmless_answer)
    assert case.refusal in table.to_client
    assert [outcome.status for outcome in table.done.values()] == ["ok", "refused", "ok"]


@each_language
def test_the_client_is_told_nothing_before_the_target_is_in_that_state(case: Case) -> None:
    table = Table(deny(case.word.decode()))
    table.client(case.forbidden)
    assert table.to_client == b""
    table.target(case.refused_answer)
    assert case.refusal in table.to_client


# 5. Masked values reach neither the client nor the recording.


@each_language
def test_masked_values_reach_neither_the_client_nor_the_recording(case: Case) -> None:
    for size in (1, 3, 7, 64, 1 << 20):
        table = Table(allow_masked(masks()), catalog=CATALOG)
        table.client(case.secret)
        answer = case.secret_answer
        through([(Side.TARGET, answer[at : at + size]) for at in range(0, len(answer), size)], table)
        assert CARD not in table.to_client
        assert all(CARD not in kept for kept in table.recorded.values())
        assert CARD in b"".join(table.originals)


# 6. An unknown message is refused; memory has a bound; a held exchange can be withdrawn.


@each_language
def test_an_unknown_message_is_refused(case: Case) -> None:
    for message in case.unknown:
        table = Table()
        with pytest.raises(ProtocolError):
            table.client(message)
        assert table.to_target == b""


@each_language
def test_a_client_that_sends_without_end_while_held_is_not_read_beyond_a_bound(case: Case) -> None:
    table = Table(hold(case.word.decode()))
    table.client(case.forbidden)
    sent = 0
    while not table.talk.full:
        table.client(case.flood * 16)
        sent += len(case.flood) * 16
        assert sent < 32 << 20
    assert table.to_target == b""


@each_language
def test_a_held_exchange_can_be_withdrawn_and_released(case: Case) -> None:
    table = Table(hold(case.word.decode()))
    table.client(case.forbidden)
    table.do(table.talk.cancelled())
    assert table.withdrawn == [1]
    assert case.word not in table.to_target
    table = Table(hold(case.word.decode()))
    table.client(case.forbidden)
    table.do(table.talk.ruled(1, Allow("approved"), HARMLESS))
    assert table.to_target == case.forbidden
