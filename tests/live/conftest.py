"""Real servers, one of each for the whole run. A test asks for a fixture by name and never starts a server itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import missing
from tests.live import servers
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
