"""What the demo writes is what the gateway takes, and its database lets in only who has the password."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from muniment.demo import cluster, manifests, play, stage
from muniment.judge import manifests as documents
from muniment.judge.settings import read_settings
from muniment.model.errors import Unavailable

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA grace@example.org"


def _texts() -> str:
    return manifests.manifests(
        issuer="http://127.0.0.1:8800", database_port=5433, port=15432, password_file="/run/demo", key=KEY
    )


def test_the_manifests_have_no_problem_and_every_kind_is_there() -> None:
    rules = documents.parse([("billing.yaml", _texts())], time.time_ns() // 1000)
    for found in (
        rules.issuers,
        rules.identities,
        rules.targets,
        rules.grants,
        rules.guards,
        rules.masks,
        rules.persons,
    ):
        assert len(found) == 1


def test_the_settings_have_no_problem_and_listen_on_no_shared_port() -> None:
    found = read_settings("muniment.yaml", manifests.settings(store="/tmp/x", api="/tmp/x.sock"))
    assert (found.deployment, found.postgres_port, found.api) == (manifests.CLAIMS["aud"], -1, "unix:/tmp/x.sock")
    assert found.plain_on_loopback


def test_what_must_stay_hidden_stands_in_the_database() -> None:
    digits = re.sub("[ -]", "", manifests.DATABASE)
    for value in manifests.HIDDEN:
        assert value in manifests.DATABASE or value.replace("-", "").replace(" ", "") in digits


def test_the_lines_to_paste_name_both_files() -> None:
    lines = "\n".join(play.ready_lines(Path("/demo/job"), Path("/demo/grace")))
    assert "  . /demo/job" in lines and "  . /demo/grace" in lines


def test_a_psql_that_is_not_there_is_told() -> None:
    with pytest.raises(Unavailable, match="does not run"):
        stage.look_at("/nowhere/psql")


def test_the_database_takes_the_right_password_and_no_other() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        scratch.chmod(0o711)
        server = cluster.start(scratch / "pg", scratch)
        try:
            server.load("CREATE ROLE somebody LOGIN PASSWORD 'right-canary'", cluster.SUPERUSER)
            assert server.sql("SHOW listen_addresses") == cluster.HOST
            assert server.sql("SELECT rolpassword ~ '^SCRAM-SHA-256' FROM pg_authid WHERE rolname = 'somebody'") == "t"
            assert _login(server, "right-canary") == 0
            assert _login(server, "wrong") != 0
            assert _login(server, "", user=cluster.SUPERUSER) != 0
        finally:
            server.stop()
        assert server.process.returncode == 0


def _login(server: cluster.Cluster, password: str, user: str = "somebody") -> int:
    where = f"host={cluster.HOST} port={server.port} user={user} dbname=postgres"
    command = [str(server.programs.bin / "psql"), "-Xw", "-d", where, "-c", "SELECT 1"]
    done = subprocess.run(
        command, env=cluster.clean_environment() | {"PGPASSWORD": password}, capture_output=True, timeout=30
    )
    return done.returncode


def test_a_process_that_does_not_want_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "STOP_S", 0.3)
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], stdout=subprocess.PIPE
    )
    assert stubborn.stdout is not None and stubborn.stdout.readline() == b"up\n"
    cluster.end(stubborn, signal.SIGTERM)
    assert stubborn.returncode == -signal.SIGKILL
    stubborn.stdout.close()
