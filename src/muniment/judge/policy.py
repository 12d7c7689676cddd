"""The decision on one exchange: a total, pure function of the rules in force and of what the exchange does.

Order: what could not be read whole is denied; a guard's deny beats everything; every touch must be inside a grant or
its basics, else deny; a guard's hold then narrows that to a question for people; only then allow. Grants and guards
are looked at by name, so the order in which they were written changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from muniment.judge import basics, globs, words
from muniment.model.access import Admission
from muniment.model.exchange import Action, Touch
from muniment.model.identity import Provenance
from muniment.model.rules import (
    ApiKeyLogin,
    Grant,
    Guard,
    GuardRule,
    Issuer,
    OidcLogin,
    Rules,
    Selector,
    Target,
    selects,
)
from muniment.model.verdict import Allow, Deny, Hold, Verdict

# Names of rules that are nobody's document; no Grant or Guard may be called so.
INCOMPLETE = "incomplete"
NO_GRANT = "no-grant"
CONFLICT = "hold-conflict"
BASICS = "basics"
RESERVED = frozenset({INCOMPLETE, NO_GRANT, CONFLICT, BASICS})

Matcher = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a grant, ready to be asked. kinds: None for any; star: it has the pattern `*`, which alone takes
    names that could not be resolved."""

    grant: str
    kinds: frozenset[str] | None
    names: frozenset[str]
    match: Matcher | None
    star: bool

    def covers(self, touch: Touch) -> bool:
        """Whether the touch is inside this line; its verb is known to be."""
        if self.kinds is not None and touch.kind not in self.kinds:
            return False
        if self.star:
            return True
        name = touch.name
        if name in self.names:
            return True
        return self.match is not None and self.match(name) is not None and not name.startswith(globs.UNRESOLVED)


@dataclass(frozen=True, slots=True)
class _Bar:
    """One line of a guard, ready to be asked. order: by the guard's name, then as written."""

    order: int
    guard: str
    rule: GuardRule
    kinds: frozenset[str] | None

    def fits(self, touch: Touch, traits: frozenset[str]) -> bool:
        """Whether the touch, whose verb is known to fit, and the exchange's traits are what this line is about."""
        rule = self.rule
        if self.kinds is not None and touch.kind not in self.kinds:
            return False
        if rule.traits and rule.traits.isdisjoint(traits):
            return False
        return not rule.resources or any(globs.may_match(glob, touch.name) for glob in rule.resources)


@dataclass(frozen=True, slots=True)
class _Bars:
    """The lines of all guards, by verb. any_verb: lines that name none; by_trait: lines that name only traits."""

    by_verb: dict[str, tuple[_Bar, ...]]
    any_verb: tuple[_Bar, ...]
    by_trait: tuple[_Bar, ...]

    def fitting(self, action: Action) -> list[tuple[_Bar, Touch | None]]:
        """The lines that fit, each with the first touch that it fits."""
        found: dict[int, tuple[_Bar, Touch | None]] = {}
        by_verb, any_verb, traits = self.by_verb, self.any_verb, action.traits
        for touch in action.touches:
            bars = by_verb.get(touch.verb, ())
            for bar in bars + any_verb if any_verb else bars:
                if bar.order not in found and bar.fits(touch, traits):
                    found[bar.order] = bar, touch
        for bar in self.by_trait:
            if not bar.rule.traits.isdisjoint(traits):
                found[bar.order] = bar, None
        return [found[order] for order in sorted(found)]


@dataclass(frozen=True, slots=True)
class Context:
    """What stands for one session: made once, asked for every exchange, made again when the rules change.

    groups: those that the rules still let the identity have; grants: in force for it at this target and database, by
    name; guards: of this target, by name.
    """

    identity: str
    groups: frozenset[str]
    target: Target
    grants: tuple[Grant, ...]
    guards: tuple[Guard, ...]
    _lines: dict[str, tuple[_Line, ...]] = field(repr=False, compare=False)
    _basics: bool = field(repr=False, compare=False)
    _denies: _Bars = field(repr=False, compare=False)
    _holds: _Bars = field(repr=False, compare=False)
    _barred: frozenset[str] = field(repr=False, compare=False)  # verbs that a guard's line names
    _always: bool = field(repr=False, compare=False)  # a guard's line names no verb
    _allow: dict[str, Allow] = field(repr=False, compare=False)  # made ahead


