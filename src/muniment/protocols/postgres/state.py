"""What a PostgreSQL conversation remembers: exchanges, prepared statements, portals, and the two queues.

An `Item` is a client's message that has not been released to the target yet. An `Expect` is a message that has, and
whose reply has not come; the replies come in the order of the expects.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from muniment.model.effects import Done, Effect
from muniment.model.exchange import Action, Column, Outcome, Statement
from muniment.model.verdict import Deny, Masks, RowPlan
from muniment.protocols.postgres.meaning import Names

MAX_QUEUED_BYTES = 8 << 20  # of messages that wait for a ruling; then the client is not read
MAX_ITEMS, FEW_ITEMS = 512, 256  # messages that wait for a ruling; at the first no more are taken, down to the second
MAX_EXPECTS = 10_000  # replies that are due; PostgreSQL keeps back at most 8 KB, so it has answered some of these
MAX_STATEMENTS = 10_000  # prepared statements that one session may keep
OURS = b"muniment:"  # names that begin so are the gateway's own
IDLE, IN_TRANSACTION, FAILED = STATUSES = b"ITE"  # transaction status
COPY_KINDS = frozenset(b"dcf")
RUNNING = frozenset(b"QBEF")  # messages that run something
ENDING = frozenset(b"QSF")  # messages that end a batch: the target answers each with one ReadyForQuery

Shape = tuple[Column, ...]


class Mode(Enum):
    """What becomes of the replies to a message."""

    PASS = 0
    SWALLOW = 1  # the gateway asked for it
    REPLACE = 2  # stands for a refused message: the target's own error is replaced by ours


class Exchange:
    """One thing that was asked, judged, and runs at the target until it is done."""

    __slots__ = (
        "action",
        "bytes",
        "code",
        "denied",
        "done",
        "masked",
        "masks",
        "nth",
        "protected",
        "rows",
        "shown",
        "tag",
        "ticket",
    )

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.action: Action | None = None
        self.masks: Masks | None = None
        self.protected = False
        self.denied: Deny | None = None
        self.shown: str | None = None
        self.done = False
        self.rows = 0
        self.bytes = 0
        self.nth = -1
        self.code = ""
        self.tag = ""
        self.masked: dict[str, int] = {}


class Prepared:
    """A statement that a Parse made, or is about to. types: parameter type ids as declared."""

    __slots__ = ("exchange", "name", "text", "types")

    def __init__(self, name: bytes, text: str, types: tuple[int, ...]) -> None:
        self.name = name
        self.text = text
        self.types = types
        self.exchange: Exchange | None = None


class Portal:
    """A bound statement. executed: its exchange has had its Execute; described: a Describe of it was released."""

    __slots__ = ("described", "exchange", "executed", "name", "plan", "planned", "shape", "statement")

    def __init__(self, name: bytes, statement: Statement, exchange: Exchange) -> None:
        self.name = name
        self.statement = statement
        self.exchange = exchange
        self.executed = False
        self.described = False
        self.shape: Shape | None = None
        self.plan: RowPlan | None = None
        self.planned = False


class State(Enum):
    """Where an item stands."""

    READY = 0  # runs nothing, or was allowed
    NEW = 1  # to be asked
    ASKED = 2
    HELD = 3
    DENIED = 4


class Item:
    """A client's message on its way to the target. batch: the number of the ReadyForQuery that will end it."""

    __slots__ = ("batch", "exchange", "kind", "portal", "prepared", "raw", "state", "statement")

    def __init__(self, kind: int, raw: bytes, state: State) -> None:
        self.kind = kind
        self.raw = raw
        self.state = state
        self.batch = 0
        self.exchange: Exchange | None = None
        self.statement: Statement | None = None
        self.prepared: Prepared | None = None
        self.portal: Portal | None = None


class Expect:
    """A reply that is due. kind: the letter of the message that was sent."""

    __slots__ = ("error", "exchange", "inner", "kind", "mode", "portal", "prepared")

    def __init__(self, kind: int, mode: Mode = Mode.PASS) -> None:
        self.kind = kind
        self.mode = mode
        self.exchange: Exchange | None = None
        self.prepared: Prepared | None = None
        self.portal: Portal | None = None
        self.error: bytes = b""
        self.inner: Inner | None = None


@dataclass(slots=True)
class Inner:
    """A question of the gateway's own on the client's connection. whole: the catalogue, else only path and temps."""

    whole: bool
    rows: list[list[bytes | None]]
    failed: str = ""


class Memory:
    """All that one conversation remembers. What reads and changes it stands in the classes built on this one."""

    def __init__(
        self, names: Names, status: int, number: int, *, hold_in_transaction: bool = False, codec: str = "utf-8"
    ) -> None:
        self.names = names
        self.status = status
        self._known: Names = names
        self._full: Names | None = names  # without, and with, what the session itself prepared and declared
        self._number = number
        self._loads = 0
        self._hold_in_transaction = hold_in_transaction
        self._codec = codec  # of the client's texts, as the target reads them
        self._tickets = 0
        self._out: list[Effect] = []
        self._client: list[bytes] = []
        self._client_size = self._client_need = 0
        self._target: list[bytes] = []
        self._target_size = self._target_need = 0
        self._items: deque[Item] = deque()
        self._queued_bytes = 0
        self._expects: deque[Expect] = deque()
        self._batches = self._answered = 0  # that were taken; of those, the ones with their ReadyForQuery
        self._running = 0  # the last batch in which something runs
        self._crowded = False  # MAX_ITEMS wait, or waited and more than FEW_ITEMS still do
        self._copy_ends = False  # among the expects is a CopyDone or CopyFail
        self._asked: dict[int, Item] = {}
        self._statements: dict[bytes, Prepared] = {}
        self._parsing: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Portal] = {}
        self._prepared: dict[str, str] = {}  # by PREPARE and by Parse, as EXECUTE finds them
        self._cursors: dict[str, str] = {}
        self._brief: set[str] = set()  # of those, the ones that end with the transaction
        self._young: set[str] = set()  # and the ones that a rollback takes away
        self._touched: Exchange | None = None  # the last of this transaction that is about protected data
        self._plans: dict[tuple[bytes, int, int, int], tuple[object, object, RowPlan | None]] = {}
        self._in_batch = False  # a message of the extended protocol was taken since the last Sync
        self._skipping = False  # the target ignores everything up to the next Sync
        self._copying_in = False
        self._dirty = self._dirty_whole = False
        self._transaction_dirty = self._transaction_whole = False
        self._refreshing = False
        self._cancelling = False
        self._looking: tuple[int, bytes] | None = None
        self._plan: RowPlan | None = None
        self._planned = False
        self._closed = False

    _last_masks: Masks | None = None

    def _done(self, exchange: Exchange, status: str) -> None:
        if exchange.done:
            return
        exchange.done = True
        masked = tuple(sorted(exchange.masked.items()))
        outcome = Outcome(status, exchange.rows, exchange.bytes, exchange.code, exchange.tag, masked)
        self._out.append(Done(exchange.ticket, outcome))


def decode(data: bytes) -> str:
    """Text of a peer's; bytes that are no UTF-8 stay as lone surrogates, which the reader of SQL refuses."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes of which `decode` made this text."""
    return text.encode("utf-8", "surrogateescape")
