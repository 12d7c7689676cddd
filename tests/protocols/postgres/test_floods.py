"""What a client may do to the gateway by sending much: long messages, long pipelines, bytes one at a time."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest

from muniment.model.verdict import Allow
from muniment.protocols.postgres import frames
from muniment.protocols.postgres.state import MAX_EXPECTS, MAX_ITEMS, MAX_QUEUED_BYTES
from tests.kit.cases import READY, tag
from tests.kit.table import HARMLESS, Table, hold

PARSE = frames.frame(b"P", b"\0SELECT 1\0\0\0")
BIND = frames.frame(b"B", b"\0\0" + b"\0" * 6)
EXECUTE = frames.execute("")
BIND_COMPLETE = b"2\0\0\0\4"
PARSE_COMPLETE = b"1\0\0\0\4"


def test_a_message_longer_than_the_queue_is_read_to_its_end() -> None:
    table = Table()
    value = b"x" * (MAX_QUEUED_BYTES + (4 << 20))
    long = frames.frame(b"B", b"\0\0" + struct.pack("!hhi", 0, 1, len(value)) + value + b"\0\0")
    table.client(PARSE)
    for start in range(0, len(long), 1 << 16):
        assert not table.talk.full, f"nothing is read behind {start} bytes, and the message never ends"
        table.client(long[start : start + (1 << 16)])
    assert table.to_target == PARSE + long


def test_a_long_message_behind_a_full_queue_is_not_read() -> None:
    table = Table(hold("DROP"))
    table.client(frames.query("DROP DATABASE x"))
    while not table.talk.full:
        table.client(frames.query("SELECT '" + "x" * (1 << 20) + "'"))
    table.client(b"Q" + struct.pack("!i", 60 << 20))
    assert table.talk.full


def test_messages_that_wait_and_replies_that_are_due_are_counted_too() -> None:
    table = Table(hold("DROP"))
    table.client(frames.query("DROP DATABASE x"))
    table.client(frames.SYNC * 100_000)
    assert len(table.talk._items) <= MAX_ITEMS
    table.do(table.talk.ruled(1, Allow("grant"), HARMLESS))
    table.target(tag("DROP DATABASE") + READY)
    for _ in range(100):
        assert len(table.talk._expects) <= MAX_EXPECTS
        table.target(READY * 1000)
    assert table.to_target.endswith(frames.SYNC * 100_000)
    assert table.to_client.endswith(READY * 100_000)
    assert not table.talk.busy


PIPELINES: dict[str, tuple[bytes, bytes]] = {
    "syncs": (frames.SYNC, READY),
    "queries": (frames.query("SELECT 1"), tag("SELECT 1") + READY),
    "parses": (PARSE, PARSE_COMPLETE),
    "executions": (BIND + EXECUTE, BIND_COMPLETE + tag("SELECT 1")),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_twice_as_long_takes_twice_the_time(name: str) -> None:
    one, answer = PIPELINES[name]

    def seconds(count: int) -> float:
        table = Table()
        table.client(PARSE + frames.SYNC)
        table.target(PARSE_COMPLETE + READY)
        started = time.process_time()
        table.client(one * count)
        for _ in range(0, count, 1000):
            table.target(answer * 1000)
        spent = time.process_time() - started
        assert table.to_target.endswith(one * count)
        return spent

    short, long = (min(seconds(count) for _ in range(2)) for count in (2_000, 16_000))
    assert long < 8 * 4 * max(short, 0.001)  # by the square it would be 64 times


def test_bytes_that_come_one_by_one_behind_a_wait_are_not_copied_again_and_again() -> None:
    table = Table()
    table.client(frames.query("SELECT 1; DROP x")[:-1] + b"\0")
    table.talk._dirty = True  # names have changed: what follows waits for the quiet point
    table.client(frames.query("SELECT '" + "x" * (4 << 20) + "'"))
    started = time.process_time()
    for _ in range(3_000):
        table.client(b"S")
    assert time.process_time() - started < 0.5  # copying 4 MB each time takes 2 s and more


def kept_back(then: Callable[[Table], None]) -> bool:
    """Whether a hold would be refused after this, since something may be open at the target."""
    table = Table(hold("DROP"))
    then(table)
    table.client(frames.query("DROP DATABASE x"))
    return not table.seen[-1].may_wait


def test_a_hold_does_not_wait_before_the_sync_of_what_has_run() -> None:
    """Answered by a Flush, the statement's locks are held until its Sync."""

    def flushed(table: Table) -> None:
        table.client(PARSE + BIND + EXECUTE + frames.FLUSH)
        table.target(PARSE_COMPLETE + BIND_COMPLETE + tag("SELECT 1"))

    def synced(table: Table) -> None:
        flushed(table)
        table.client(frames.SYNC)
        table.target(READY)

    assert kept_back(flushed)
    assert not kept_back(synced)


def test_a_hold_waits_again_after_an_error_that_swallowed_a_query() -> None:
    def skipped(table: Table) -> None:
        table.client(PARSE + BIND + EXECUTE)
        table.target(frames.error("42601", "no"))
        table.client(frames.query("SELECT 1"))
        table.client(frames.SYNC)
        table.target(READY)

    assert not kept_back(skipped)
