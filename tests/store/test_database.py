"""The database: its migrations give exactly the declared tables, and its transactions are real."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text

from muniment.model.errors import Unavailable
from muniment.store.database import Database, api_keys, metadata

KEY = {"id": "k1", "identity": "a", "hash": b"\0\1", "created_us": 1, "expires_us": 1 << 52, "revoked_us": 0}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(tmp_path / "muniment.db")
    made.upgrade()
    return made


def test_the_migrations_give_exactly_the_declared_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(insert(api_keys), KEY)
    database.upgrade()
    with database.read() as connection:
        assert connection.execute(select(api_keys.c.expires_us)).scalar_one() == 1 << 52


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.begin() as connection:
        connection.execute(insert(api_keys), KEY)
        raise RuntimeError
    with database.read() as connection:
        assert connection.execute(select(api_keys)).all() == []


def test_a_reader_does_not_wait_for_a_writer_and_sees_what_was_committed(database: Database) -> None:
    with database.begin() as writer:
        writer.execute(insert(api_keys), KEY)
        with database.read() as reader:
            assert reader.execute(select(api_keys)).all() == []


def test_the_file_keeps_what_was_committed_through_a_power_cut(database: Database) -> None:
    with database.read() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2  # FULL


def test_only_the_gateways_own_user_can_read_the_file(tmp_path: Path) -> None:
    made = Database(tmp_path / "muniment.db")
    made.upgrade()
    with made.begin() as connection:
        connection.execute(insert(api_keys), KEY)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_failure_is_said_without_the_values_that_were_sent(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(insert(api_keys), KEY)
    with pytest.raises(Unavailable) as caught, database.begin() as connection:
        connection.execute(insert(api_keys), {**KEY, "identity": "canary-value"})
    assert "canary-value" not in str(caught.value)


def test_a_file_that_a_newer_release_has_used_is_refused(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="newer release"):
        database.upgrade()


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Database(tmp_path / "none" / "muniment.db").upgrade()
