"""Who is let in, and who is not: tokens, API keys, groups, initiators, limits; the outside learns a reference only."""

from __future__ import annotations

import datetime
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from muniment.demo.issuer import DemoIssuer
from tests.live import rules
from tests.live.gateway import REFERENCE, Gateway, made, until
from tests.live.servers import Cluster
from tests.live.test_control import broken

CASES = ("case-0", "case-1", "case-2", "case-3")  # twenty refusals a minute are checked under one name
SLEEP = {"verbs": ["call"], "resources": ["pg_catalog.pg_sleep"]}
KEY_LOGIN = {"apiKey": {"maxAge": "1d"}}


@pytest.fixture(scope="module")
def other() -> Iterator[DemoIssuer]:
    """An issuer that nobody trusts."""
    with DemoIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def failing() -> Iterator[DemoIssuer]:
    """A trusted issuer that a test takes down."""
    issuer = DemoIssuer().start()
    yield issuer
    issuer.close()


@pytest.fixture(scope="module")
def house(debian: Cluster, failing: DemoIssuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one identity for each thing that is tried."""
    with made(tmp_path_factory.mktemp("identity")) as gateway:
        gateway.start()
        gateway.apply(documents(gateway, debian, failing))
        yield gateway


def documents(gateway: Gateway, cluster: Cluster, failing: DemoIssuer) -> list[rules.Document]:
    """The rules. Every job reads invoices at `plain`; `member` only by its group."""
    found = [
        rules.issuer(gateway.issuer.url, leeway="1s", match={"organization": "acme"}, keep=["repository"]),
        rules.issuer(failing.url, "failing", staleIfDown="3s", leeway="1s"),
        rules.target("plain", cluster, "report_trust", None),
        rules.identity("wide"),
        rules.identity("keyed", KEY_LOGIN, {"oidc": {"issuer": "demo", "match": {"repository": "acme/keyed"}}}),
        rules.identity("brief", {"apiKey": {"maxAge": "4s"}}),
        rules.identity("member", groups={"fromToken": {"claim": "groups", "only": ["finance"]}}),
        rules.identity("short", session={"maxAge": "2s", "parallel": 50}),
        rules.identity("lazy", session={"idle": "2s", "parallel": 50}),
        rules.identity("single", session={"parallel": 1}),
        rules.identity("fails", {"oidc": {"issuer": "failing", "match": {"repository": "acme/fails"}}}),
        rules.grant("members", "@finance", "plain", "report_trust", rules.INVOICES),
    ]
    found += [rules.identity(job) for job in (*CASES, "rotates", "often")]
    jobs = ("wide", "keyed", "brief", "short", "lazy", "single", "fails", "rotates", "often", *CASES)
    found.append(rules.grant("sleeps", "lazy", "plain", "report_trust", SLEEP))
    return found + [rules.grant(f"{job}-reads", job, "plain", "report_trust", rules.INVOICES) for job in jobs]


def token(house: Gateway, job: str = "wide", **claims: Any) -> str:
    """A token with what the issuer's match wants."""
    return house.token(job, **({"organization": "acme"} | claims))


def let_in(house: Gateway, job: str = "wide", **how: str) -> bool:
    """Whether a login succeeds."""
    return house.psql("SELECT 1", job=job, **how).returncode == 0


def refused(house: Gateway, secret: str, job: str = "wide", said: set[str] | None = None) -> dict[str, Any]:
    """The failed checks by name of a login that must be refused, as `logins show` gives them. said: gets what the
    client was told, but for the reference."""
    done = house.psql("SELECT 1", job=job, secret=secret)
    found = REFERENCE.search(done.stderr)
    assert done.returncode == 2 and found, done.stderr
    if said is not None:
        said.add(done.stderr.replace(found[1], "REF"))
    shown = json.loads(house.get(f"logins/{found[1]}"))
    assert secret not in json.dumps(shown)
    return {check["name"]: check for check in shown["checks"] if not check["passed"]}


def connect(house: Gateway, job: str = "wide", **claims: object) -> psycopg.Connection[Any]:
    return psycopg.connect(house.conninfo(job=job), password=token(house, job, **claims), autocommit=True)


# --- tokens


def test_a_good_token_is_let_in_and_the_record_says_how_it_was_proved(house: Gateway) -> None:
    assert house.answer("SELECT 1", secret=token(house)) == "1"
    shown = house.shown()
    assert (shown["opened"]["method"], shown["opened"]["aud"], shown["opened"]["alg"]) == ("oidc", "localhost", "RS256")
    assert shown["opened"]["iss"] == house.issuer.url and shown["opened"]["exp"] > shown["opened"]["iat"]
    assert shown["hidden"]["claims"] == "organization=acme\nrepository=acme/wide"
    assert shown["hidden"]["sub"] == "repo:acme/wide"


def part(document: dict[str, object]) -> str:
    return urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def bad_tokens(house: Gateway, other: DemoIssuer, job: str) -> dict[str, tuple[str, str]]:
    """name -> (token, the check that must fail)."""
    now = int(time.time())
    good = token(house, job)
    claims = {"iss": house.issuer.url, "sub": "x", "aud": "localhost", "repository": f"acme/{job}"}
    claims["organization"] = "acme"
    unsigned = f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims | {'exp': now + 300})}."
    hmac = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims | {'exp': now + 300})}.c2lnbmF0dXJl"
    head, body, signature = good.split(".")
    flipped = signature[:20] + ("A" if signature[20] != "A" else "B") + signature[21:]
    return {
        "expired": (token(house, job, iat=now - 600, nbf=now - 600, exp=now - 60), "expiry"),
        "not yet valid": (token(house, job, nbf=now + 600), "not-before"),
        "another audience": (token(house, job, aud="gw.example.org"), "audience"),
        "no audience": (token(house, job, aud=None), "audience"),
        "a foreign issuer": (other.mint(claims | {"iss": other.url}), "issuer"),
        "a foreign key under our issuer's name": (other.mint(claims), "key"),
        "alg none": (unsigned, "form"),
        "a MAC": (hmac, "algorithm"),
        "a broken signature": (f"{head}.{body}.{flipped}", "signature"),
        "other claims": (f"{head}.{part(claims | {'exp': now + 900})}.{signature}", "signature"),
        "another repository": (token(house, job, repository="acme/neighbour"), "binding"),
        "a repository in other letters": (token(house, job, repository=f"ACME/{job}"), "binding"),
        "without the issuer's own condition": (token(house, job, organization=None), "claim organization"),
        "nothing like a token": ("hunter2", "form"),
        "an empty secret": ("\t", "form"),
    }


