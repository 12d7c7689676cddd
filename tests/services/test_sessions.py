"""Open sessions: counted, cut, and ended by new rules only where these no longer allow them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.services.house import MANIFESTS, House, Live

NEW_TARGET = ("db.internal:5432", "other.internal:5432")


def change(tmp_path: Path, *replaced: tuple[str, str], without: str = "", **session: Any) -> list[str]:
    """Apply the manifests, open a session, apply changed ones. Returns why it was cut."""

    async def run() -> list[str]:
        house = House(tmp_path)
        await house.registry.start()
        await house.registry.apply([("a.yaml", MANIFESTS)], by="ada")
        live = Live(house.session(**session))
        house.sessions.add(live)
        text = MANIFESTS
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        parts = [part for part in text.split("---\n") if not without or f"kind: {without}\n" not in part]
        await house.registry.apply([("a.yaml", "---\n".join(parts))], by="ada", prune=True)
        house.close()
        return live.reasons

    return asyncio.run(run())


@pytest.mark.parametrize(
    "replaced",
    [
        ("nightly revenue", "weekly revenue"),
        ("30m", "10m"),
        ("verbs: [select, drop]", "verbs: [select]"),
        ("name: reads-billing", "name: renamed"),
        ("environment: production", "environment: staging"),
        ("databases: [billing]", "databases: ['*']"),
    ],
)
def test_a_session_that_is_still_allowed_goes_on(tmp_path: Path, replaced: tuple[str, str]) -> None:
    assert change(tmp_path, replaced) == []


@pytest.mark.parametrize(
    ("replaced", "why"),
    [
        (("databases: [billing]", "databases: [other]"), "no grant in force"),
        (("to: {group: reporting}", "to: {identity: nightly-report}"), ""),
        (("{static: [reporting]}", "{static: [reporting, more]}"), ""),
        (('repository_id: "456789"', 'repository_id: "1"'), "no longer accepts the login"),
        (('repository_id: "456789"', 'repository_id: "456789", ref: main'), "no longer accepts the login"),
        (("https://issuer.example.org", "https://issuer2.example.org"), "no longer accepts the login"),
        (NEW_TARGET, "reached in another way"),
        (("tls: {mode: disable}", "tls: {mode: require}"), "reached in another way"),
        (("report_ro", "report_rw"), "the role report_ro was removed"),
    ],
)
def test_a_change_cuts_what_it_no_longer_allows(tmp_path: Path, replaced: tuple[str, str], why: str) -> None:
    reasons = change(tmp_path, replaced)
    assert (why in reasons[0] and len(reasons) == 1) if why else reasons == []


def test_a_group_that_is_taken_away_ends_the_session(tmp_path: Path) -> None:
    reasons = change(
        tmp_path, ("{static: [reporting]}", "{static: [others]}"), ("{group: reporting}", "{identity: nightly-report}")
    )
    assert reasons == ["the identity nightly-report is no longer in reporting"]


def test_a_session_by_key_ends_when_keys_are_no_longer_a_login(tmp_path: Path) -> None:
    reasons = change(tmp_path, ("    - apiKey: {maxAge: 30d}\n", ""), method="api-key")
    assert "no longer accepts" in reasons[0]


def test_a_session_older_than_a_new_limit_ends(tmp_path: Path) -> None:
    assert "as old as this one" in change(tmp_path, ("30m", "10m"), opened_at_us=1)[0]


def test_sessions_are_counted_from_admission_and_cut_by_id_key_or_all(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.registry.start()
        await house.registry.apply([("a.yaml", MANIFESTS)], by="ada")
        sessions = house.sessions
        sessions.take_seat("nightly-report")
        sessions.take_seat("nightly-report")
        sessions.leave_seat("nightly-report")
        assert (sessions.count("nightly-report"), sessions.count("other")) == (1, 0)
        by_token, by_key = Live(house.session("s-1")), Live(house.session("s-2", method="api-key"))
        sessions.add(by_token)
        sessions.add(by_key)
        assert [one.id for one in sessions.live()] == ["s-1", "s-2"]
        assert sessions.cut("s-1", "why") and by_token.reasons == ["why"]
        assert sessions.cut_credential("other") == 0 and sessions.cut_credential("key-1") == 1
        assert "revoked" in by_key.reasons[0] and len(by_token.reasons) == 1  # a token's id is no key's
        sessions.remove("s-1")
        assert not sessions.cut("s-1", "why")
        assert sessions.cut_all("stopping") == 1
        house.close()

    asyncio.run(run())


def test_a_session_that_opens_behind_a_change_is_cut_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.registry.start()
        await house.registry.apply([("a.yaml", MANIFESTS)], by="ada")
        live = Live(house.session())
        await house.registry.apply([("a.yaml", MANIFESTS.replace("[billing]", "[other]"))], by="ada")
        house.sessions.add(live)
        assert "no grant in force" in live.reasons[0]
        house.close()

    asyncio.run(run())
