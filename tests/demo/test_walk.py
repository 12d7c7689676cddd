"""The walk's own judgement: what it counts as failed, and what it alters in a copy."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from muniment.demo.issuer import DemoIssuer
from muniment.demo.show import Teller
from muniment.demo.walk import claims_of, flip


def _teller() -> tuple[Teller, io.StringIO]:
    out = io.StringIO()
    return Teller(Console(file=out, highlight=False, soft_wrap=True)), out


def test_one_failed_expectation_fails_the_whole_and_is_printed_with_what_was_wanted_and_got() -> None:
    tell, out = _teller()
    tell.heading(3, "DROP TABLE is refused")
    assert tell.expect("it holds", True)
    assert not tell.has("SQLSTATE 42501", "ERROR:  42P01: no such table", "42501")
    assert not tell.summary()
    for part in ("FAILED", "'42501'", "42P01", "3. DROP TABLE is refused: SQLSTATE 42501", "1 of 2"):
        assert part in out.getvalue()


def test_all_held_is_said_only_when_all_held() -> None:
    tell, out = _teller()
    tell.expect("a", True)
    tell.has("b", "some text", "some", "text")
    assert tell.summary() and "All 2 expectations held" in out.getvalue()


def test_what_came_back_cannot_move_the_terminal() -> None:
    tell, out = _teller()
    tell.output("row \x1b[2J \u202e [bold]x[/bold]")
    assert "\x1b[2J" not in out.getvalue() and "\\x1b[2J" in out.getvalue() and "[bold]x[/bold]" in out.getvalue()


def test_one_bit_of_the_first_refusal_is_altered_and_its_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    before = b'{"decision":"allow"}\n{"decision":"deny","n":1}\n{"decision":"deny","n":2}\n'
    path.write_bytes(before)
    assert flip(path) == 2
    after = path.read_bytes()
    changed = [at for at, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert len(changed) == 1 and (before[changed[0]] ^ after[changed[0]]).bit_count() == 1


def test_a_log_without_a_refusal_cannot_be_altered_so(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"decision":"allow"}\n')
    with pytest.raises(ValueError, match="no refused request"):
        flip(path)


def test_the_claims_of_a_token_are_those_it_was_minted_with() -> None:
    issuer = DemoIssuer()
    try:
        found = claims_of(issuer.mint({"sub": "job", "aud": "gateway"}))
    finally:
        issuer._server.server_close()
    assert (found["sub"], found["aud"], found["iss"]) == ("job", "gateway", issuer.url)
