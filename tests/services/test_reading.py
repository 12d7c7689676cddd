"""Statements are read by processes that may die; what they could not read is refused, and others go on."""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.model.errors import Unavailable
from muniment.model.exchange import Statement, Touch
from muniment.protocols.sql.postgres import MAX_STATEMENT_BYTES
from muniment.services import reading, reading_worker
from muniment.services.reading import Reader
from tests.protocols.sql.world import CATALOG, NAMES, action

Body = Callable[[Reader], Coroutine[Any, Any, None]]


def statement(text: str, names: object = NAMES) -> Statement:
    return Statement(text, names=names)


def run(body: Body, **options: Any) -> None:
    async def go() -> None:
        reader = Reader(**options)
        try:
            async with asyncio.timeout(30):
                await body(reader)
        finally:
            reader.close()

    asyncio.run(go())


@pytest.fixture
def strange_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[str], None]:
    """Has the helper run the given lines for every text, before it answers."""

    def use(lines: str) -> None:
        script = tmp_path / "worker.py"
        script.write_text(
            "import os, sys, time\n"
            "from muniment.protocols.sql import postgres\n"
            "from muniment.services import reading_worker\n"
            "plain = postgres.read\n"
            f"def read(text):\n{lines}\n    return plain(text)\n"
            "postgres.read = read\n"
            "reading_worker.serve(sys.stdin.buffer, sys.stdout.buffer)\n"
        )
        launcher = tmp_path / "python"
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
        launcher.chmod(0o700)
        monkeypatch.setattr(reading.sys, "executable", str(launcher))

    return use


def test_what_has_been_read_is_known_at_once() -> None:
    async def body(reader: Reader) -> None:
        asked = statement("SELECT name FROM customers WHERE id = $1")
        assert reader.action_now("postgres", asked) is None
        found = await reader.action("postgres", asked)
        assert found == action(asked.text)
        assert reader.action_now("postgres", statement(asked.text)) is found

    run(body)


def test_texts_that_differ_in_literals_only_share_a_reading() -> None:
    async def body(reader: Reader) -> None:
        await reader.action("postgres", statement("SELECT name FROM customers WHERE id = 1 AND name = 'x'"))
        assert reader.action_now("postgres", statement("SELECT name FROM customers WHERE id = 29 AND name = ''"))
        await reader.action("postgres", statement("SELECT set_config('jit', 'off', false)"))
        other = statement("SELECT set_config('role', 'admin', false)")
        assert reader.action_now("postgres", other) is None
        assert Touch("role", "admin", "set") in (await reader.action("postgres", other)).touches

    run(body)


def test_other_names_are_another_action() -> None:
    async def body(reader: Reader) -> None:
        asked = "SELECT 1 FROM customers"
        public = await reader.action("postgres", statement(asked))
        app = reader.action_now("postgres", statement(asked, NAMES.replaced(path=("pg_catalog", "app"))))
        none = reader.action_now("postgres", statement(asked, None))
        assert app and none
        assert [touch.name for touch in (*public.touches, *app.touches)] == ["public.customers", "app.customers"]
        assert not none.complete

    run(body)


def test_another_catalog_of_the_same_version_is_not_mistaken_for_the_first() -> None:
    """Two targets count their loads each on its own."""

    async def body(reader: Reader) -> None:
        asked = "SELECT 1 FROM customers"
        await reader.action("postgres", statement(asked))
        bare = replace(CATALOG, relations={}, by_oid={})
        other = NAMES.replaced(catalog=bare)
        assert other == NAMES
        found = await reader.action("postgres", statement(asked, other))
        assert [touch.name for touch in found.touches] == ["?.customers"]

    run(body)


def test_what_a_name_stands_for_is_looked_up_every_time() -> None:
    async def body(reader: Reader) -> None:
        one = NAMES.replaced(prepared={"p": "SELECT 1 FROM invoices"})
        two = NAMES.replaced(prepared={"p": "DELETE FROM customers WHERE id = 1"})
        first = await reader.action("postgres", statement("EXECUTE p", one))
        assert reader.action_now("postgres", statement("EXECUTE p", two)) is None
        second = await reader.action("postgres", statement("EXECUTE p", two))
        again = reader.action_now("postgres", statement("EXECUTE p", one))
        assert [a.touches[0].name for a in (first, second, again) if a] == [
            "public.invoices", "public.customers", "public.invoices",
        ]  # fmt: skip

    run(body)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT '" + "x" * MAX_STATEMENT_BYTES + "'",
        "SELECT '\udc80'",
        "SELECT 1\0",
        "not sql",
        "SELECT " + "1+" * 30_000 + "1",
    ],
)
def test_what_cannot_be_read_is_incomplete_and_known_at_once_afterwards(text: str) -> None:
    async def body(reader: Reader) -> None:
        found = await reader.action("postgres", statement(text))
        assert not found.complete
        assert found.why
        assert reader.action_now("postgres", statement(text)) is not None

    run(body)


def test_a_language_that_nobody_reads_is_incomplete() -> None:
    async def body(reader: Reader) -> None:
        await reader.action("postgres", statement("SELECT 1"))
        found = reader.action_now("klingon", statement("SELECT 1"))
        assert found and not found.complete

    run(body)


