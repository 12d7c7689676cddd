"""What the store's tests share: real keys and an empty evidence directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from muniment.store.keys import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.open(tmp_path / "keys")


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    return tmp_path / "evidence"