def test_every_bad_token_is_refused_in_the_same_words_and_the_operator_sees_the_check(
    house: Gateway, other: DemoIssuer
) -> None:
    said: set[str] = set()
    tables = {job: bad_tokens(house, other, job) for job in CASES}
    for n, name in enumerate(tables[CASES[0]]):
        job = CASES[n % len(CASES)]
        bad, check = tables[job][name]
        failed = refused(house, bad, job, said)
        assert check in failed, (name, failed)
        assert failed[check]["want"] and failed[check]["mend"], name
    assert len(said) == 1, said
    assert all(let_in(house, job, secret=token(house, job)) for job in CASES)


def test_too_many_refusals_under_one_name_shut_that_name_out_for_its_source_alone(house: Gateway) -> None:
    for _ in range(30):
        failed = refused(house, "hunter2", "often")
        if "attempts" in failed:
            break
    assert "attempts" in failed
    assert "attempts" in refused(house, token(house, "often"), "often")  # unchecked for a minute, good or not
    assert let_in(house, secret=token(house))


def test_an_unknown_identity_and_one_without_a_grant_look_the_same_outside(house: Gateway) -> None:
    assert "identity" in refused(house, token(house), job="nobody")
    assert "grant" in refused(house, token(house, "member", repository="acme/member"), job="member")


def test_logins_show_prints_each_check_with_got_want_and_mend(house: Gateway) -> None:
    done = house.psql("SELECT 1", secret=token(house, aud="gw.example.org"))
    found = REFERENCE.search(done.stderr)
    assert found
    shown = house.cli("logins", "show", found[1])
    assert shown.returncode == 0
    for word in ("audience", "gw.example.org", "localhost", "FAILED", "mend"):
        assert word in shown.stdout, shown.stdout
    assert found[1] in house.cli("logins", "list").stdout


# --- groups, initiators


def test_a_group_from_the_token_counts_only_where_it_is_allowed(house: Gateway) -> None:
    for groups, expected in ((["finance", "admins"], True), (["admins"], False), ("finance", True), ([], False)):
        assert let_in(house, "member", secret=token(house, "member", groups=groups)) is expected, groups
    assert house.answer("SELECT 1", job="member", secret=token(house, "member", groups=["finance", "admins"]))
    assert house.shown()["opened"]["groups"] == ["finance"]


def test_the_initiator_is_recorded_by_the_map_of_claims_or_is_unknown(house: Gateway) -> None:
    house.answer("SELECT 1", secret=token(house, kind="schedule", actor="ada"))
    assert (house.newest()["initiator"], house.newest()["initiator_id"]) == ("schedule", "ada")
    assert house.shown()["hidden"]["workload"] == "report.yml"
    house.answer("SELECT 1", secret=token(house, kind=None, actor=None))
    assert (house.newest()["initiator"], house.newest()["initiator_id"]) == ("unknown", "")
    assert [row["ses"] for row in house.sessions(initiator="ada")]


# --- API keys


