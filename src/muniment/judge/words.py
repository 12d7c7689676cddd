"""What people are told of a verdict: what was asked for, which rule it met, and what to do next.

Names that a client wrote stand here printable and bounded, so that nobody can write the gateway's messages for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from muniment.model.exchange import Action, Touch
from muniment.model.rules import GuardRule
from muniment.model.verdict import Deny

MAX_SHOWN_CHARS = 200


def shown(text: str) -> str:
    """A name or text as it may stand in a message."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: MAX_SHOWN_CHARS + 1])
    return clean if len(clean) <= MAX_SHOWN_CHARS else clean[:MAX_SHOWN_CHARS] + "..."


def asked(touch: Touch | None, rule: GuardRule) -> str:
    """What was asked for: a touch, or a statement with the traits that the rule is about."""
    if touch is None:
        return "run a statement that is " + " or ".join(sorted(rule.traits))
    kind = "" if touch.kind in ("relation", "function", "transaction") else f"{touch.kind} "
    return shown(f"{touch.verb} {kind}{touch.name}".rstrip())


def line(rule: GuardRule) -> str:
    """A guard's line."""
    said = ", ".join(sorted(rule.verbs)) or "everything"
    if rule.objects:
        said += " of " + ", ".join(sorted(rule.objects))
    if rule.resources:
        said += " on " + ", ".join(rule.resources)
    return said + (" that is " + " or ".join(sorted(rule.traits)) if rule.traits else "")


def unread(name: str, identity: str, target: str, action: Action) -> Deny:
    """The statement could not be read whole."""
    why = shown(action.why) or "it does something that cannot be told from its text"
    return Deny(
        name,
        f"the statement cannot be read with certainty: {why}",
        hint="Write one plain statement at a time and name relations with their schema; what cannot be read is never"
        " inside a grant.",
        detail=f"identity {identity}, target {target}",
    )


def barred(target: str, guard: str, rule: GuardRule, touch: Touch | None) -> Deny:
    """A guard's deny fits."""
    what = asked(touch, rule)
    return Deny(
        guard,
        rule.message or f"guard {guard} does not let through at {target}: {what}",
        hint=f"A guard stands over every grant: no Grant can allow this. Ask whoever keeps Guard/{guard}.",
        detail=f"guard {guard} denies {line(rule)} at {target}; asked for: {what}",
    )


def ungranted(name: str, identity: str, target: str, grants: Sequence[str], touch: Touch | None) -> Deny:
    """No grant has this touch inside; None: there is no grant at all."""
    what, wish = "any statement", "a Grant"
    if touch is not None:
        kind = "" if touch.kind in ("relation", "function") else f"{touch.kind} "
        what, wish = f"verb {touch.verb} on {kind}{shown(touch.name)}", f"a Grant with `{touch.verb}` on it"
    return Deny(
        name,
        f"{what} is not granted to {identity} at {target}",
        hint=f"Ask the owner of target {target} for {wish}; `muniment grants list` shows those there are.",
        detail=f"grants in force here: {', '.join(grants) or 'none'}",
    )


def question(identity: str, target: str, touch: Touch | None, rules: Sequence[GuardRule]) -> str:
    """What approvers are asked; the first rule is the one that the touch met, every rule may have its say."""
    said = [f"{identity} asks to {asked(touch, rules[0])} at {target}"]
    return ". ".join([*said, *dict.fromkeys(rule.message for rule in rules if rule.message)])


def conflict(name: str, rules: Sequence[tuple[str, GuardRule]], groups: Sequence[str]) -> Deny:
    """Holds that fit name different groups of approvers."""
    guards = ",".join(sorted({guard for guard, _ in rules}))
    return Deny(
        name,
        f"guards {guards} each want another group of approvers: {', '.join(groups)}",
        hint="Ask for it in separate statements, or let the guards name one group.",
        detail="; ".join(f"guard {guard} holds {line(rule)}" for guard, rule in rules),
    )
