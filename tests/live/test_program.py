"""The program as its operators meet it: starts that fail with a mend, manifests, the API by TCP, own certificates."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.live import rules, servers
from tests.live.certificates import authority, certificate
from tests.live.gateway import PROGRAM, Gateway, made, until
from tests.live.servers import HOST, Cluster
from tests.live.test_control import broken


@pytest.fixture(scope="module")
def house(debian: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose rules are a directory, with a certificate of somebody's own CA, and an API by TCP."""
    folder = tmp_path_factory.mktemp("program")
    manifests = folder / "manifests.d"
    manifests.mkdir()
    ca = authority(folder, "company-ca")
    cert, key = certificate(ca, folder, "company", ("localhost", HOST))
    api = f"{HOST}:{servers.free_port()}"
    more: dict[str, Any] = {
        "manifests": str(manifests),
        "listen": {"api": api},
        "tls": {"cert": str(cert), "key": str(key)},
    }
    with made(folder, **more) as gateway:
        (manifests / "rules.yaml").write_text(rules.text(base(gateway, debian)))
        gateway.start()
        yield gateway


def base(gateway: Gateway, cluster: Cluster, *jobs: str) -> list[rules.Document]:
    found = [rules.issuer(gateway.issuer.url), rules.target("plain", cluster, "report_trust", None)]
    for job in jobs or ("one", "two"):
        found += [rules.identity(job), rules.grant(f"{job}-reads", job, "plain", "report_trust", rules.INVOICES)]
    return found


