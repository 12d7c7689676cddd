"""Targets as they are found: TLS in four modes, four kinds of login, secrets from {env} and {file}, and none at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.live import rules, servers
from tests.live.certificates import authority
from tests.live.gateway import ENVIRONMENT, Gateway, made, until
from tests.live.servers import HOST, PASSWORDS, Cluster

ELSEWHERE = "127.0.0.2"  # leads to the same server, whose certificate does not carry it
CANARY = "wrong-canary-6a1d"


@contextlib.contextmanager
def forwarding(to: int) -> Iterator[int]:
    """A port at ELSEWHERE that leads to a port at HOST."""

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((HOST, to), 5)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server((ELSEWHERE, 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def targets(
    debian: Cluster, embedded: Cluster, secrets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """One gateway with every kind of target, each named after what is tried with it."""
    assert debian.ca is not None
    right, folder = str(debian.ca.pem), tmp_path_factory.mktemp("targets")
    wrong = str(authority(secrets, "another-ca").pem)
    for name, text in (("wrong", CANARY), ("empty", ""), ("changing", PASSWORDS["report_ro"])):
        (secrets / f"{name}.secret").write_text(text)
    silent, closed = socket.create_server((HOST, 0)), servers.free_port()
    with forwarding(debian.port) as elsewhere, made(folder, sessions={"login": "3s"}) as gateway, silent:
        moved: dict[str, object] = {"address": f"{ELSEWHERE}:{elsewhere}"}
        silence: dict[str, object] = {"address": f"{HOST}:{silent.getsockname()[1]}"}
        modes: dict[str, tuple[dict[str, object], str | None]] = {
            "disable": ({}, None),
            "require": ({}, None),
            "require-wrong-ca": (moved, None),
            "verify-ca": ({}, right),
            "verify-ca-elsewhere": (moved, right),
            "verify-ca-wrong-ca": ({}, wrong),
            "verify-full": ({}, right),
            "verify-full-elsewhere": (moved, right),
            "verify-full-wrong-ca": ({}, wrong),
            "verify-full-default": ({}, None),
        }
        found: dict[str, tuple[Cluster, str, Path | str | None, dict[str, object]]] = {}
        for name, (more, ca) in modes.items():
            mode = next(mode for mode in ("disable", "require", "verify-ca", "verify-full") if name.startswith(mode))
            tls = {"mode": mode} | ({"ca": {"file": ca}} if ca else {})
            role = "report_ro" if mode == "disable" else "report_tls"
            found[name] = (debian, role, secrets / f"{role}.secret", {"tls": tls} | more)
        for role in ("report_ro", "report_md5", "report_clear"):
            found[role.replace("_", "-")] = (debian, role, secrets / f"{role}.secret", {})
            found[f"{role.replace('_', '-')}-wrong"] = (debian, role, secrets / "wrong.secret", {})
        found |= {
            "trust": (debian, "report_trust", None, {}),
            "few": (debian, "report_trust", None, {"limits": {"connections": 2}}),
            "by-env": (debian, "report_ro", "LIVE_REPORT_RO", {}),
            "no-env": (debian, "report_ro", "LIVE_NOT_SET", {}),
            "no-file": (debian, "report_ro", secrets / "not-there.secret", {}),
            "empty-file": (debian, "report_ro", secrets / "empty.secret", {}),
            "changing": (debian, "report_ro", secrets / "changing.secret", {}),
            "newest": (embedded, "report_ro", secrets / "report_ro.secret", {}),
            "without-tls": (embedded, "report_ro", secrets / "report_ro.secret", {"tls": {"mode": "require"}}),
            "closed": (debian, "report_trust", None, {"address": f"{HOST}:{closed}"}),
            "silent": (debian, "report_trust", None, silence),
            "unknown-host": (debian, "report_trust", None, {"address": "db.invalid:5432"}),
        }
        documents = [rules.issuer(gateway.issuer.url), rules.identity("wide")]
        for name, (cluster, role, secret, spec) in found.items():
            documents.append(rules.target(name, cluster, role, secret, **spec))
            documents.append(rules.grant(f"at-{name}", "wide", name, role, rules.INVOICES, databases=["*"]))
        gateway.start()
        gateway.apply(documents)
        yield gateway


WORKS = (
    "disable", "require", "require-wrong-ca", "verify-ca", "verify-ca-elsewhere", "verify-full", "report-ro",
    "report-md5", "report-clear", "trust", "by-env", "newest",
)  # fmt: skip


@pytest.mark.parametrize("at", WORKS)
def test_a_session_opens_at_a_target_of_this_kind(targets: Gateway, at: str) -> None:
    assert targets.answer("SELECT count(*) FROM invoices", at=at) == "50"
    found = targets.shown()["target"]
    assert bool(found.get("tls")) == at.startswith(("require", "verify"))
    if found.get("tls"):
        assert found["tls"].startswith("TLSv1.3")


REFUSED = {
    "verify-ca-wrong-ca": "certificate",
    "verify-full-wrong-ca": "certificate",
    "verify-full-default": "certificate",
    "verify-full-elsewhere": "certificate",
    "without-tls": "does not speak TLS",
    "report-ro-wrong": "refused the gateway's login",
    "report-md5-wrong": "refused the gateway's login",
    "report-clear-wrong": "refused the gateway's login",
    "no-env": "LIVE_NOT_SET",
    "no-file": "not-there.secret",
    "empty-file": "empty",
    "closed": "cannot be reached",
    "unknown-host": "cannot be reached",
}


@pytest.mark.parametrize(("at", "logged"), REFUSED.items(), ids=REFUSED.keys())
def test_a_target_that_is_not_as_it_should_be_is_refused_clearly(targets: Gateway, at: str, logged: str) -> None:
    before = len(targets.log())
    done = targets.psql("SELECT 1", at=at)
    assert done.returncode == 2 and "FATAL" in done.stderr
    assert "target" in done.stderr or "secret" in done.stderr
    targets.wait(lambda: logged in targets.log()[before:], "logged no reason")
    for secret in (*PASSWORDS.values(), CANARY):
        assert not secret or secret not in done.stderr + targets.log()


def test_the_client_learns_nothing_of_where_and_how_the_target_is_reached(targets: Gateway, secrets: Path) -> None:
    for at in ("no-file", "no-env", "report-ro-wrong", "unknown-host", "verify-full-elsewhere"):
        said = targets.psql("SELECT 1", at=at).stderr
        assert "target" in said
        for word in (str(secrets), "LIVE_NOT_SET", "report_ro", "db.invalid", ELSEWHERE):
            assert word not in said, said


def test_a_target_that_says_nothing_does_not_hold_a_client_beyond_the_login_deadline(targets: Gateway) -> None:
    done = targets.psql("SELECT 1", at="silent")  # psql itself would wait 10 s
    assert done.returncode == 2 and "timeout expired" not in done.stderr


def test_a_target_is_spared_more_connections_than_its_limit(targets: Gateway) -> None:
    with psycopg.connect(targets.conninfo("few"), password=targets.token()) as one, contextlib.ExitStack() as stack:
        one.execute("SELECT 1")
        while (done := targets.psql("SELECT 1", at="few")).returncode == 0:  # the gateway's own reading counts or not
            more = psycopg.connect(targets.conninfo("few"), password=targets.token())
            stack.enter_context(more)
            assert len(targets.sessions(target="few")) < 9, "there is no limit"
        assert "FATAL" in done.stderr
    assert until(lambda: targets.psql("SELECT 1", at="few").returncode == 0)


def test_a_secret_that_was_changed_is_used_by_the_next_session(
    targets: Gateway, debian: Cluster, secrets: Path
) -> None:
    assert targets.answer("SELECT 1", at="changing") == "1"
    try:
        (secrets / "changing.secret").write_text(CANARY)
        assert targets.psql("SELECT 1", at="changing").returncode == 2
    finally:
        (secrets / "changing.secret").write_text(PASSWORDS["report_ro"])
    assert targets.answer("SELECT 1", at="changing") == "1"


def test_a_role_and_a_database_that_do_not_exist_are_the_targets_own_errors(targets: Gateway) -> None:
    assert 'database "nosuch" does not exist' in targets.psql("SELECT 1", at="trust", dbname="nosuch").stderr


def test_no_secret_of_a_target_is_in_any_file_of_the_gateway(targets: Gateway) -> None:
    targets.answer("SELECT 1", at="report-clear")
    for secret in (*(one for one in PASSWORDS.values() if one), CANARY, *ENVIRONMENT.values()):
        assert targets.files_with(secret) == []
