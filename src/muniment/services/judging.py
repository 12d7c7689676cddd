"""One session's verdicts: by the rules in force, and kept while these and the names stay what they were."""

from __future__ import annotations

from dataclasses import dataclass

from muniment.judge import policy
from muniment.model.access import Session
from muniment.model.effects import Ask
from muniment.model.exchange import Action, Catalog, Phase, Statement
from muniment.model.rules import Rules
from muniment.model.verdict import Allow, Deny, Hold, Masks, Verdict
from muniment.services import leaves
from muniment.services.gate import Gate
from muniment.services.repeats import Repeat, Repeats

MAX_CACHED = 2_000  # verdicts that one session keeps


@dataclass(slots=True)
class Judged:
    """One ask with its verdict. shown: the text as the record holds it, where its values must not stand there."""

    ask: Ask
    action: Action
    verdict: Verdict
    shown: str | None


class Judging:
    """Judges one session's exchanges. repeats: reads that were allowed, by the rules of the last verdict."""

    def __init__(self, gate: Gate, session: Session) -> None:
        self.repeats = Repeats()
        self._gate = gate
        self._session = session
        self._protocol = session.admission.target.protocol
        self._rules: Rules | None = None
        self._context: policy.Context | None = None
        self._until_us = 0
        self._cache: dict[int, tuple[Action, Statement, Verdict, str | None, bool]] = {}  # True: its text matters

    @property
    def version(self) -> int:
        """Of the rules of the last verdict; 0 before the first."""
        return self._rules.version if self._rules is not None else 0

    def repeated(self, statement: Statement) -> Repeat | None:
        """What an allowed read like this one left, while its rules are in force."""
        gate = self._gate
        if gate.rules() is not self._rules or gate.now_us() >= self._until_us:
            return None
        return self.repeats.like(statement, gate.reader, self._protocol)

    def judge(self, ask: Ask, action: Action) -> Judged:
        """The verdict on what is asked, by the rules of this moment."""
        rules = self._gate.rules()
        now_us = self._gate.now_us()
        context = self._context
        if context is None or rules is not self._rules or now_us >= self._until_us:
            context = self._renew(rules, now_us)
        statement = ask.statement
        kept = self._cache.get(id(action))
        if kept is None or kept[1].names != statement.names or (kept[4] and kept[1].text != statement.text):
            verdict = policy.judge(context, action)
            if not leaves.fits(action):
                verdict = Deny("reader", "it names more than one record can hold", "Split the statement.")
            catalog: Catalog | None = getattr(statement.names, "catalog", None)
            masks = self._gate.masks(rules, self._session.admission.target.name, catalog)
            shown = None
            if masks is not None:
                if isinstance(verdict, (Allow, Hold)) and (reason := masks.closed(action)):
                    verdict = Deny("masking", reason, "Select the columns that you need, without copying them.")
                if masks.protects(action) or masks.text(statement.text)[1]:
                    shown = self._gate.redact(statement.text)
                if isinstance(verdict, Allow):
                    verdict = Allow(verdict.rule, masks, shown)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            kept = self._cache[id(action)] = (action, statement, verdict, shown, masks is not None)
        verdict, shown = kept[2], kept[3]
        if (
            shown is None
            and statement.parameters
            and isinstance(verdict, Allow)
            and verdict.masks is not None
            and verdict.masks.parameters(statement.parameters)
        ):
            shown = self._gate.redact(statement.text)
            verdict = Allow(verdict.rule, verdict.masks, shown)
        return Judged(ask, action, verdict, shown)

    def final(self, judged: Judged) -> Verdict:
        """What the conversation is told: a statement that is only prepared runs nothing, so a hold lets it through."""
        if isinstance(judged.verdict, Hold) and judged.ask.statement.phase is Phase.PREPARE:
            return Allow(judged.verdict.rule, self.masks_of(judged), judged.shown)
        return judged.verdict

    def masks_of(self, judged: Judged) -> Masks | None:
        """The masks that are in force for it now."""
        catalog: Catalog | None = getattr(judged.ask.statement.names, "catalog", None)
        return self._gate.masks(self._gate.rules(), self._session.admission.target.name, catalog)

    def _renew(self, rules: Rules, now_us: int) -> policy.Context:
        admission = self._session.admission
        target = rules.targets.get(admission.target.name, admission.target)
        identity = admission.identity
        context = policy.context(
            rules, identity.name, identity.groups, target, admission.database, now_us, role=admission.role
        )
        ends = [grant.expires_at_us for grant in rules.grants.values() if grant.expires_at_us > now_us]
        self._until_us = min(ends, default=1 << 62)
        self._rules, self._context = rules, context
        self._cache.clear()
        self.repeats.clear()
        return context