def by_tcp(house: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command over TCP with the token's file."""
    token, api = house.store / "api.token", house.settings["listen"]["api"]
    return subprocess.run(
        [*PROGRAM, "--api", api, "--token-file", str(token), *arguments], capture_output=True, text=True, timeout=60,
        cwd="/", env=servers.client_environment(),
    )  # fmt: skip


def test_a_certificate_of_ones_own_is_shown_to_clients(house: Gateway) -> None:
    right = str(house.directory / "company-ca.pem")
    assert house.answer("SELECT count(*) FROM invoices", job="one", sslrootcert=right) == "50"
    assert not house.ca.exists()


def test_the_api_by_tcp_wants_its_token(house: Gateway) -> None:
    assert "rules      version" in by_tcp(house, "status").stdout
    address = f"http://{house.settings['listen']['api']}/v1/status"
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert httpx.get(address, headers=headers, trust_env=False).status_code == 401
    assert (house.store / "api.token").stat().st_mode & 0o777 == 0o600


def test_a_directory_of_manifests_is_the_only_truth_and_is_followed_within_a_second(
    house: Gateway, debian: Cluster
) -> None:
    path = house.directory / "manifests.d" / "rules.yaml"
    right = str(house.directory / "company-ca.pem")
    assert "only truth" in by_tcp(house, "apply", "-f", str(path)).stderr

    def connect(job: str) -> psycopg.Connection[tuple[int]]:
        return psycopg.connect(house.conninfo(job=job, sslrootcert=right), password=house.token(job), autocommit=True)

    with connect("one") as one, connect("two") as two:
        path.write_text(rules.text(base(house, debian, "one")))
        assert until(lambda: broken(two), 3.0)  # polled each second, and cut within one more
        assert one.execute("SELECT 1").fetchone() == (1,)
        path.write_text(rules.text(base(house, debian, "one")) + "---\nkind: Grant\nmetadata: [broken\n")
        house.wait(lambda: "manifests are broken" in by_tcp(house, "status").stdout, "did not say what is broken")
        assert "rules.yaml:" in by_tcp(house, "status").stdout
        assert one.execute("SELECT count(*) FROM invoices").fetchone() == (50,)  # the last good version stays
    path.write_text(rules.text(base(house, debian)))
    house.wait(lambda: by_tcp(house, "status").returncode == 0, "did not take the mended file")
    assert house.answer("SELECT 1", job="two", sslrootcert=right) == "1"


def test_what_is_in_force_is_listed_and_shown(gateway: Gateway) -> None:
    assert "narrow" in gateway.cli("identities", "list").stdout
    shown = gateway.asked("grants", "show", "narrow-at-plain")
    assert "public.invoices" in str(shown)
    targets = gateway.cli("targets", "list").stdout
    assert "guarded" in targets and "billing" in targets
    assert gateway.cli("targets", "show", "nosuch").returncode == 1
    done = gateway.cli("nosuch")
    assert done.returncode == 2


def test_versions_are_told_in_words_kept_over_a_restart_and_removed_only_with_prune(
    debian: Cluster, tmp_path: Path
) -> None:
    with made(tmp_path / "versions") as own:
        own.start()
        own.apply(base(own, debian))
        changed = base(own, debian, "one")
        changed[-1]["spec"]["allow"] = [{"verbs": ["select", "insert"], "resources": ["public.invoices"]}]
        said = own.apply(changed).stdout
        assert "Grant/one-reads" in said and "insert" in said
        assert len(own.asked("grants", "list")) == 2  # two-reads stays
        dry = own.apply(changed, "--prune", "--dry-run").stdout
        assert "two-reads" in dry and len(own.asked("grants", "list")) == 2
        own.apply(changed, "--prune")
        assert [one["name"] for one in own.asked("grants", "list")] == ["one-reads"]
        own.restart()
        assert own.asked("status")["rules_version"] == 3
        assert own.answer("INSERT INTO invoices (customer_id, total) VALUES (1, 1) RETURNING 'in'", job="one")
        debian.sql("DELETE FROM invoices WHERE id > 50")
        assert own.stop() == 0 and own.verify().returncode == 0


def test_what_the_gateway_keeps_is_for_its_own_user_alone(gateway: Gateway) -> None:
    for path in gateway.store.rglob("*"):
        mode = path.stat().st_mode & 0o777
        assert not mode & 0o077, f"{path}: {mode:o}"
    assert gateway.api.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deployment: Not A Host\nstore: x\nlisten: {postgres: nonsense}\n", r"muniment.yaml:1.*mend.*yaml:3.*mend"),
        ("deployment: localhost\nstore: x\nlisten: {ssh: ':22'}\n", r"yaml:3: `ssh` is not in force"),
        ("deployment: \udcff\n", r"not UTF-8"),
        ("store: x\n", r"deployment"),
        ("deployment: [\n", r"muniment.yaml:\d"),
        ("deployment: localhost\nstore: /proc/none/store\nlisten: {postgres: none}\n", r"/proc/none"),
    ],
    ids=["wrong words", "a later word", "not UTF-8", "a missing word", "no YAML", "a store that cannot be"],
)
def test_a_start_that_cannot_be_says_what_to_mend(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "muniment.yaml"
    config.write_bytes(text.encode(errors="surrogateescape"))
    done = subprocess.run(
        [*PROGRAM, "serve", "-c", str(config)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert re.search(said, done.stderr, re.DOTALL), done.stderr


def test_a_port_that_is_taken_and_a_store_that_is_in_use_are_said(gateway: Gateway, tmp_path: Path) -> None:
    for store, port in ((tmp_path / "other", gateway.port), (gateway.store, servers.free_port())):
        config = tmp_path / "muniment.yaml"
        config.write_text(f"deployment: localhost\nstore: {store}\nlisten: {{postgres: '{HOST}:{port}'}}\n")
        done = subprocess.run(
            [*PROGRAM, "serve", "-c", str(config)], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert str(port) in done.stderr or "in use" in done.stderr or "another" in done.stderr, done.stderr
    assert gateway.answer("SELECT 1") == "1"


def test_serve_never_starts_the_demos_issuer(gateway: Gateway) -> None:
    own = [path.read_bytes() for path in Path("/proc").glob(f"{gateway.pid}/task/*/comm")]
    assert b"demo issuer\n" not in own and os.getpid() != gateway.pid
    modules = subprocess.run(
        [*PROGRAM[:1], "-X", "importtime", "-c", "import muniment.app"], capture_output=True, text=True, timeout=60
    )
    assert "muniment.demo" not in modules.stderr and "muniment.app" in modules.stderr