def test_an_api_key_is_shown_once_opens_its_identity_and_dies_when_revoked(house: Gateway) -> None:
    issued = house.asked("identities", "key", "issue", "keyed")
    key = issued["key"]
    assert key.startswith("mk_") and key not in house.cli("identities", "key", "list", "keyed").stdout
    assert house.files_with(key) == [] and house.files_with(key.rpartition("_")[2]) == []
    assert let_in(house, "keyed", secret=key)
    assert "key-owner" in refused(house, key, job="wide")
    assert "key" in refused(house, key[:-1] + ("x" if key[-1] != "x" else "y"), job="keyed")
    with psycopg.connect(house.conninfo(job="keyed"), password=key, autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert house.asked("identities", "key", "revoke", issued["id"])["sessions_cut"] == 1
        assert until(lambda: broken(connection), 2)
    assert "key-revoked" in refused(house, key, job="keyed")


def test_an_api_key_expires(house: Gateway) -> None:
    key = house.asked("identities", "key", "issue", "brief")["key"]
    with psycopg.connect(house.conninfo(job="brief"), password=key, autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert until(lambda: broken(connection), 8)  # and takes its sessions with it
    assert "key-expiry" in refused(house, key, job="brief")


def test_an_identity_without_that_login_takes_no_key(house: Gateway) -> None:
    done = house.cli("identities", "key", "issue", "wide")
    assert done.returncode == 1 and "apiKey" in done.stderr


# --- how long and how many


def test_a_session_outlives_its_token_which_opens_no_other(house: Gateway) -> None:
    now = int(time.time())
    with psycopg.connect(
        house.conninfo(), password=(brief := token(house, exp=now + 2)), autocommit=True
    ) as connection:
        assert until(lambda: not let_in(house, secret=brief), 8)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert "expiry" in refused(house, brief)


def test_a_session_is_cut_at_its_greatest_age(house: Gateway) -> None:
    with connect(house, "short") as connection:
        began = time.monotonic()
        assert until(lambda: broken(connection), 8)
        assert time.monotonic() - began > 1.0
    assert "2 s" in str(house.shown()["closed"]["reason"]) or "as old" in str(house.shown()["closed"]["reason"])


def test_an_idle_session_is_cut_and_a_busy_one_is_not(house: Gateway) -> None:
    with connect(house, "lazy") as busy, connect(house, "lazy") as idle:
        run = house.run
        for _ in range(8):
            assert busy.execute("SELECT pg_sleep(0.5)").fetchone()
        assert broken(idle)
        assert busy.execute("SELECT 1").fetchone() == (1,)
    house.run = run
    assert "idle" in house.shown()["closed"]["reason"]


def test_no_more_sessions_at_once_than_the_identity_may_have(house: Gateway) -> None:
    with connect(house, "single"):
        assert "parallel" in refused(house, token(house, "single"), job="single")
    assert until(lambda: let_in(house, "single", secret=token(house, "single")), 5)


def test_an_identity_that_has_expired_is_refused_and_its_session_is_cut(house: Gateway) -> None:
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=9)
    ending = rules.identity("ending", expires=ends.strftime("%Y-%m-%dT%H:%M:%SZ"))
    house.apply([ending, rules.grant("ending-reads", "ending", "plain", "report_trust", rules.INVOICES)])
    with connect(house, "ending") as connection:
        assert until(lambda: broken(connection), 20)
    assert "identity-expiry" in refused(house, token(house, "ending"), job="ending")


# --- the issuer's keys


def test_an_issuer_that_is_down_stops_nobody_at_first_and_everybody_in_the_end(
    house: Gateway, failing: DemoIssuer
) -> None:
    def enter() -> bool:
        claims = {"sub": "x", "aud": "localhost", "repository": "acme/fails"}
        return let_in(house, "fails", secret=failing.mint(claims))

    assert enter()
    failing.close()
    assert enter()  # its keys are known and were confirmed just now
    assert until(lambda: not enter(), 10)
    claims = {"sub": "x", "aud": "localhost", "repository": "acme/fails"}
    failed = refused(house, failing.mint(claims), job="fails")
    assert failing.url in failed["keys"]["want"] + failed["keys"]["got"]
    assert let_in(house, secret=token(house))  # the other issuer is not concerned


def test_a_new_signing_key_is_taken_and_a_withdrawn_one_is_not(house: Gateway) -> None:
    def known() -> bool:
        """Whether a token of the newest key is taken: within ten seconds of its first use."""
        found = until(lambda: let_in(house, "rotates", secret=token(house, "rotates")), 15, every_s=1.5)
        return bool(found)

    old = token(house, "rotates")
    assert let_in(house, "rotates", secret=old)
    house.issuer.rotate()
    assert known()
    assert let_in(house, "rotates", secret=old)  # still in the set
    house.issuer.rotate()
    house.issuer.forget()
    assert known()
    assert "key" in refused(house, old, "rotates")


def test_refused_logins_are_in_the_evidence_as_a_number_and_no_secret_is(
    house: Gateway, other: DemoIssuer, tmp_path: Path
) -> None:
    refused(house, other.mint({"iss": other.url, "sub": "canary-sub", "aud": "localhost"}))
    house.stop()
    lines = (house.evidence / "log" / "records.jsonl").read_text().splitlines()
    failures = [one for one in map(json.loads, lines) if one["kind"] == "auth.fail"]
    assert failures and sum(one["count"] for one in failures) >= 15
    for secret in house.tokens:
        assert house.files_with(secret) == []
        assert house.files_with(secret.rpartition(".")[2]) == []
    assert house.verify().returncode == 0
