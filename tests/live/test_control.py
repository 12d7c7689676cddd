"""Default deny; deny beats hold beats allow; a refusal leaves the target in the state that the client was told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.live import rules
from tests.live.gateway import Gateway, Psql, made, until
from tests.live.servers import Cluster


def approval(gateway: Gateway, name: str) -> Any:
    """A question as it stands now."""
    return json.loads(gateway.get(f"approvals/{name}"))


def reached(cluster: Cluster, marker: str) -> int:
    """How often a marker stands in a statement that the target ran."""
    return len([line for line in cluster.log().split("\n") if marker in line and "LOG:" in line])


# --- deny


def test_what_nobody_granted_is_refused_and_never_reaches_the_target(gateway: Gateway, debian: Cluster) -> None:
    for text in (
        "SELECT 'never-1' FROM customers",
        "INSERT INTO invoices (customer_id, total) VALUES (1, 1) /* never-2 */",
        "SELECT 'never-3' FROM invoices JOIN customers ON true",
        "SELECT 'never-4' FROM invoices WHERE EXISTS (SELECT 1 FROM archive.secrets)",
        "SELECT fx_rate('never-5')",
        "SET role TO 'never-6'",
        "CREATE TABLE never_7 (a int)",
        "WITH x AS (DELETE FROM invoices RETURNING *) SELECT 'never-8' FROM x",
        "SELECT query /* never-9 */ FROM pg_stat_activity",
    ):
        said = gateway.refusal(text, job="narrow")
        assert "42501" in said and "DETAIL" in said and "HINT" in said, said
    assert not re.search(r"never[-_]\d", debian.log())
    assert gateway.answer("SELECT count(*) FROM invoices", job="narrow") == "50"


def test_a_refusal_names_the_rule_its_message_what_was_asked_and_what_to_do(gateway: Gateway) -> None:
    said = gateway.refusal("DROP TABLE invoices", at="guarded")
    assert re.search(r"ERROR: +42501: production-safety: Tables are not dropped\.", said)
    assert "drop table public.invoices" in said and "HINT" in said
    said = gateway.refusal("DELETE FROM invoices", at="guarded")
    assert "Say which rows." in said
    said = gateway.refusal("SELECT * FROM customers", job="narrow")
    assert "no-grant" in said and "public.customers" in said


def test_deny_beats_hold_and_hold_beats_allow(gateway: Gateway) -> None:
    said = gateway.refusal("SELECT public.fx_rate('EUR'); DROP TABLE public.invoices", at="guarded")
    assert "production-safety: Tables are not dropped" in said and "A-" not in said


def test_a_hold_widens_nothing(gateway: Gateway) -> None:
    """The guard would hold a call of fx_rate; without a grant it is refused, and nobody is asked."""
    before = len(json.loads(gateway.get("approvals", all=1, limit=1000)))
    assert "no-grant" in gateway.refusal("SELECT fx_rate('EUR')", job="narrow")
    assert len(json.loads(gateway.get("approvals", all=1, limit=1000))) == before


def test_after_a_refusal_the_session_and_what_was_said_before_live_on(gateway: Gateway) -> None:
    done = gateway.psql(stdin="SELECT 'one';\nDROP TABLE invoices;\nSELECT 'two';\n", at="guarded")
    assert "one" in done.stdout and "two" in done.stdout and "production-safety" in done.stderr


def test_a_refusal_inside_a_transaction_aborts_it_at_the_target_too(gateway: Gateway, debian: Cluster) -> None:
    script = """
        BEGIN;
        INSERT INTO invoices (customer_id, total) VALUES (1, 123456);
        DROP TABLE invoices;
        SELECT 'ignored';
        COMMIT;
        SELECT count(*) FROM invoices WHERE total = 123456;
    """
    done = gateway.psql("-At", stdin=script, at="guarded")
    assert "production-safety" in done.stderr
    assert "current transaction is aborted, commands ignored" in done.stderr
    assert done.stdout.split("\n")[-3:-1] == ["ROLLBACK", "0"]
    assert debian.sql("SELECT count(*) FROM invoices WHERE total = 123456").strip() == "0"


def test_a_savepoint_before_a_refusal_still_works(gateway: Gateway, debian: Cluster) -> None:
    script = """
        BEGIN;
        CREATE TABLE kept (a int);
        SAVEPOINT before;
        DROP TABLE invoices;
        ROLLBACK TO before;
        INSERT INTO kept VALUES (1);
        COMMIT;
    """
    done = gateway.psql(stdin=script, at="guarded")
    try:
        assert "production-safety" in done.stderr
        assert debian.sql("SELECT count(*) FROM kept").strip() == "1"
    finally:
        debian.sql("DROP TABLE IF EXISTS kept")


def test_a_refusal_in_a_pipeline_undoes_what_came_before_it_as_the_client_was_told(
    gateway: Gateway, debian: Cluster
) -> None:
    with psycopg.connect(gateway.conninfo("guarded"), password=gateway.token(), autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as caught, connection.pipeline():
            connection.execute("INSERT INTO invoices (customer_id, total) VALUES (1, 654321)")
            connection.execute("TRUNCATE invoices")
            connection.execute("INSERT INTO invoices (customer_id, total) VALUES (1, 654321)")
        assert caught.value.sqlstate == "42501" and "production-safety" in str(caught.value)
        row = connection.execute("SELECT count(*) FROM invoices WHERE total = 654321").fetchone()
        assert row == (0,)
    assert debian.sql("SELECT count(*) FROM invoices WHERE total = 654321").strip() == "0"
    assert "TRUNCATE invoices" not in debian.log()


def test_several_statements_in_one_message_are_judged_together(gateway: Gateway, debian: Cluster) -> None:
    said = gateway.refusal(
        "INSERT INTO invoices (customer_id, total) VALUES (1, 777777); DROP TABLE invoices", at="guarded"
    )
    assert "production-safety" in said and "VALUES (1, 777777)" not in debian.log()


# --- hold


@pytest.fixture
def held(gateway: Gateway) -> Iterator[Psql]:
    """A psql that waits for the approval of a call that no other test makes."""
    marker = f"run-{len(gateway.tokens)}"
    with gateway.waiting("-At", f"SELECT fx_rate('EUR'), '{marker}'", "SELECT 'lives on'", at="guarded") as psql:
        psql.marker = marker  # type: ignore[attr-defined]
        yield psql


def test_a_held_statement_waits_with_a_notice_and_runs_once_a_person_agreed(
    gateway: Gateway, debian: Cluster, held: Psql
) -> None:
    marker = held.marker  # type: ignore[attr-defined]
    name = held.approval()
    assert f"muniment approvals approve {name} --reason" in held.said() and "production-safety" in held.said()
    assert reached(debian, marker) == 0
    asked = approval(gateway, name)
    assert (asked["identity"], asked["target"], asked["rule"]) == ("wide", "guarded", "production-safety")
    assert marker in asked["statement"]
    done = gateway.decide(name, reason="OPS-7, looked at it")
    assert done.returncode == 0, done.stderr
    assert held.wait() == 0
    assert f"1.0|{marker}" in held.said() and "lives on" in held.said()
    assert reached(debian, marker) == 1
    record = gateway.record()
    assert all(word in record for word in (name, "grace", "OPS-7, looked at it", "production-safety"))
    one = approval(gateway, name)["history"]
    assert [each["decision"] for each in one] == ["approve", "use"] and all(each["index"] >= 0 for each in one)


def test_a_denied_statement_fails_with_the_reason_and_never_reaches_the_target(
    gateway: Gateway, debian: Cluster, held: Psql
) -> None:
    name = held.approval()
    assert gateway.decide(name, "deny", reason="not on a Friday").returncode == 0
    assert held.wait() == 0  # of the statement behind it: the session lives on
    assert "denied by grace: not on a Friday" in held.said() and "lives on" in held.said()
    assert reached(debian, held.marker) == 0  # type: ignore[attr-defined]
    record = gateway.record()
    assert "not on a Friday" in record and '"deny"' in record


def test_a_question_expires_and_the_client_is_told(gateway: Gateway, debian: Cluster) -> None:
    with gateway.waiting("ALTER TABLE events ADD COLUMN expired_one int", at="guarded") as psql:
        name = psql.approval()
        psql.says("nobody decided in time")
        assert psql.wait() == 1
    assert reached(debian, "expired_one") == 0
    assert approval(gateway, name)["state"] == "expired"
    assert gateway.decide(name).returncode == 1


def test_ctrl_c_withdraws_and_the_record_says_so(gateway: Gateway, debian: Cluster, held: Psql) -> None:
    name = held.approval()
    held.interrupt()
    held.says("canceling statement|withdrawn")
    held.wait()
    gateway.wait(lambda: approval(gateway, name)["state"] == "withdrawn", "did not withdraw")
    assert gateway.decide(name).returncode == 1
    assert reached(debian, held.marker) == 0  # type: ignore[attr-defined]
    assert '"withdraw"' in gateway.record()


def test_a_job_that_hung_up_finds_the_approval_on_its_retry_and_uses_it_once(gateway: Gateway, debian: Cluster) -> None:
    text = "SELECT fx_rate('USD'), 'retry-1'"
    with gateway.waiting(text, at="guarded") as psql:
        name = psql.approval()
        psql.process.kill()
    assert gateway.newest(ended=True)
    assert gateway.decide(name).returncode == 0
    assert gateway.answer(text, at="guarded") == "0.92|retry-1"
    assert reached(debian, "retry-1") == 1
    with gateway.waiting(text, at="guarded") as psql:  # used once: the next one asks anew
        assert psql.approval() != name


def test_an_approval_is_for_exactly_these_parameters(gateway: Gateway, debian: Cluster) -> None:
    text = "SELECT fx_rate(%s), 'parameters-1'"
    with psycopg.connect(gateway.conninfo("guarded"), password=gateway.token(), autocommit=True) as connection:
        names: list[str] = []
        connection.add_notice_handler(lambda notice: names.append(str(notice.message_primary)))
        for value in ("EUR", "USD"):
            with psycopg.connect(gateway.conninfo("guarded"), password=gateway.token()) as away:
                away.add_notice_handler(lambda notice: names.append(str(notice.message_primary)))
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="A-"):
                    away.execute("SELECT 1")  # opens a transaction: a hold does not wait inside one
                    away.execute(text, (value,))
        asked = [one for one in json.loads(gateway.get("approvals")) if "parameters-1" in one["statement"]]
        by_value = {one["id"]: one["parameters"] for one in asked}
        assert len(by_value) == 2
        euro = next(name for name, parameters in by_value.items() if "EUR" in json.dumps(parameters))
        assert gateway.decide(euro).returncode == 0
        assert connection.execute(text, ("EUR",)).fetchone() == (1, "parameters-1")
    assert reached(debian, "parameters-1") == 1


def test_a_hold_inside_a_transaction_is_refused_with_the_approvals_id(gateway: Gateway, debian: Cluster) -> None:
    done = gateway.psql(stdin="BEGIN;\nSELECT fx_rate('EUR'), 'inside-1';\nROLLBACK;\n", at="guarded")
    assert re.search(r"Approval A-\S+ is asked for; a hold does not wait inside a transaction", done.stderr)
    assert reached(debian, "inside-1") == 0


def test_two_people_must_agree_where_the_rule_says_so_and_one_twice_is_one(gateway: Gateway, debian: Cluster) -> None:
    with gateway.waiting("UPDATE invoices SET issued_on = issued_on /* two-1 */", at="guarded") as psql:
        name = psql.approval()
        assert gateway.decide(name, person="grace").returncode == 0
        assert gateway.decide(name, person="grace").returncode == 1
        assert psql.process.poll() is None and reached(debian, "two-1") == 0
        assert gateway.decide(name, person="ivan").returncode == 0
        assert psql.wait() == 0
    assert reached(debian, "two-1") == 1


def test_neither_the_identitys_owner_nor_the_requester_nor_a_stranger_may_approve(
    gateway: Gateway, debian: Cluster, held: Psql
) -> None:
    name = held.approval()
    owner = gateway.decide(name, person="ada")
    assert owner.returncode == 1 and "owns 'wide'" in owner.stderr
    requester = gateway.decide(name, person="hana")
    assert requester.returncode == 1 and "requester" in requester.stderr
    stranger = gateway.decide(name, person="stranger")
    assert stranger.returncode == 1 and "error" in stranger.stderr
    assert approval(gateway, name)["state"] == "waiting" and held.process.poll() is None
    assert reached(debian, held.marker) == 0  # type: ignore[attr-defined]


def test_watch_prints_a_question_as_it_comes(gateway: Gateway, held: Psql) -> None:
    name = held.approval()
    done = gateway.cli("approvals", "watch", "--once")
    assert done.returncode == 0 and name in done.stdout + gateway.cli("approvals", "list").stdout


def test_dropping_a_database_is_held_and_then_done(gateway: Gateway, debian: Cluster) -> None:
    debian.sql("CREATE DATABASE scratch OWNER billing_admin")
    with gateway.waiting("DROP DATABASE scratch", at="guarded") as psql:
        name = psql.approval()
        assert debian.sql("SELECT count(*) FROM pg_database WHERE datname = 'scratch'").strip() == "1"
        gateway.decide(name)
        assert psql.wait() == 0
    assert debian.sql("SELECT count(*) FROM pg_database WHERE datname = 'scratch'").strip() == "0"


# --- rules that change


def test_a_change_of_rules_cuts_within_a_second_only_those_it_no_longer_allows(
    debian: Cluster, gateway: Gateway
) -> None:
    directory = gateway.directory / "changing"
    with made(directory, "grace") as own:
        own.start()
        base = [rules.issuer(own.issuer.url), rules.target("plain", debian, "report_trust", None)]
        jobs = [rules.identity(name) for name in ("one", "two")]
        grants = [
            rules.grant(f"{name}-reads", name, "plain", "report_trust", rules.INVOICES) for name in ("one", "two")
        ]
        own.apply([*base, *jobs, *grants])
        with (
            psycopg.connect(own.conninfo(job="one"), password=own.token("one"), autocommit=True) as one,
            psycopg.connect(own.conninfo(job="two"), password=own.token("two"), autocommit=True) as two,
        ):
            assert one.execute("SELECT count(*) FROM invoices").fetchone() == (50,)
            assert two.execute("SELECT count(*) FROM invoices").fetchone() == (50,)
            said = own.apply([*base, *jobs, grants[0]], "--prune")
            assert "two-reads" in said.stdout
            assert until(lambda: broken(two), 1.0), "the session that is no longer allowed lives on"
            assert one.execute("SELECT count(*) FROM invoices").fetchone() == (50,)
        closed = {row["identity"]: row for row in own.sessions()}
        assert "no grant in force" in own.record(str(closed["two"]["ses"]))
        assert "login refused" in own.psql("SELECT 1", job="two").stderr
        tighter = rules.grant("one-reads", "one", "plain", "report_trust", {"verbs": ["select"], "resources": ["a.b"]})
        with psycopg.connect(own.conninfo(job="one"), password=own.token("one"), autocommit=True) as one:
            own.apply([*base, *jobs, tighter], "--prune")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):  # judged by the new rules, in the old session
                one.execute("SELECT count(*) FROM invoices")


def broken(connection: psycopg.Connection[Any]) -> bool:
    """Whether the other side has ended it."""
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_an_apply_with_problems_changes_nothing_and_names_them_all_with_file_and_line(gateway: Gateway) -> None:
    folder = gateway.directory / "wrong"
    folder.mkdir(exist_ok=True)
    (folder / "a.yaml").write_text(
        rules.text(
            [
                rules.grant("bad", "nobody", "none", "x", rules.INVOICES),
                rules.document("Identity", "worse", {"kind": "pet", "preset": "x"}),
                rules.document("Retention", "later", {}),
            ]
        )
    )
    before = gateway.asked("status")["rules_version"]
    done = gateway.cli("apply", "-f", str(folder))
    assert done.returncode == 1
    for word in ("a.yaml:", "nobody", "none", "pet", "Retention", "not in force", "problems; nothing was changed"):
        assert word in done.stderr, done.stderr
    assert gateway.asked("status")["rules_version"] == before
