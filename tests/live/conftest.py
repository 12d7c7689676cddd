"""Real servers, one of each for the whole run. A test asks for a fixture by name and never starts a server itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.live import gateway as gateway_process
from tests.live import rules, servers
from tests.live.servers import Bouncer, Build, Cluster, Missing


def _cluster(build: Build) -> Iterator[Cluster]:
    with servers.running(build) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def debian() -> Iterator[Cluster]:
    """Debian's PostgreSQL with TLS, every kind of login and the billing database."""
    try:
        build = servers.debian()
    except Missing as absent:
        missing(absent)
    yield from _cluster(build)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Cluster]:
    """The wheel's PostgreSQL (18), without TLS, with the same logins and billing database."""
    try:
        build = servers.embedded()
    except Missing as absent:
        missing(absent)
    yield from _cluster(build)


@pytest.fixture(scope="session")
def bouncer(debian: Cluster) -> Iterator[Bouncer]:
    """PgBouncer in session mode in front of Debian's PostgreSQL."""
    try:
        running = servers.start_bouncer(debian)
    except Missing as absent:
        missing(absent)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(params=["debian", "embedded"], scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each of the two PostgreSQL versions in turn."""
    found: Cluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file ROLE.secret for each of the target's logins."""
    folder = tmp_path_factory.mktemp("secrets")
    for role in servers.PASSWORDS:
        gateway_process.secret_file(folder, role)
    return folder


@pytest.fixture(scope="session")
def gateway(
    debian: Cluster, secrets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[gateway_process.Gateway]:
    """The real gateway before Debian's PostgreSQL under `rules.world`. A test that changes rules starts its own."""
    with gateway_process.made(tmp_path_factory.mktemp("gateway"), "grace", "ada", "hana", "ivan", "stranger") as made:
        made.start()
        made.apply(rules.world(made.issuer.url, debian, secrets, made.people))
        yield made