def test_a_text_that_kills_its_helper_is_refused_and_the_next_one_is_read(
    strange_worker: Callable[[str], None],
) -> None:
    strange_worker("    if 'evil' in text: os.abort()")

    async def body(reader: Reader) -> None:
        bad = await reader.action("postgres", statement("SELECT 'evil'"))
        assert (bad.complete, bad.why) == (False, "PostgreSQL's parser crashed on the statement")
        started = time.monotonic()
        assert reader.action_now("postgres", statement("SELECT 'evil'")) is not None  # it gets no second helper to kill
        assert time.monotonic() - started < 0.1
        assert (await reader.action("postgres", statement("SELECT 'fine' -- exactly"))).complete

    run(body, helpers=1)


def test_a_text_whose_helper_was_killed_by_others_is_read_by_the_next(
    strange_worker: Callable[[str], None], tmp_path: Any
) -> None:
    """The system may end a helper where memory is short: the text that it had must not be refused for ever."""
    once = str(tmp_path / "once")
    strange_worker(f"    if 'busy' in text and not os.path.exists('{once}'): open('{once}', 'w').close(); os.abort()")

    async def body(reader: Reader) -> None:
        assert (await reader.action("postgres", statement("SELECT 'busy' -- exactly"))).complete

    run(body, helpers=1)


def test_a_text_that_takes_too_long_is_refused_and_the_next_one_is_read(strange_worker: Callable[[str], None]) -> None:
    strange_worker("    if 'slow' in text: time.sleep(60)")

    async def body(reader: Reader) -> None:
        await reader.start()
        bad = await reader.action("postgres", statement("SELECT 'slow'"))
        assert (bad.complete, bad.why) == (False, "reading the statement takes too long")
        assert (await reader.action("postgres", statement("SELECT 'fine' -- exactly"))).complete

    run(body, helpers=1, timeout_s=1.0)


def test_a_slow_text_does_not_stop_the_others(strange_worker: Callable[[str], None]) -> None:
    strange_worker("    if 'slow' in text: time.sleep(60)")

    async def body(reader: Reader) -> None:
        await reader.start()
        slow = asyncio.ensure_future(reader.action("postgres", statement("SELECT 'slow'")))
        await asyncio.sleep(0)
        assert (await reader.action("postgres", statement("SELECT 'fine' -- exactly"))).complete
        assert not slow.done()
        slow.cancel()

    run(body, helpers=2, timeout_s=20.0)


def test_a_cancelled_reading_never_answers_the_next_question(strange_worker: Callable[[str], None]) -> None:
    strange_worker("    if 'slow' in text: time.sleep(0.3)")

    async def body(reader: Reader) -> None:
        await reader.start()
        first = asyncio.ensure_future(reader.action("postgres", statement("SELECT 'slow' FROM customers")))
        await asyncio.sleep(0.1)
        first.cancel()
        second = await reader.action("postgres", statement("SELECT 1 FROM invoices"))
        assert [touch.name for touch in second.touches] == ["public.invoices"]

    run(body, helpers=1)


def test_many_at_once_each_get_their_own_answer() -> None:
    async def body(reader: Reader) -> None:
        texts = [f"SELECT a{n} FROM app.t{n}" for n in range(200)]
        found = await asyncio.gather(*(reader.action("postgres", statement(text)) for text in texts))
        assert [a.touches[0].name for a in found] == [f"app.t{n}" for n in range(200)]

    run(body)


def test_a_helper_that_cannot_start_is_said_to_be_down(strange_worker: Callable[[str], None], tmp_path: Any) -> None:
    strange_worker("    pass")
    (tmp_path / "python").unlink()

    async def body(reader: Reader) -> None:
        with pytest.raises(Unavailable):
            await reader.start()
        with pytest.raises(Unavailable):
            await reader.action("postgres", statement("SELECT 1"))

    run(body)


def test_the_helper_is_given_no_secret_and_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_SECRET", "4111111111111111")

    async def body(reader: Reader) -> None:
        await reader.start()
        helpers = [(helper._process, helper._stream) for helper in reader._all]
        assert len(helpers) == 2
        for process, stream in helpers:
            assert process and stream
            environment = Path(f"/proc/{process.pid}/environ")
            if environment.exists():
                assert b"CANARY" not in environment.read_bytes()
            stream[1].close()
            assert await asyncio.to_thread(process.wait, 10) == 0

    run(body)


def test_the_worker_answers_every_text_with_one_reading() -> None:
    answer = reading_worker.answer("SELECT 1 FROM a.b")
    (length,) = struct.unpack("!I", answer[:4])
    assert len(answer) == 4 + length


KEYS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 400)), max_size=200)


@given(KEYS)
def test_the_cache_stays_under_its_bound_and_never_gives_a_wrong_value(puts: list[tuple[int, int]]) -> None:
    cache: reading._Cache[int] = reading._Cache(2000)
    for key, size in puts:
        cache.put(key, key * 7, size)
        assert cache.get(key) == key * 7
        held = {**cache._old, **cache._new}
        assert sum(size for _, size in held.values()) <= 2000
    for key in range(31):
        assert cache.get(key) in (None, key * 7)
