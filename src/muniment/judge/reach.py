"""All documents together: names that do not exist, and rules that could never fire.

A rule that cannot fire is worse than none: somebody wrote it to be protected, or to work, and believes in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from muniment.judge import globs
from muniment.judge.documents import Document, Problems, meant
from muniment.judge.policy import kinds_of, targets_of
from muniment.model.rules import Grant, Guard, GuardRule, OidcLogin, Person, Rules, Selector, Target

ROW_VERBS = frozenset({"select", "insert", "update", "delete", "merge"})
ROW_KINDS = frozenset({"relation", "sequence", "large-object"})  # what they touch; a table and a view are "relation"

Path = tuple[str | int, ...]


def check(rules: Rules, found: Sequence[Document], broken: Collection[tuple[str, str]], problems: Problems) -> None:
    """Report what is wrong between documents.

    found: the documents whose nouns are in `rules`; broken: (kind, name) of those that have a problem of their own: a
    reference to one of them is not a second problem, and while there are any, nothing is said about what is not there.
    """
    reach = _Reach(rules, found, broken, problems)
    reach.references()
    reach.doubles()
    if not broken and not problems.incomplete:
        reach.subjects()
        reach.approvers()
        reach.shadows()
        reach.roles()


@dataclass(frozen=True, slots=True)
class _Bar:
    """One line of a guard, and the names of the targets that it stands at."""

    guard: str
    path: Path
    rule: GuardRule
    targets: frozenset[str]


class _Reach:
    def __init__(
        self, rules: Rules, found: Sequence[Document], broken: Collection[tuple[str, str]], problems: Problems
    ) -> None:
        self.rules, self.problems = rules, problems
        self.at = {(one.kind, one.name): one for one in found}
        self.names = {*self.at, *broken}
        self.whole = not broken and not problems.incomplete

    def wrong(self, kind: str, name: str, path: Path, what: str, mend: str) -> None:
        document = self.at[kind, name]
        self.problems.add(document.file, document.line_of(*path), what, mend)

    def place(self, kind: str, name: str, path: Path) -> str:
        document = self.at[kind, name]
        return f"{document.file}:{document.line_of(*path)}"

    # ---- names

    def references(self) -> None:
        """Names of issuers, identities, targets and roles."""
        for identity in self.rules.identities.values():
            for nth, login in enumerate(identity.logins):
                if isinstance(login, OidcLogin):
                    path = ("spec", "login", nth, "oidc", "issuer")
                    self.reference("Identity", identity.name, path, "Issuer", login.issuer)
        for grant in self.rules.grants.values():
            if grant.identity:
                self.reference("Grant", grant.name, ("spec", "to", "identity"), "Identity", grant.identity)
            for target in self.selected("Grant", grant.name, grant.target):
                roles = [role.name for role in target.roles]
                if grant.role not in roles:
                    mend = meant(grant.role, roles, f"one of {', '.join(roles)}; or add it to the target")
                    self.wrong("Grant", grant.name, ("spec", "as"), f"{target.name} has no role `{grant.role}`", mend)
        for guard in self.rules.guards.values():
            self.selected("Guard", guard.name, guard.target)
        for mask in self.rules.masks.values():
            self.selected("Mask", mask.name, mask.target)

    def reference(self, kind: str, name: str, path: Path, wanted: str, other: str) -> None:
        """Report a name that no document has."""
        if (wanted, other) in self.names or self.problems.incomplete:
            return
        there = sorted(one for of, one in self.names if of == wanted)
        mend = meant(other, there, f"add a document of kind {wanted} with this name")
        self.wrong(kind, name, path, f"there is no {wanted} `{other}`", mend)

    def selected(self, kind: str, name: str, selector: Selector) -> tuple[Target, ...]:
        """The targets of a rule; it is a problem when there are none."""
        targets = targets_of(self.rules, selector)
        if selector.name:
            self.reference(kind, name, ("spec", "target"), "Target", selector.name)
        elif not targets and self.whole:
            labels = ", ".join(f"{key}: {value}" for key, value in selector.labels)
            what = f"no target has the labels {{{labels}}}: this {kind} never fires"
            self.wrong(kind, name, ("spec", "target"), what, "label a Target so, under `metadata`; or name one")
        return targets

    def doubles(self) -> None:
        """What only one document may have: a listener's port, a person's key and address."""
        ports: dict[int, str] = {}
        for name, target in sorted(self.rules.targets.items()):
            first = ports.setdefault(target.listen_port, name) if target.listen_port else name
            if first != name:
                what = f"port {target.listen_port} is that of Target/{first} already"
                self.wrong("Target", name, ("spec", "listen", "port"), what, "choose another port")
        keys: dict[str, str] = {}
        emails: dict[str, str] = {}
        for name, person in sorted(self.rules.persons.items()):
            for nth, key in enumerate(person.keys):
                first = keys.setdefault(key.split()[1], name)
                if first != name:
                    what = f"this is the key of Person/{first} too: one person could decide as two"
                    self.wrong("Person", name, ("spec", "keys", nth), what, "each person has keys of their own")
            first = emails.setdefault(person.email.casefold(), name)
            if first != name:
                what = f"Person/{first} has this address too: one person could decide as two"
                self.wrong("Person", name, ("spec", "email"), what, "keep one of the two documents")

    # ---- rules that never fire

    def subjects(self) -> None:
        """Grants for nobody, and lines of grants that no touch can be inside of."""
        possible: set[str] = set()
        for identity in self.rules.identities.values():
            possible |= identity.groups | identity.groups_only
        for grant in self.rules.grants.values():
            if grant.group and grant.group not in possible:
                what = f"no identity can have the group `{grant.group}`: this grant never fires"
                mend = meant(grant.group, possible, "give it in an Identity: `groups: {static: [...]}`")
                self.wrong("Grant", grant.name, ("spec", "to", "group"), what, mend)
            for nth, line in enumerate(grant.allow):
                path: Path = ("spec", "allow", nth, "objects")
                self.rows("Grant", grant.name, path, line.verbs, line.objects)
        for bar in self.bars("deny", "hold"):
            self.rows("Guard", bar.guard, (*bar.path, "objects"), bar.rule.verbs, bar.rule.objects)

    def rows(self, kind: str, name: str, path: Path, verbs: frozenset[str], objects: frozenset[str]) -> None:
        if verbs and verbs <= ROW_VERBS and objects and ROW_KINDS.isdisjoint(kinds_of(objects) or ()):
            what = f"{', '.join(sorted(verbs))} touch a relation, of a table or a view alike: this line never fires"
            self.wrong(kind, name, path, what, "write `relation`, or take `objects` away")

    def approvers(self) -> None:
        """Holds that nobody could decide."""
        for bar in self.bars("hold"):
            rule, path = bar.rule, (*bar.path, "approvers")
            members = [one for one in self.rules.persons.values() if rule.approvers in one.groups]
            able = [one for one in members if one.keys]
            if not members:
                groups = {group for one in self.rules.persons.values() for group in one.groups}
                mend = meant(rule.approvers, groups, "add a Person with this group")
                self.wrong("Guard", bar.guard, (*path, "group"), f"no person has the group `{rule.approvers}`", mend)
            elif len(able) < rule.count:
                keyless = ", ".join(sorted(one.name for one in members if not one.keys))
                what = f"{rule.count} people of `{rule.approvers}` must approve, and {len(able)} could"
                mend = f"give {keyless} a key to sign with" if keyless else "add persons, or lower `count`"
                self.wrong("Guard", bar.guard, path, what, mend)
            elif len(able) == 1:
                self.owner_alone(bar, able[0])

    def owner_alone(self, bar: _Bar, person: Person) -> None:
        """The owner of an identity cannot alone decide what it may do."""
        owned = {
            name
            for name, identity in self.rules.identities.items()
            if identity.owner.casefold() in (person.email.casefold(), person.name)
        }
        for grant in self.rules.grants.values():
            for name in sorted(owned & set(self.holders(grant))):
                if bar.targets & {target.name for target in targets_of(self.rules, grant.target)}:
                    what = f"the only approver, {person.name}, owns identity {name}, which this would hold"
                    mend = f"add another person to `{bar.rule.approvers}`"
                    self.wrong("Guard", bar.guard, (*bar.path, "approvers"), what, mend)

    def holders(self, grant: Grant) -> Iterator[str]:
        """The identities that can have a grant."""
        for name, identity in self.rules.identities.items():
            if grant.identity == name or (grant.group and grant.group in identity.groups | identity.groups_only):
                yield name

    def bars(self, *fields: str) -> Iterator[_Bar]:
        """The lines of all guards in the order in which they are asked."""
        for name, guard in sorted(self.rules.guards.items()):
            targets = frozenset(target.name for target in targets_of(self.rules, guard.target))
            for field in fields:
                for nth, rule in enumerate(_lines(guard, field)):
                    yield _Bar(name, ("spec", field, nth), rule, targets)

    def shadows(self) -> None:
        """Lines of guards and grants behind a deny that leaves them nothing."""
        denies = list(self.bars("deny"))
        for nth, bar in enumerate(denies):
            for earlier in denies[:nth]:
                if self.shadowed("Guard", bar.guard, bar.path, bar.targets, bar.rule, [earlier]):
                    break
        for bar in self.bars("hold"):
            self.shadowed("Guard", bar.guard, bar.path, bar.targets, bar.rule, denies)
        plain = [bar for bar in denies if not bar.rule.traits]
        for grant in self.rules.grants.values():
            targets = frozenset(target.name for target in targets_of(self.rules, grant.target))
            for nth, line in enumerate(grant.allow):
                covers = [
                    next((bar for bar in plain if _covers(bar, targets, GuardRule(verb_set, line.objects, glob))), None)
                    for verb_set in (frozenset({verb}) for verb in sorted(line.verbs))
                    for glob in ((one,) for one in line.resources)
                ]
                if targets and (first := covers[0]) is not None and all(covers):
                    place = self.place("Guard", first.guard, first.path)
                    what = f"guard {first.guard} ({place}) denies all that this line grants: it never fires"
                    self.wrong("Grant", grant.name, ("spec", "allow", nth), what, "take the line away")

    def shadowed(
        self, kind: str, name: str, path: Path, targets: frozenset[str], rule: GuardRule, by: Iterable[_Bar]
    ) -> bool:
        for bar in by:
            if targets and _covers(bar, targets, rule):
                place = self.place("Guard", bar.guard, bar.path)
                what = f"guard {bar.guard} ({place}) denies all of this before: this line never fires"
                self.wrong(kind, name, path, what, "take one of the two away")
                return True
        return False

    def roles(self) -> None:
        """Grants of one identity that name different roles at one database: a session has one role."""
        told: set[tuple[str, str]] = set()
        for name, identity in sorted(self.rules.identities.items()):
            sure = [
                grant
                for _, grant in sorted(self.rules.grants.items())
                if grant.identity == name or (grant.group and grant.group in identity.groups)
            ]
            for one, other in combinations(sure, 2):
                pair = (one.name, other.name)
                if one.role == other.role or pair in told:
                    continue
                both = set(targets_of(self.rules, one.target)) & set(targets_of(self.rules, other.target))
                if both and any(_overlap(left, right) for left in one.databases for right in other.databases):
                    told.add(pair)
                    target = min(target.name for target in both)
                    what = f"{name} has role {one.role} at {target} by Grant/{one.name}, and {other.role} here"
                    mend = "name one role in both; or use two identities"
                    self.wrong("Grant", other.name, ("spec", "as"), what, mend)


def _lines(guard: Guard, field: str) -> tuple[GuardRule, ...]:
    return guard.deny if field == "deny" else guard.hold


def _covers(bar: _Bar, targets: frozenset[str], rule: GuardRule) -> bool:
    """Whether all that `rule` fits at these targets is denied by `bar`. May say no where it is so."""
    outer = bar.rule
    return (
        targets <= bar.targets
        and (not outer.verbs or (bool(rule.verbs) and rule.verbs <= outer.verbs))
        and (not outer.objects or (bool(rule.objects) and rule.objects <= (kinds_of(outer.objects) or set())))
        and (not outer.traits or (bool(rule.traits) and rule.traits <= outer.traits))
        and (not outer.resources or (bool(rule.resources) and all(_within(one, outer) for one in rule.resources)))
    )


def _within(glob: str, outer: GuardRule) -> bool:
    return any(globs.inside(glob, one) for one in outer.resources)


def _overlap(left: str, right: str) -> bool:
    """Whether a name surely fits both patterns."""
    return globs.inside(left, right) or globs.inside(right, left)
