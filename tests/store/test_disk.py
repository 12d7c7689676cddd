from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.model.errors import Unavailable
from muniment.store import disk
from muniment.store.disk import Level


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (1.0, Level.FINE),
        (0.20, Level.FINE),
        (0.1999, Level.ALARM),
        (0.10, Level.ALARM),
        (0.0999, Level.NO_NEW_SESSIONS),
        (0.0, Level.NO_NEW_SESSIONS),
    ],
)
def test_the_levels_are_an_alarm_at_twenty_and_no_sessions_at_ten_percent(free: float, expected: Level) -> None:
    assert disk.level(free) is expected


@given(st.floats(0, 1), st.floats(0, 1))
def test_less_room_never_allows_more(one: float, other: float) -> None:
    assert disk.level(min(one, other)) >= disk.level(max(one, other))


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_fraction_is_always_between_none_and_all(free: int, used: int) -> None:
    assert 0.0 <= disk.fraction(free, used) <= 1.0


def test_a_file_system_that_does_not_count_inodes_is_not_full() -> None:
    assert disk.fraction(0, 0) == 1.0


def test_a_real_directory_has_a_fraction_and_a_missing_one_is_not_taken_for_free(tmp_path: Path) -> None:
    assert 0.0 <= disk.free_fraction(tmp_path) <= 1.0
    with pytest.raises(Unavailable, match="cannot measure"):
        disk.free_fraction(tmp_path / "gone")
