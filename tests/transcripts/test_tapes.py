"""What every tape must be, so that a replay of it means something."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.servers import PASSWORDS
from tests.transcripts.tape import LARGEST
from tests.transcripts.tapes import HERE, Tape, tapes

ALL = tapes("postgres")
PROTOCOL_3 = 3


def _frames(data: bytes, *, start_up: bool) -> list[tuple[bytes, bytes]]:
    """An independent framer: (type, body); start-up packets have the type b""."""
    found = []
    at = 0
    while at < len(data):
        kind = b"" if start_up else data[at : at + 1]
        at += len(kind)
        size = int.from_bytes(data[at : at + 4])
        assert size >= 4
        assert at + size <= len(data), "a tape ends inside a message"
        found.append((kind, data[at + 4 : at + size]))
        start_up = start_up and int.from_bytes(found[-1][1][:2]) != PROTOCOL_3
        at += size
    return found


def test_there_are_tapes_of_psql_and_of_four_drivers_and_pgbench() -> None:
    clients = {tape.client.split()[0] for tape in ALL}
    assert clients == {"psql", "psycopg", "psycopg2", "asyncpg", "pg8000", "pgbench"}


@pytest.mark.parametrize("tape", ALL, ids=lambda tape: tape.name)
def test_a_tape_is_whole_messages_from_the_start_up_packet_to_the_hang_up(tape: Tape) -> None:
    client = _frames(tape.said("c"), start_up=True)
    refused_tls = client[0][1] == (80877103).to_bytes(4)
    target = _frames(tape.said("t")[refused_tls:], start_up=False)
    assert client[refused_tls][1][:2] == PROTOCOL_3.to_bytes(2)
    assert client[-1] == (b"X", b"")
    assert b"Z" in {kind for kind, _ in target}
    assert {side for side, data in tape.chunks if not data} == {"c", "t"}
    assert (HERE / "postgres" / f"{tape.name}.json").stat().st_size <= LARGEST


@pytest.mark.parametrize("tape", ALL, ids=lambda tape: tape.name)
def test_no_secret_is_on_a_tape(tape: Tape) -> None:
    assert b"p" not in {kind for kind, _ in _frames(tape.said("c"), start_up=True)}, "a password message"
    everything = tape.said("c") + tape.said("t")
    assert not [role for role, secret in PASSWORDS.items() if secret and secret.encode() in everything]


def test_the_tapes_together_use_every_message_that_the_conversation_knows() -> None:
    said = {kind for tape in ALL for kind, _ in _frames(tape.said("c"), start_up=True)}
    assert said == {b"", *(bytes([letter]) for letter in b"QPBDECSHXdcf")}
    heard = set()
    for tape in ALL:
        answer = tape.said("t")
        heard |= {kind for kind, _ in _frames(answer[answer[:1] == b"N" and answer[1:2] == b"R" :], start_up=False)}
    assert heard == {bytes([letter]) for letter in b"RSKZTDCEN12t3nsIGHdcv"}


def test_every_tape_on_disk_has_its_scenario() -> None:
    scenarios = (Path(__file__).parent / "scenarios.py").read_text("utf-8")
    assert [tape.name for tape in ALL if f"def {tape.name}(" not in scenarios] == []
