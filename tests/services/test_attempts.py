"""A source that is refused again and again is not checked any more, for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muniment.demo.issuer import DemoIssuer
from muniment.model.access import Admission, Refusal
from muniment.model.entries import AuthFail
from muniment.services import access as services
from muniment.services.refusals import FAILED_S, MAX_FAILED, MAX_KEPT, Attempts
from tests.services.worlds import DEPLOYMENT, World, failed, now_us, world

CLAIMS: dict[str, Any] = {"sub": "repo:acme/report", "aud": DEPLOYMENT, "repository_id": "456789"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[DemoIssuer]:
    with DemoIssuer() as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, issuer: DemoIssuer, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(services, "DELAY_S", 0.01)
    made = world(tmp_path, issuer.url)
    yield made
    made.database.close()


def test_after_many_refusals_even_a_good_token_waits_a_minute(here: World, issuer: DemoIssuer) -> None:
    async def body() -> None:
        good = issuer.mint(CLAIMS)
        for _ in range(MAX_FAILED):
            assert "attempts" not in failed(await here.login("nonsense"))
        first, second = await here.login("nonsense"), await here.login(good)
        assert failed(first) == failed(second) == ["attempts"]
        assert isinstance(first, Refusal)
        assert isinstance(second, Refusal)
        assert first.reference == second.reference  # one row tells of all of them
        assert here.logins.refused(first.reference) is not None
        assert here.logins.count() == MAX_FAILED + 1
        assert isinstance(await here.login(good, source="192.0.2.8:1"), Admission)
        here.seconds += FAILED_S
        assert isinstance(await here.login(good), Admission)

    asyncio.run(body())


def test_unchecked_refusals_are_counted_in_the_evidence(here: World) -> None:
    async def body() -> None:
        for _ in range(MAX_FAILED + 7):
            await here.login("nonsense")
        here.access.flush(now_us())

    asyncio.run(body())
    told = [entry for entry in here.entries if isinstance(entry, AuthFail)]
    assert sum(entry.count for entry in told) == MAX_FAILED + 7
    assert any("attempts" in entry.reasons for entry in told)


def test_guesses_at_names_do_not_shut_out_the_job_beside_them(here: World, issuer: DemoIssuer) -> None:
    async def body() -> None:
        for number in range(MAX_FAILED + 1):
            last = await here.login("nonsense", user=f"guess-{number}")
        assert failed(last) == ["attempts"]
        assert isinstance(await here.login(issuer.mint(CLAIMS)), Admission)

    asyncio.run(body())


def test_what_is_not_the_secrets_fault_is_not_counted(here: World, issuer: DemoIssuer) -> None:
    async def body() -> None:
        good = issuer.mint(CLAIMS)
        for _ in range(MAX_FAILED + 1):
            assert failed(await here.login(good, database="another")) == ["grant", "role"]
        assert isinstance(await here.login(good), Admission)

    asyncio.run(body())


def test_what_is_counted_is_bounded() -> None:
    attempts = Attempts(lambda: 0.0)
    for number in range(MAX_KEPT + 100):
        attempts.failed(f"192.0.2.{number}", "")
    assert len(attempts._failed) == MAX_KEPT
