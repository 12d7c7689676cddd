"""A conversation on the table: fed by hand, ruled by a function, everything it sends kept."""

from __future__ import annotations

from collections.abc import Callable

from muniment.model.effects import Ask, Cancel, Close, Done, Effect, Look, Send, Side, Withdraw
from muniment.model.exchange import Action, Catalog, Outcome, Statement
from muniment.model.verdict import Allow, Deny, Hold, Masks, Verdict
from muniment.protocols.postgres.conversation import Conversation
from muniment.protocols.postgres.meaning import Names

HARMLESS = Action(touches=(), reads_only=True)
Rule = Callable[[Statement], tuple[Verdict, Action]]


def allow_all(statement: Statement) -> tuple[Verdict, Action]:
    """A policy that lets everything through, nothing masked."""
    return Allow("all"), HARMLESS


def allow_masked(masks: Masks) -> Rule:
    """A policy that lets everything through under these masks."""
    return lambda statement: (Allow("all", masks), HARMLESS)


class Table:
    """Carries out effects as the relay does. Rulings come at once, or when `rule_next` is called (held=True)."""

    def __init__(
        self,
        rule: Rule = allow_all,
        *,
        held: bool = False,
        status: bytes = b"I",
        catalog: Catalog | None = None,
        younger: tuple[Catalog, Masks] | None = None,
        kind: type[Conversation] = Conversation,
    ) -> None:
        catalog = catalog or Catalog(database="db", version=1, loaded_at_us=0)
        self.younger = younger
        self.talk = kind(Names(catalog, ("pg_catalog", "public")), status[0], 1)
        self.rule = rule
        self.held = held
        self.ruling = False
        self.to_client = b""
        self.to_target = b""
        self.recorded = {Side.CLIENT: b"", Side.TARGET: b""}
        self.originals: list[bytes] = []
        self.asks: list[Ask] = []
        self.seen: list[Statement] = []
        self.done: dict[int, Outcome] = {}
        self.withdrawn: list[int] = []
        self.cancels = 0
        self.closed = ""

    def client(self, data: bytes) -> None:
        """The client sends."""
        self.do(self.talk.received(Side.CLIENT, data))

    def target(self, data: bytes) -> None:
        """The target sends."""
        self.do(self.talk.received(Side.TARGET, data))

    def do(self, effects: list[Effect]) -> None:
        """What the relay does with effects."""
        asks: list[Ask] = []
        for effect in effects:
            match effect:
                case Send(side, data, original, recorded):
                    if side is Side.CLIENT:
                        self.to_client += data
                    else:
                        self.to_target += data
                    self.recorded[side] += data if recorded is None else recorded
                    if original is not None:
                        self.originals.append(original)
                case Ask():
                    asks.append(effect)
                    self.seen.append(effect.statement)
                case Done(ticket, outcome):
                    assert ticket not in self.done or self.done[ticket].status == "withdrawn"
                    self.done[ticket] = outcome
                case Withdraw(ticket):
                    self.withdrawn.append(ticket)
                case Cancel():
                    self.cancels += 1
                case Close(reason):
                    self.closed = reason
                case Look(ticket, _):
                    assert self.younger is not None, "a look that the test did not expect"
                    catalog, masks = self.younger
                    self.do(self.talk.found(ticket, self.talk.names.replaced(catalog=catalog), masks))
        self.asks += asks
        if not self.held:
            self.rule_all()

    def rule_all(self) -> None:
        """Rule on everything that is asked, in order."""
        if not self.ruling:  # what a ruling lets in is asked behind what is asked already, as the gate does it
            self.ruling = True
            while self.asks:
                self.rule_next()
            self.ruling = False

    def rule_next(self, verdict: Verdict | None = None) -> Ask:
        """Rule on the oldest question."""
        ask = self.asks.pop(0)
        made, action = self.rule(ask.statement)
        if self.talk.wants(ask.ticket):
            self.do(self.talk.ruled(ask.ticket, verdict or made, action))
        return ask


def deny(word: str) -> Rule:
    """Refuse every statement that holds `word`."""
    return lambda statement: (
        (Deny("rule", "not this", "ask"), HARMLESS) if word in statement.text else (Allow("all"), HARMLESS)
    )


def hold(word: str) -> Rule:
    """Hold every statement that holds `word`."""
    return lambda statement: (
        (Hold("rule", "may it?", "dba", 1, 60), HARMLESS) if word in statement.text else (Allow("all"), HARMLESS)
    )
