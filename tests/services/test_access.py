"""Who is let in, who is not, and what each of them, the operator and the evidence get to know."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muniment.demo.issuer import DemoIssuer
from muniment.judge import manifests
from muniment.model.access import Admission, Refusal
from muniment.model.entries import AuthFail, CredentialIssued, KeySet
from muniment.model.errors import ConfigError, Unavailable
from muniment.model.identity import InitiatorKind
from muniment.model.rules import ApiKeyLogin, Grant, OidcLogin, Role, Selector
from muniment.services import refusals
from tests.services.worlds import BILLING, DEPLOYMENT, READS, REPORT, World, check, failed, now_us, world

CLAIMS: dict[str, Any] = {"sub": "repo:acme/report", "aud": DEPLOYMENT, "repository_id": "456789"}
CONDITION = (("repository_id", "456789"),)


@pytest.fixture(scope="module")
def issuer() -> Iterator[DemoIssuer]:
    with DemoIssuer() as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, issuer: DemoIssuer) -> Iterator[World]:
    made = world(tmp_path, issuer.url)
    yield made
    made.database.close()


def admitted(outcome: Admission | Refusal) -> Admission:
    assert isinstance(outcome, Admission), [c for c in outcome.checks if not c.passed]
    return outcome


def refused(outcome: Admission | Refusal) -> Refusal:
    assert isinstance(outcome, Refusal)
    return outcome


def test_a_good_token_is_admitted_with_everything_the_record_needs(here: World, issuer: DemoIssuer) -> None:
    here.trusts(
        initiator=(("kind", "=schedule"), ("id", "actor"), ("run", "run_id"), ("attempt", "run_attempt")),
        keep=("repository", "ref"),
    )
    token = issuer.mint(
        {
            **CLAIMS,
            "groups": ["finance", "admins"],
            "actor": "ada",
            "run_id": 991,
            "repository": "acme/report",
            "x": "no",
        }
    )
    admission = admitted(asyncio.run(here.login(token)))
    identity, provenance = admission.identity, admission.identity.provenance
    assert (admission.role, admission.grants, admission.rules_version) == ("report_ro", ("reads-billing",), 8)
    assert identity.groups == {"reporting", "finance"}  # "admins" is outside `only`
    assert identity.version == "ab" * 32
    assert (identity.initiator.kind, identity.initiator.id) == (InitiatorKind.SCHEDULE, "ada")
    assert (identity.initiator.run, identity.initiator.attempt) == ("991", "")
    assert (provenance.method, provenance.subject, provenance.alg) == ("oidc", "repo:acme/report", "RS256")
    assert provenance.claims == (("repository", "acme/report"), ("repository_id", "456789"))
    assert provenance.token_digest == hashlib.sha256(token.encode()).hexdigest()
    assert provenance.checks and all(one.passed for one in provenance.checks)
    assert token.split(".")[2] not in repr(admission)
    (seen,) = here.entries
    assert isinstance(seen, KeySet)
    assert provenance.keys == here_leaf(here, seen)
    assert provenance.kid in seen.kids


def here_leaf(here: World, entry: KeySet) -> str:
    return hashlib.sha256(repr(entry).encode()).hexdigest()


def test_an_unknown_initiator_is_said_to_be_unknown(here: World, issuer: DemoIssuer) -> None:
    here.trusts(initiator=(("kind", "event_name"),))
    for said in ("push", 7, ["schedule"]):
        admission = admitted(asyncio.run(here.login(issuer.mint({**CLAIMS, "event_name": said}))))
        assert admission.identity.initiator.kind is InitiatorKind.UNKNOWN


def test_es256_is_as_good_as_rs256(here: World, issuer: DemoIssuer) -> None:
    admitted(asyncio.run(here.login(issuer.mint(CLAIMS, alg="ES256"))))


def test_the_session_outlives_the_token_up_to_max_age(here: World, issuer: DemoIssuer) -> None:
    at = now_us()
    admission = admitted(asyncio.run(here.login(issuer.mint(CLAIMS, lifetime_s=60), now_us=at)))
    assert admission.expires_at_us == at + REPORT.max_age_s * 1_000_000


@pytest.mark.parametrize("who", ["identity", "grant", "second grant"])
def test_a_session_ends_with_whatever_ends_first(who: str, here: World, issuer: DemoIssuer) -> None:
    at = now_us()
    soon = at + 90_000_000
    if who == "identity":
        here.changes(expires_at_us=soon)
    else:
        ending = replace(READS, name="ending" if who == "second grant" else READS.name, expires_at_us=soon)
        here.rules = replace(here.rules, grants={**here.rules.grants, ending.name: ending})
    assert admitted(asyncio.run(here.login(issuer.mint(CLAIMS), now_us=at))).expires_at_us == soon


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "gw-staging.example.org"}, ["audience"]),
        ({"aud": ["a", "gw.example.org.evil"]}, ["audience"]),
        ({"aud": [DEPLOYMENT, 7]}, ["audience"]),
        ({"exp": 1_000_000_000}, ["expiry"]),
        ({"exp": 1e400}, ["form"]),
        ({"exp": True}, ["expiry"]),
        ({"exp": "4000000000"}, ["expiry"]),
        ({"exp": 4_000_000_000_000}, ["expiry"]),  # milliseconds
        ({"nbf": 4_000_000_000}, ["not-before"]),
        ({"nbf": True}, ["not-before"]),
        ({"nbf": "1"}, ["not-before"]),
        ({"iat": True}, ["issued-at"]),
        ({"iat": -1}, ["issued-at"]),
        ({"iat": 4_000_000_000}, ["issued-at"]),
        ({"sub": ""}, ["subject"]),
        ({"sub": None}, ["subject"]),
        ({"repository_id": "456780"}, ["claim repository_id", "binding"]),
        ({"repository_id": ["456789"]}, ["claim repository_id", "binding"]),
        ({"repository_id": 456789.0}, ["claim repository_id", "binding"]),
        ({"repository_id": None}, ["claim repository_id", "binding"]),
        ({"iss": "https://other.example.org"}, ["issuer"]),
        ({"aud": "elsewhere", "exp": 1_000_000_000}, ["audience", "expiry"]),
    ],
)
def test_a_token_that_says_something_else_is_refused_and_every_reason_is_listed(
    claims: dict[str, Any], why: list[str], here: World, issuer: DemoIssuer
) -> None:
    assert failed(asyncio.run(here.login(issuer.mint({**CLAIMS, **claims})))) == why


@pytest.mark.parametrize("claim", ["aud", "sub", "repository_id"])
def test_a_missing_claim_is_no_match(claim: str, here: World, issuer: DemoIssuer) -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != claim}
    assert failed(asyncio.run(here.login(issuer.mint(claims))))


@pytest.mark.parametrize(
    ("want", "said"), [("456789", 456789), ("true", True), ("-1", -1), ("caf\u00e9", "caf\u00e9"), ("", "")]
)
def test_numbers_and_booleans_match_as_their_json_text(
    want: str, said: object, here: World, issuer: DemoIssuer
) -> None:
    here.changes(logins=(OidcLogin("ci", (("repository_id", want),)),))
    admitted(asyncio.run(here.login(issuer.mint({**CLAIMS, "repository_id": said}))))


def test_conditions_of_the_issuer_hold_for_every_identity(here: World, issuer: DemoIssuer) -> None:
    here.trusts(match=(("owner_id", "1"),))
    assert failed(asyncio.run(here.login(issuer.mint(CLAIMS)))) == ["claim owner_id"]
    admitted(asyncio.run(here.login(issuer.mint({**CLAIMS, "owner_id": "1"}))))


def test_any_one_binding_is_enough_and_an_issuer_may_have_its_own_audience(here: World, issuer: DemoIssuer) -> None:
    here.changes(logins=(OidcLogin("ci", (("repository_id", "1"),)), OidcLogin("ci", (("repository_id", "456789"),))))
    here.trusts(audience="urn:other")
    assert failed(asyncio.run(here.login(issuer.mint(CLAIMS)))) == ["audience"]
    admitted(asyncio.run(here.login(issuer.mint({**CLAIMS, "aud": ["x", "urn:other"]}))))


def test_two_issuers_of_one_url_are_each_tried_with_their_own_terms(here: World, issuer: DemoIssuer) -> None:
    here.changes(logins=(OidcLogin("ci", CONDITION), OidcLogin("ci-two", CONDITION)))
    here.rules = replace(
        here.rules,
        issuers={
            "ci": replace(here.rules.issuers["ci"], audience="urn:nobody"),
            "ci-two": replace(here.rules.issuers["ci"], name="ci-two"),
        },
    )
    admitted(asyncio.run(here.login(issuer.mint(CLAIMS))))


def test_a_good_token_of_an_issuer_that_the_identity_is_not_bound_to_is_refused(
    here: World, issuer: DemoIssuer
) -> None:
    here.changes(logins=(OidcLogin("elsewhere", ()),))
    assert failed(asyncio.run(here.login(issuer.mint(CLAIMS)))) == ["binding"]


def test_a_binding_without_conditions_binds_nobody(here: World, issuer: DemoIssuer) -> None:
    here.changes(logins=(OidcLogin("ci", ()),))
    assert failed(asyncio.run(here.login(issuer.mint(CLAIMS)))) == ["binding"]
    here.changes(logins=(OidcLogin("ci", ()), OidcLogin("ci", CONDITION)))
    admitted(asyncio.run(here.login(issuer.mint(CLAIMS))))


def test_a_good_token_does_not_open_somebody_elses_identity(here: World, issuer: DemoIssuer) -> None:
    other = replace(REPORT, name="other", logins=(OidcLogin("ci", (("repository_id", "1"),)),))
    here.rules = replace(here.rules, identities={**here.rules.identities, "other": other})
    assert "binding" in failed(asyncio.run(here.login(issuer.mint(CLAIMS), user="other")))


@pytest.mark.parametrize(
    "user", ["nobody", "", "Nightly-Report", "nightly-report\x00", "nightly-report.billing", "'; --"]
)
def test_an_unknown_identity_is_a_check_like_any_other(user: str, here: World, issuer: DemoIssuer) -> None:
    outcome = refused(asyncio.run(here.login(issuer.mint(CLAIMS), user=user)))
    assert failed(outcome) == ["identity"]
    assert {one.name for one in outcome.checks} > {
        "signature",
        "audience",
        "expiry",
    }  # the token was checked all the same


def test_an_expired_identity_a_missing_grant_and_a_full_house_are_checks(here: World, issuer: DemoIssuer) -> None:
    token = issuer.mint(CLAIMS)
    here.running = REPORT.parallel
    assert failed(asyncio.run(here.login(token))) == ["parallel"]
    here.running = REPORT.parallel - 1
    admitted(asyncio.run(here.login(token)))
    assert failed(asyncio.run(here.login(token, database="postgres"))) == ["grant", "role"]
    here.changes(expires_at_us=now_us() - 1)
    assert failed(asyncio.run(here.login(token))) == ["identity-expiry"]


def test_a_grant_to_a_group_needs_the_group(here: World, issuer: DemoIssuer) -> None:
    to_group = replace(READS, identity="", group="finance")
    here.rules = replace(here.rules, grants={READS.name: to_group})
    assert "grant" in failed(asyncio.run(here.login(issuer.mint(CLAIMS))))
    for claim in ("finance", ["finance"], ["x", 7, "finance"]):
        admitted(asyncio.run(here.login(issuer.mint({**CLAIMS, "groups": claim}))))
    for outside in (["Finance"], "finance,x", {"finance": True}, [["finance"]]):
        assert "grant" in failed(asyncio.run(here.login(issuer.mint({**CLAIMS, "groups": outside}))))


def test_grants_that_disagree_on_the_role_are_refused_not_chosen_from(here: World, issuer: DemoIssuer) -> None:
    target = replace(BILLING, roles=(Role("report_ro", None), Role("owner", None)))
    more = Grant("more", "nightly-report", "", Selector("billing"), "owner", ("*",), READS.allow)
    here.rules = replace(here.rules, targets={"billing": target}, grants={READS.name: READS, "more": more})
    assert failed(asyncio.run(here.login(issuer.mint(CLAIMS)))) == ["role"]


def test_a_target_that_was_changed_meanwhile_is_asked_for_again(here: World, issuer: DemoIssuer) -> None:
    old = replace(BILLING, host="old.internal")
    assert failed(asyncio.run(here.login(issuer.mint(CLAIMS), target=old))) == ["target"]


def test_rules_that_change_while_a_token_is_checked_are_the_ones_that_count(here: World, issuer: DemoIssuer) -> None:
    async def apply_meanwhile() -> Admission | Refusal:
        login = asyncio.ensure_future(here.login(issuer.mint(CLAIMS)))
        await asyncio.sleep(0)  # the key set is being fetched
        here.rules = replace(here.rules, version=8, grants={})
        return await login

    assert "grant" in failed(asyncio.run(apply_meanwhile()))


def test_a_secret_in_the_clear_is_for_loopback_only(here: World, issuer: DemoIssuer) -> None:
    token = issuer.mint(CLAIMS)
    assert failed(asyncio.run(here.login(token, tls=False))) == ["transport"]
    for source in ("127.0.0.1:5000", "[::1]:5000", "127.0.0.1"):
        admitted(asyncio.run(here.login(token, tls=False, source=source)))


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refusal_is_found_by_its_reference_with_got_want_and_mend(here: World, issuer: DemoIssuer) -> None:
    outcome = refused(asyncio.run(here.login(issuer.mint({**CLAIMS, "aud": "elsewhere"}))))
    assert len(outcome.reference) == 9 and outcome.reference[4] == "-"
    for written in (outcome.reference, outcome.reference.lower(), outcome.reference.replace("-", "")):
        row = here.logins.refused(written)
        assert row is not None
        assert row.checks == outcome.checks
        assert (row.user, row.target, row.source) == ("nightly-report", "billing", "192.0.2.7:40000")
    audience = check(outcome, "audience")
    assert (audience.got, audience.want) == ("elsewhere", DEPLOYMENT)
    assert DEPLOYMENT in audience.mend
    assert here.logins.refused("0000-0000") is None


def test_every_failed_check_has_a_mend(here: World, issuer: DemoIssuer) -> None:
    here.changes(expires_at_us=1_000_000)
    bad = {"aud": 1, "sub": 2, "exp": 3, "nbf": "x", "iat": "x", "repository_id": 4}
    secrets = [issuer.mint(bad), "", "x", "mk_x", f"mk_{'a' * 12}_{'b' * 43}", issuer.mint({"iss": "x"})]
    for secret in secrets:
        outcome = refused(asyncio.run(here.login(secret, user="nightly-report", tls=False, database="no")))
        assert all(one.mend and one.want for one in outcome.checks if not one.passed)


def test_no_secret_is_in_checks_rows_or_evidence(here: World, issuer: DemoIssuer) -> None:
    token = issuer.mint({**CLAIMS, "aud": "elsewhere"})
    issued = asyncio.run(here.keys.issue("nightly-report", 0, now_us()))
    here.changes(logins=())
    for secret in (token, issued.key, token[:-4] + "AAAA", "hunter2-hunter2", token + "\x00"):
        for user in ("nightly-report", secret):  # a client that sends the token as its user name too
            outcome = refused(asyncio.run(here.login(secret, user=user)))
            row = here.logins.refused(outcome.reference)
            seen = repr(outcome) + repr(row)
            if user != "hunter2-hunter2":  # a user name that looks like a name is shown
                assert secret not in seen
                assert secret[-20:] not in seen
    here.access.flush(now_us())
    assert token not in repr(here.entries) and issued.key not in repr(here.entries)
    assert issued.key not in repr(issued)


def test_hostile_names_are_shown_printable_and_short(here: World, issuer: DemoIssuer) -> None:
    outcome = refused(asyncio.run(here.login("x", user="\x1b[2J\n" + "u" * 100_000)))
    row = here.logins.refused(outcome.reference)
    assert row is not None
    assert row.user.isprintable() and len(row.user) < 300


def test_refusals_are_counted_per_source_and_minute(here: World) -> None:
    at = 60_000_000 * 1000
    for port, user in ((1, "a"), (2, "a"), (3, "b")):
        asyncio.run(here.login("x", user=user, source=f"192.0.2.7:{port}", now_us=at))
    asyncio.run(here.login("x", source="[2001:db8::1]:5", now_us=at))
    assert here.entries == []
    here.access._refusals.flush(at + 30_000_000)
    assert here.entries == []  # the minute is not over
    here.access._refusals.flush(at + 60_000_000)
    first, second = here.entries
    assert isinstance(first, AuthFail) and isinstance(second, AuthFail)
    assert (first.count, first.source, first.target, len(first.references)) == (3, "192.0.2.7", "billing", 3)
    assert first.reasons == ("form", "identity")
    assert (second.count, second.source) == (1, "2001:db8::1")
    here.access.flush(at)
    assert len(here.entries) == 2


def test_a_journal_that_fails_loses_no_count(here: World) -> None:
    at = now_us()
    asyncio.run(here.login("x", now_us=at))
    here.journal_fails = True
    with pytest.raises(Unavailable):
        here.access.flush(at)
    here.journal_fails = False
    asyncio.run(here.login("x", now_us=at))
    here.access.flush(at)
    assert [entry.count for entry in here.entries if isinstance(entry, AuthFail)] == [2]


def test_many_sources_are_bounded_and_still_counted(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_SOURCES", 5)
    monkeypatch.setattr(refusals, "MAX_REFERENCES", 3)
    at = now_us()

    async def flood() -> None:
        await asyncio.gather(*(here.login("x", source=f"198.51.100.{n}:1", now_us=at) for n in range(40)))

    asyncio.run(flood())
    here.access.flush(at)
    counts = [entry for entry in here.entries if isinstance(entry, AuthFail)]
    assert len(counts) == 6
    assert sum(entry.count for entry in counts) == 40
    (other,) = [entry for entry in counts if entry.source == "other"]
    assert (other.count, other.target, len(other.references)) == (35, "", 3)
    assert here.logins.count() == 40


def test_a_broken_database_refuses_all_the_same(here: World, issuer: DemoIssuer) -> None:
    here.database.close()
    with here.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE logins")
        connection.exec_driver_sql("DROP TABLE api_keys")
    assert refused(asyncio.run(here.login("x"))).reference
    outcome = refused(asyncio.run(here.login(f"mk_{'a' * 12}_{'b' * 43}")))
    assert failed(outcome) == ["store"]


def test_kept_refusals_are_bounded_in_number_and_age(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muniment.store.logins.MAX_ROWS", 10)
    monkeypatch.setattr("muniment.store.logins.TRIM_EVERY", 1)
    at = now_us()

    async def fill() -> None:
        await here.login("x", now_us=at - 31 * 24 * 3600 * 1_000_000)
        await here.login("x", now_us=at)
        assert here.logins.count() == 1
        for n in range(1, 15):
            await here.login("x", now_us=at + n)

    asyncio.run(fill())
    assert here.logins.count() == 10
    assert here.logins.recent()[0].t_us == at + 14


# -- API keys ---------------------------------------------------------------------------------------------------------


def test_an_api_key_opens_its_own_identity_until_it_ends(here: World) -> None:
    at = now_us()
    issued = asyncio.run(here.keys.issue("nightly-report", at + 60_000_000, at))
    admission = admitted(asyncio.run(here.login(issued.key, now_us=at)))
    provenance = admission.identity.provenance
    assert (provenance.method, provenance.token_id, provenance.keys) == ("api-key", issued.id, "")
    assert admission.expires_at_us == at + 60_000_000
    assert failed(asyncio.run(here.login(issued.key, now_us=at + 60_000_000))) == ["key-expiry"]


def test_an_api_key_is_kept_as_a_hash_and_recorded_without_it(here: World) -> None:
    issued = asyncio.run(here.keys.issue("nightly-report", 0, now_us()))
    (row,) = asyncio.run(here.keys.list("nightly-report"))
    assert row.hash == hashlib.sha256(issued.key.encode()).digest()
    assert here.entries == [CredentialIssued("issued", issued.id, "nightly-report", issued.expires_us)]
    assert issued.key.split("_")[2] not in repr(here.entries) + repr(row)


def test_a_revoked_key_opens_nothing_at_once(here: World) -> None:
    issued = asyncio.run(here.keys.issue("nightly-report", 0, now_us()))
    assert asyncio.run(here.keys.revoke(issued.id, now_us()))
    assert failed(asyncio.run(here.login(issued.key))) == ["key-revoked"]
    assert not asyncio.run(here.keys.revoke(issued.id, now_us()))
    assert not asyncio.run(here.keys.revoke("unknown", now_us()))
    assert [entry.event for entry in here.entries if isinstance(entry, CredentialIssued)] == ["issued", "revoked"]


def test_a_key_one_character_off_learns_nothing_about_the_key(here: World) -> None:
    issued = asyncio.run(here.keys.issue("nightly-report", 0, now_us()))
    last = "a" if issued.key[-1] != "a" else "b"
    unknown = f"mk_{'A' * 12}_{issued.key.split('_')[2]}"
    answers = [refused(asyncio.run(here.login(key))) for key in (issued.key[:-1] + last, unknown)]
    assert answers[0].checks == answers[1].checks
    assert failed(answers[0]) == ["key"]


def test_a_key_does_not_open_another_identity(here: World) -> None:
    other = replace(REPORT, name="other")
    here.rules = replace(here.rules, identities={**here.rules.identities, "other": other})
    issued = asyncio.run(here.keys.issue("other", 0, now_us()))
    assert failed(asyncio.run(here.login(issued.key))) == ["key-owner"]
    assert "key-owner" in failed(asyncio.run(here.login(issued.key, user="nobody")))


def test_taking_the_login_away_or_shortening_it_holds_for_keys_already_out(here: World) -> None:
    at = now_us()
    issued = asyncio.run(here.keys.issue("nightly-report", 0, at))
    here.changes(logins=(ApiKeyLogin(10),))
    assert admitted(asyncio.run(here.login(issued.key, now_us=at))).expires_at_us == at + 10_000_000
    assert failed(asyncio.run(here.login(issued.key, now_us=at + 11_000_000))) == ["key-expiry"]
    here.changes(logins=())
    assert failed(asyncio.run(here.login(issued.key, now_us=at))) == ["binding"]


@pytest.mark.parametrize("shift_us", [3_600_000_001, -1])
def test_a_key_is_not_issued_beyond_what_the_identity_allows(shift_us: int, here: World) -> None:
    at = now_us()
    with pytest.raises(ConfigError):
        asyncio.run(here.keys.issue("nightly-report", at + shift_us, at))
    assert here.entries == [] and here.logins.keys() == []


def test_a_key_is_not_issued_to_strangers_or_without_a_login_or_a_journal(here: World) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(here.keys.issue("nobody", 0, now_us()))
    here.journal_fails = True
    with pytest.raises(Unavailable):
        asyncio.run(here.keys.issue("nightly-report", 0, now_us()))
    assert here.logins.keys() == []  # no key without its entry
    here.changes(logins=(OidcLogin("ci", ()),))
    with pytest.raises(ConfigError):
        asyncio.run(here.keys.issue("nightly-report", 0, now_us()))


def test_keys_never_repeat_and_have_one_shape(here: World) -> None:
    keys = [asyncio.run(here.keys.issue("nightly-report", 0, now_us())).key for _ in range(20)]
    assert len(set(keys)) == 20
    assert {len(key) for key in keys} == {59}


def test_checks_survive_the_database_as_they_were(here: World) -> None:
    outcome = refused(asyncio.run(here.login("x", user="caf\u00e9 \u202e")))
    row = here.logins.refused(outcome.reference)
    assert row is not None and row.checks == outcome.checks
    assert json.dumps([one.got for one in row.checks])


def test_the_manifests_of_the_how_to_are_in_force_as_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "logins.md").read_text()
    whole = re.findall(r"```yaml\n(apiVersion.*?)```", page, re.DOTALL)
    assert whole
    rules = manifests.parse([("logins.md", text) for text in whole], now_us())
    assert rules.issuers["github"].match and rules.identities["nightly-report"].logins