def context(
    rules: Rules,
    identity: str,
    groups: Iterable[str],
    target: Target,
    database: str,
    now_us: int,
    role: str = "",
) -> Context:
    """What is in force for this identity at this target and database at this moment; the grants may be none.

    role: the login at the target that the session has; grants for another one are not its own. Empty: any.
    A grant that ends later is still in the context then: make it again, or end the session, at `expires_at_us`.
    """
    rule = rules.identities.get(identity)
    possible = rule.groups | rule.groups_only if rule is not None else frozenset[str]()
    held = frozenset(groups) & possible
    grants = tuple(
        grant
        for _, grant in sorted(rules.grants.items())
        if rule is not None
        and (grant.identity == identity if grant.identity else grant.group in held)
        and selects(grant.target, target)
        and (not role or grant.role == role)
        and (not grant.expires_at_us or now_us < grant.expires_at_us)
        and any(globs.matches(glob, database) for glob in grant.databases)
    )
    guards = tuple(guard for _, guard in sorted(rules.guards.items()) if selects(guard.target, target))
    denies = _bars((guard.name, line) for guard in guards for line in guard.deny)
    holds = _bars((guard.name, line) for guard in guards for line in guard.hold)
    return Context(
        identity,
        held,
        target,
        grants,
        guards,
        _lines(grants),
        any(grant.basics != "none" for grant in grants),
        denies,
        holds,
        frozenset(denies.by_verb) | frozenset(holds.by_verb),
        any((bars.any_verb or bars.by_trait) for bars in (denies, holds)),
        {name: Allow(name) for name in (BASICS, *(grant.name for grant in grants))},
    )


def judge(context: Context, action: Action) -> Verdict:
    """The verdict on one exchange. Total: whatever the action holds, there is an answer, and it is Deny by default.

    `Allow.rule` and `Hold.grant` name the grants that cover it, joined by commas, or "basics" where nothing else was
    needed. Cost: a few microseconds.
    """
    if not action.complete:
        return words.unread(INCOMPLETE, context.identity, context.target.name, action)
    touches = action.touches
    barred = context._always
    for touch in touches:
        if touch.verb in context._barred:
            barred = True
            break
    if barred:
        for bar, hit in context._denies.fitting(action):
            return words.barred(context.target.name, bar.guard, bar.rule, hit)
    if not context.grants:
        return _ungranted(context, touches[0] if touches else None)
    used = BASICS
    lines = context._lines
    for touch in touches:
        for line in lines.get(touch.verb, ()):
            if line.covers(touch):
                if used is not line.grant:
                    used = _with(used, line.grant)
                break
        else:
            if not (context._basics and basics.permitted(context.target.protocol, "client", touch)):
                return _ungranted(context, touch)
    if barred and (asked := context._holds.fitting(action)):
        return _held(context, asked, used)
    return context._allow.get(used) or Allow(used)


def _with(used: str, grant: str) -> str:
    """One more grant in the list of those that cover an exchange."""
    return grant if used == BASICS else ",".join(sorted({*used.split(","), grant}))


def _ungranted(context: Context, touch: Touch | None) -> Deny:
    names = [grant.name for grant in context.grants]
    return words.ungranted(NO_GRANT, context.identity, context.target.name, names, touch)


def kinds_of(objects: frozenset[str]) -> frozenset[str] | None:
    """The kinds of touch that `objects` of a rule means; None for any. A table's rows are touched as a relation."""
    if not objects:
        return None
    return objects | {"relation"} if "table" in objects else objects


def _lines(grants: tuple[Grant, ...]) -> dict[str, tuple[_Line, ...]]:
    """verb -> the lines that have it, by the grant's name."""
    found: dict[str, list[_Line]] = {}
    for grant in grants:
        for rule in grant.allow:
            plain = frozenset(glob for glob in rule.resources if globs.is_plain(glob))
            match = globs.any_matcher(glob for glob in rule.resources if glob not in plain)
            line = _Line(grant.name, kinds_of(rule.objects), plain, match, "*" in rule.resources)
            for verb in rule.verbs:
                found.setdefault(verb, []).append(line)
    return {verb: tuple(lines) for verb, lines in found.items()}


def _bars(lines: Iterable[tuple[str, GuardRule]]) -> _Bars:
    by_verb: dict[str, tuple[_Bar, ...]] = {}
    any_verb: list[_Bar] = []
    by_trait: list[_Bar] = []
    for order, (guard, rule) in enumerate(lines):
        bar = _Bar(order, guard, rule, kinds_of(rule.objects))
        if rule.verbs:
            for verb in rule.verbs:
                by_verb[verb] = (*by_verb.get(verb, ()), bar)
        elif rule.objects or rule.resources or not rule.traits:
            any_verb.append(bar)
        else:
            by_trait.append(bar)
    return _Bars(by_verb, tuple(any_verb), tuple(by_trait))


