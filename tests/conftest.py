"""What every test runs under: markers by folder, one hypothesis profile, and no skip that passes for a success."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

LIVE = Path(__file__).parent / "live"

# Deadlines measure the machine, not the code. Under CI the examples are the same in every run.
hypothesis.settings.register_profile("here", deadline=None, max_examples=100)
hypothesis.settings.register_profile("always-same", parent=hypothesis.settings.get_profile("here"), derandomize=True)
hypothesis.settings.load_profile("always-same" if os.environ.get("CI") else "here")


def missing(what: object) -> NoReturn:
    """End a test whose real server or client is not installed: a failure under CI, a skip at a developer's desk."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (with CI set, a missing server is a failure)", pytrace=False)
    pytest.skip(str(what))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything under tests/live, so that `-m "not live"` needs no server."""
    for item in items:
        if LIVE in item.path.parents:
            item.add_marker("live")
