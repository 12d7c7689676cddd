"""The gateway's own database: one SQLite file in the data directory, written so that PostgreSQL can follow.

Home of SQLAlchemy and Alembic. Everything here can be lost and the evidence still verifies; what must survive a power
cut (approvals, keys, versions) is committed with full synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError

from muniment.model.errors import Unavailable

BUSY_MS = 10_000  # how long a writer waits for another one before the work is refused
MIGRATIONS = Path(__file__).parent / "migrations"

metadata = MetaData()

manifests = Table(
    "manifests",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("text", Text, nullable=False),  # canonical JSON of the document; empty where removed
    Column("file", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("removed", Boolean, nullable=False),
    Column("leaf", Text, nullable=False),
    Column("applied_us", BigInteger, nullable=False),
    comment="one row for each document that an apply changed",
)

applies = Table(
    "applies",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("leaf", Text, nullable=False),
    Column("by", Text, nullable=False),  # asserted
    Column("t_us", BigInteger, nullable=False),
    comment="the numbered versions of the whole set",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("identity", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("revoked_us", BigInteger, nullable=False, default=0),  # 0: not revoked
    comment="API keys, hashed; the key itself is shown once and kept nowhere",
)
Index("api_keys_identity", api_keys.c.identity)

logins = Table(
    "logins",
    metadata,
    Column("reference", Text, primary_key=True),
    Column("t_us", BigInteger, nullable=False),
    Column("target", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("checks", Text, nullable=False),  # JSON: [{"name","passed","got","want","mend"}]
    comment="refused logins by the reference that the client was given",
)
Index("logins_t", logins.c.t_us)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),  # waiting | approved | used | denied | expired | withdrawn
    Column("bound", Text, nullable=False),
    Column("ses", Text, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("identity", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("initiator", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("database", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("approvers", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("question", Text, nullable=False),
    Column("statement", Text, nullable=False),  # emptied when the question is closed: the sealed payload keeps it
    Column("parameters", Text, nullable=False),  # JSON, emptied likewise
    Column("asked_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("closed_us", BigInteger, nullable=False, default=0),
    Column("leaf", Text, nullable=False),  # of the question
    Column("decided_leaf", Text, nullable=False, default=""),  # of the decision that settled it
    Column("used_ses", Text, nullable=False, default=""),
    Column("used_n", BigInteger, nullable=False, default=0),
    comment="questions put to people, and what became of them",
)
Index("approvals_bound", approvals.c.bound, approvals.c.state)
Index("approvals_ses", approvals.c.ses)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("approval", Text, nullable=False),
    Column("decision", Text, nullable=False),  # approve | deny | expire | withdraw | use
    Column("person", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ses", Text, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("t_us", BigInteger, nullable=False),
    Column("leaf", Text, nullable=False),
    comment="everything that happened to a question, in order",
)
Index("decisions_approval", decisions.c.approval)

sessions = Table(
    "sessions",
    metadata,
    Column("ses", Text, primary_key=True),
    Column("inst", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("database", Text, nullable=False),
    Column("initiator", Text, nullable=False),
    Column("initiator_id", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("opened_us", BigInteger, nullable=False),
    Column("closed_us", BigInteger, nullable=False, default=0),  # 0: open, or never seen to close
    Column("reason", Text, nullable=False, default=""),
    Column("requests", BigInteger, nullable=False, default=0),
    Column("first_index", BigInteger, nullable=False),
    Column("first_offset", BigInteger, nullable=False),  # byte place of session.open in log/records.jsonl
    Column("last_offset", BigInteger, nullable=False, default=0),  # behind session.close; 0: not closed
    comment="derived from the log: one row a session",
)
Index("sessions_opened", sessions.c.opened_us)
Index("sessions_identity", sessions.c.identity)

uses = Table(
    "uses",
    metadata,
    Column("ses", Text, primary_key=True),
    Column("touch", Text, primary_key=True),  # "verb kind name"
    Column("decision", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    comment="derived from the log: what a session asked for, counted",
)
Index("uses_touch", uses.c.touch)

marks = Table(
    "marks",
    metadata,
    Column("leaf", Text, primary_key=True),
    Column("index", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    comment="derived from the log: where a leaf is (not requests and responses: those are found by session)",
)

position = Table(
    "position",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("next_index", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("tail", Text, nullable=False),  # leaf hash of the last line read
    comment="how far the derived tables have read log/records.jsonl",
)


class Database:
    """One database. where: a file's path, or a URL. Callers on an event loop use it through a thread."""

    def __init__(self, where: str | Path) -> None:
        text = str(where)
        url = text if "://" in text else f"sqlite:///{text}"
        self.engine: Engine = create_engine(url)
        self._path = None if "://" in text else Path(text)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _sqlite_connected)
            event.listen(self.engine, "begin", _sqlite_begins)

    def upgrade(self) -> None:
        """Bring the tables to this release's form. Raises Unavailable when the file is newer than this program."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            if self._path is not None:
                self._path.touch(mode=0o600)  # an open question's text is in it: for the gateway's user only
            with self.engine.connect() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
        except (SQLAlchemyError, CommandError, OSError) as failure:
            raise Unavailable(
                f"the database cannot be brought to this release's form: {failure}",
                "check that its folder is writable and that no newer release has used it",
            ) from failure

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back by an exception. Database failures are Unavailable.

        On SQLite it holds the write lock from its first word, so that what it reads stays true until it commits.
        """
        with _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: it sees one state of everything and waits for nobody."""
        with _translated(), self.engine.connect().execution_options(muniment_reads=True) as connection:
            yield connection

    def close(self) -> None:
        """Let go of the file."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as failure:
        # str(failure) may hold values: the class of the driver's own error is all that is safe to say
        cause = getattr(failure, "orig", None) or failure
        raise Unavailable(
            f"the gateway's database failed ({cause.__class__.__name__})", "check its disk and its folder's rights"
        ) from failure


def _sqlite_connected(connection: DBAPIConnection, _record: object) -> None:
    # the driver must not begin transactions by itself: BEGIN IMMEDIATE below is ours
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begins(connection: Connection) -> None:
    reads = connection.get_execution_options().get("muniment_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