def _held(context: Context, asked: list[tuple[_Bar, Touch | None]], grant: str) -> Hold | Deny:
    """All holds that fit as one question: the most people, the shortest time. Different groups cannot be one question,
    and choosing one would let the other's rule be passed by: that is refused."""
    rules = [(bar.guard, bar.rule) for bar, _ in asked]
    groups = sorted({rule.approvers for _, rule in rules})
    if len(groups) > 1:
        return words.conflict(CONFLICT, rules, groups)
    return Hold(
        ",".join(sorted({guard for guard, _ in rules})),
        words.question(context.identity, context.target.name, asked[0][1], [rule for _, rule in rules]),
        groups[0],
        max(rule.count for _, rule in rules),
        min(rule.within_s for _, rule in rules),
        grant,
    )


# ---- the rules as a whole


def targets_of(rules: Rules, selector: Selector) -> tuple[Target, ...]:
    """The targets that a rule with this selector is for, by name."""
    return tuple(target for _, target in sorted(rules.targets.items()) if selects(selector, target))


def declared(rules: Rules) -> tuple[str, ...]:
    """What is granted, for the evidence: "grant|identity or @group|target|verbs|globs|objects", and one
    "grant|who|target|basics|client|" where a grant has the basics. One line for each target; sorted."""
    return tuple(sorted(_declared(rules)))


def _declared(rules: Rules) -> Iterator[str]:
    for grant in rules.grants.values():
        who = grant.identity or f"@{grant.group}"
        for target in targets_of(rules, grant.target):
            start = f"{grant.name}|{who}|{target.name}"
            for line in grant.allow:
                parts = (sorted(line.verbs), line.resources, sorted(kinds_of(line.objects) or ()))
                yield "|".join([start, *(",".join(part) for part in parts)])
            if grant.basics != "none":
                yield f"{start}|basics|{grant.basics}|"


def still_allowed(rules: Rules, admission: Admission, now_us: int) -> str:
    """Why these rules would not give this admission again, so that its session must be cut; empty when they would.

    What its token said is judged by the claims that were kept of it: a condition on any other claim cannot be shown to
    hold. Which of its groups came from the token is not kept, so whatever the token may give now counts as given.
    """
    identity, was, role = admission.identity, admission.target, admission.role
    name = identity.name
    rule, target = rules.identities.get(name), rules.targets.get(was.name)
    if rule is None:
        return f"the identity {name} was removed"
    if rule.expires_at_us and rule.expires_at_us <= now_us:
        return f"the identity {name} has expired"
    if not _proves(rules, rule.logins, identity.provenance):
        return f"the identity {name} no longer accepts the login that opened this session"
    if lost := identity.groups - rule.groups - (rule.groups_only if rule.groups_claim else frozenset()):
        return f"the identity {name} is no longer in {', '.join(sorted(lost))}"
    if target is None:
        return f"the target {was.name} was removed"
    if _place(target) != _place(was):
        return f"the target {was.name} is now reached in another way"
    if all(known.name != role for known in target.roles):
        return f"the role {role} was removed from {target.name}"
    if not context(rules, name, identity.groups, target, admission.database, now_us, role).grants:
        return f"no grant in force lets {name} into {words.shown(admission.database)} at {target.name} as {role}"
    return ""


def _place(target: Target) -> tuple[str, str, int, str, str]:
    return target.protocol, target.host, target.port, target.tls, target.ca_file


def _proves(rules: Rules, logins: tuple[OidcLogin | ApiKeyLogin, ...], provenance: Provenance) -> bool:
    """Whether one of these bindings would take this proof. A claim that was not kept counts as another value."""
    for login in logins:
        match login:
            case ApiKeyLogin():
                if provenance.method == "api-key":
                    return True
            case OidcLogin():
                issuer = rules.issuers.get(login.issuer)
                if issuer is not None and provenance.method == "oidc" and _issued(issuer, login, provenance):
                    return True
    return False


def _issued(issuer: Issuer, login: OidcLogin, provenance: Provenance) -> bool:
    """Whether this issuer's tokens are taken and this is one. Without an audience: the deployment's name, for good."""
    return (
        issuer.url == provenance.issuer
        and provenance.alg in issuer.algorithms
        and (not issuer.audience or issuer.audience == provenance.audience)
        and set(provenance.claims) >= {*issuer.match, *login.match}
    )
