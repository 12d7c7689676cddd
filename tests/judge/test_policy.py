"""The judge: what must hold for any rules and any exchange, and verdicts written by hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.judge import basics, globs
from muniment.judge.policy import context, declared, judge, still_allowed
from muniment.model.access import Admission
from muniment.model.exchange import Action, Touch
from muniment.model.identity import Identity, Initiator, Provenance
from muniment.model.rules import (
    AllowRule,
    ApiKeyLogin,
    Grant,
    Guard,
    GuardRule,
    IdentityRule,
    Issuer,
    OidcLogin,
    Role,
    Rules,
    Selector,
    Target,
)
from muniment.model.verdict import Allow, Deny, Hold, Verdict

BILLING = Target("billing", "postgres", "db", 5432, "disable", (Role("ro", None),), (("scope", "pci"),))
STOCK = Target("stock", "postgres", "db", 5432, "disable", (Role("ro", None), Role("rw", None)))
JOB = IdentityRule("job", "ci-job", "ada@example.org", "Tests.", (ApiKeyLogin(60),), groups=frozenset({"reporting"}))
NOW = 1_000_000

VERBS = ("select", "update", "drop", "call")
KINDS = ("relation", "table", "function", "database")
NAMES = ("public.a", "public.ab", "s.a", "?.a", "a", "public.a.b", "?.")
GLOBS = ("*", "public.*", "public.a", "*.a", "?.a", "public.??", "s.*", "?.*", "*a")
TRAITS = ("no-where", "cursor")


def rules_of(*parts: Grant | Guard) -> Rules:
    return Rules(
        identities={"job": JOB},
        targets={"billing": BILLING, "stock": STOCK},
        grants={part.name: part for part in parts if isinstance(part, Grant)},
        guards={part.name: part for part in parts if isinstance(part, Guard)},
    )


def verdict(rules: Rules, action: Action, groups: frozenset[str] = frozenset()) -> Verdict:
    return judge(context(rules, "job", groups, BILLING, "db", NOW), action)


def some(words: tuple[str, ...], least: int = 0) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(words), min_size=least, max_size=2)


touches = st.builds(Touch, st.sampled_from(KINDS), st.sampled_from(NAMES), st.sampled_from(VERBS))
actions = st.builds(
    Action,
    st.lists(touches, max_size=3).map(tuple),
    traits=some(TRAITS),
    complete=st.sampled_from([True, True, True, False]),
)
patterns = st.lists(st.sampled_from(GLOBS), max_size=2).map(tuple)
some_patterns = st.lists(st.sampled_from(GLOBS), min_size=1, max_size=2).map(tuple)
lines = st.builds(AllowRule, some(VERBS, 1), some_patterns, some(KINDS))
selectors = st.sampled_from([Selector("billing"), Selector("stock"), Selector(), Selector("", (("scope", "pci"),))])
grants = st.builds(
    Grant,
    st.sampled_from([f"g{n}" for n in range(9)]),
    st.sampled_from(["job", "other"]),
    st.just(""),
    selectors,
    st.just("ro"),
    st.sampled_from([("db",), ("d*",), ("other",)]),
    st.lists(lines, min_size=1, max_size=2).map(tuple),
    st.just("none"),
    expires_at_us=st.sampled_from([0, NOW, NOW + 1]),
)
denies = st.builds(GuardRule, some(VERBS), some(KINDS), patterns, some(TRAITS))
holds = st.builds(
    GuardRule,
    some(VERBS),
    some(KINDS),
    patterns,
    some(TRAITS),
    st.just(""),
    st.sampled_from(["dba", "security"]),
    st.integers(1, 3),
    st.integers(60, 90),
)
guards = st.builds(
    Guard,
    st.sampled_from([f"b{n}" for n in range(9)]),
    selectors,
    st.lists(denies, max_size=2).map(tuple),
    st.lists(holds, max_size=2).map(tuple),
)
part_lists = st.lists(grants | guards, max_size=6, unique_by=lambda part: part.name)
OPEN = Grant(
    "open", "job", "", Selector(), "ro", ("*",), (AllowRule(frozenset(VERBS), ("*",)),), "none"
)  # so that guards have something to narrow


def width(found: Verdict) -> tuple[int, int, int]:
    """How far a verdict goes: deny, hold (fewer people and more time go further), allow."""
    match found:
        case Deny():
            return 0, 0, 0
        case Hold():
            return 1, -found.count, found.within_s
        case Allow():
            return 2, 0, 0


# ---- for any rules and any exchange


@given(st.lists(guards, max_size=3, unique_by=lambda guard: guard.name), actions)
def test_without_a_grant_everything_is_denied(parts: list[Guard], action: Action) -> None:
    assert isinstance(verdict(rules_of(*parts), action), Deny)


@given(part_lists, actions)
def test_what_could_not_be_read_whole_is_denied_whatever_is_granted(parts: list[Grant | Guard], action: Action) -> None:
    found = verdict(rules_of(OPEN, *parts), replace(action, complete=False, why="a DO block"))
    assert isinstance(found, Deny)
    assert found.rule == "incomplete" and "a DO block" in found.message


@given(part_lists, guards, actions)
def test_a_guard_more_never_lets_more_through(parts: list[Grant | Guard], more: Guard, action: Action) -> None:
    before = [part for part in (OPEN, *parts) if part.name != more.name]
    first, second = verdict(rules_of(*before), action), verdict(rules_of(*before, more), action)
    assert width(second) <= width(first)
    if isinstance(first, Hold) and isinstance(second, Hold):
        assert first.approvers == second.approvers  # another group cannot take the place of the one that was named
        assert second.count >= first.count and second.within_s <= first.within_s


@given(part_lists, st.data(), actions)
def test_a_grant_less_never_lets_more_through(parts: list[Grant | Guard], data: st.DataObject, action: Action) -> None:
    held = [part for part in parts if isinstance(part, Grant)]
    if held:
        less = data.draw(st.sampled_from(held))
        fewer = [part for part in parts if part is not less]
        assert width(verdict(rules_of(*fewer), action)) <= width(verdict(rules_of(*parts), action))


@given(part_lists, actions)
def test_a_hold_never_lets_through_what_no_grant_allows(parts: list[Grant | Guard], action: Action) -> None:
    without = [part for part in parts if isinstance(part, Grant)]
    if isinstance(verdict(rules_of(*without), action), Deny):
        assert isinstance(verdict(rules_of(*parts), action), Deny)


@given(part_lists, st.randoms(), actions)
def test_the_order_of_documents_changes_nothing(parts: list[Grant | Guard], random: object, action: Action) -> None:
    other = list(parts)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert verdict(rules_of(*parts), action) == verdict(rules_of(*other), action)


@given(part_lists, actions)
def test_deny_beats_hold_beats_allow(parts: list[Grant | Guard], action: Action) -> None:
    parts = [OPEN, *parts]
    found = verdict(rules_of(*parts), replace(action, complete=True))
    bars = [part for part in parts if isinstance(part, Guard) and part.target in (Selector("billing"), Selector())]
    bars += [part for part in parts if isinstance(part, Guard) and part.target.labels]
    if any(_bars(line, action) for bar in bars for line in bar.deny):
        assert isinstance(found, Deny)
    elif any(_bars(line, action) for bar in bars for line in bar.hold):
        assert isinstance(found, Hold) or (isinstance(found, Deny) and found.rule in ("no-grant", "hold-conflict"))
    else:
        assert not isinstance(found, Hold)


def _bars(line: GuardRule, action: Action) -> bool:
    """An oracle for resolved names: what a guard's line means, word for word."""
    if line.traits and not line.traits & action.traits:
        return False
    if not (line.verbs or line.objects or line.resources):
        return bool(line.traits) or bool(action.touches)
    return any(
        (not line.verbs or touch.verb in line.verbs)
        and (not line.objects or touch.kind in line.objects or (touch.kind == "relation" and "table" in line.objects))
        and (not line.resources or any(_slow_may(glob, touch.name) for glob in line.resources))
        for touch in action.touches
    )


def _slow_may(glob: str, name: str) -> bool:
    if not name.startswith("?."):
        return _slow(glob, name)
    schemas = ["s", "public", "a", "ab", "public.a", "public.", "?"]  # every one that could matter to GLOBS
    return any(_slow(glob, schema + name[1:]) for schema in schemas)


def _slow(glob: str, name: str) -> bool:
    """What a glob means, without regular expressions."""
    if not glob:
        return not name
    if glob[0] == "*":
        return _slow(glob[1:], name) or (bool(name) and _slow(glob, name[1:]))
    return bool(name) and glob[0] in ("?", name[0]) and _slow(glob[1:], name[1:])


@pytest.fixture(scope="module")
def verifier() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_c", Path(__file__).parents[2] / "verifier" / "verify.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


client = st.sampled_from(
    [
        Touch("relation", "pg_catalog.pg_class", "select"),
        Touch("relation", "pg_catalog.pg_authid", "select"),
        Touch("relation", "pg_catalog.pg_class", "delete"),
        Touch("function", "pg_catalog.version", "call"),
        Touch("function", "pg_catalog.pg_read_file", "call"),
        Touch("setting", "work_mem", "show"),
        Touch("setting", "my.secret", "show"),
        Touch("setting", "search_path", "set"),
        Touch("transaction", "transaction", "begin"),
        Touch("transaction", "x", "prepare"),
    ]
)


@settings(max_examples=150)
@given(st.lists(grants, max_size=4, unique_by=lambda grant: grant.name), touches | client)
def test_the_verifier_finds_declared_exactly_what_the_judge_allows(
    verifier: ModuleType, parts: list[Grant], touch: Touch
) -> None:
    parts = [
        replace(part, expires_at_us=0, databases=("*",), basics="client" if part.name < "g4" else "none")
        for part in parts
    ]
    rules = rules_of(*parts)
    lines = [line.split("|") for line in declared(rules)]
    asked = SimpleNamespace(lines=lines, published=basics.published())
    ses = SimpleNamespace(identity="job", groups=[], target="billing", protocol="postgres")
    inside = verifier.inside(asked, ses, f"{touch.verb} {touch.kind} {touch.name}")
    assert inside == isinstance(verdict(rules, Action((touch,))), Allow)


# ---- patterns


@given(st.text("ab.*?", max_size=8), st.text("ab.?\n", max_size=8))
def test_a_pattern_means_what_its_two_signs_say(glob: str, name: str) -> None:
    assert globs.matches(glob, name) == _slow(glob, name)


@given(st.text("ab.*?", min_size=1, max_size=5), st.text("ab.*?", min_size=1, max_size=5), st.text("ab.", max_size=6))
def test_a_pattern_inside_another_fits_nothing_that_the_other_does_not(inner: str, outer: str, name: str) -> None:
    if globs.inside(inner, outer) and globs.matches(inner, name):
        assert globs.matches(outer, name)


@pytest.mark.parametrize(
    ("inner", "outer", "said"),
    [
        ("public.a", "public.*", True),
        ("public.*", "public.*", True),
        ("public.a*", "public.*", True),
        ("public.*", "public.??", False),
        ("*", "public.*", False),
        ("public.?", "public.*", True),
        ("public.*", "public.?*", False),
    ],
)
def test_a_pattern_is_known_to_be_inside_another(inner: str, outer: str, said: bool) -> None:
    assert globs.inside(inner, outer) is said


@given(st.text("ab.*?", min_size=1, max_size=6), st.text("ab", min_size=1, max_size=3), st.text("ab.", max_size=3))
def test_a_guard_may_fit_a_name_whose_schema_is_unknown(glob: str, schema: str, rest: str) -> None:
    if _slow(glob, f"{schema}.{rest}"):
        assert globs.may_match(glob, f"?.{rest}")


def test_a_pattern_takes_linear_time_on_a_hostile_name() -> None:
    assert not globs.matches("*a" * 8 + "b", "a" * 20_000)


# ---- by hand


def grant(name: str, verbs: str, *resources: str, **more: object) -> Grant:
    made = Grant(
        name, "job", "", Selector("billing"), "ro", ("db",), (AllowRule(frozenset(verbs.split()), resources),), "none"
    )
    return replace(made, **more)  # type: ignore[arg-type]


READS = grant("reads", "select", "public.invoices", "public.cust*")
DROPS = grant("drops", "drop", "*")
WRITES = grant("writes", "select update delete", "public.*")
SAFETY = Guard(
    "safety",
    Selector("", (("scope", "pci"),)),
    deny=(
        GuardRule(frozenset({"drop", "truncate"}), frozenset({"table", "schema"})),
        GuardRule(frozenset({"update", "delete"}), traits=frozenset({"no-where"}), message="Say which rows."),
        GuardRule(frozenset(), traits=frozenset({"several-statements"}), message="One at a time."),
    ),
    hold=(GuardRule(frozenset({"drop"}), frozenset({"database"}), approvers="dba", count=2, within_s=900),),
)
ALL = rules_of(READS, DROPS, WRITES, SAFETY)


def act(*parts: str, traits: str = "") -> Action:
    made = [part.split(" ", 2) for part in parts]
    return Action(tuple(Touch(kind, name, verb) for verb, kind, name in made), traits=frozenset(traits.split()))


@pytest.mark.parametrize(
    ("parts", "action", "kind", "rule"),
    [
        ((READS,), act("select relation public.invoices"), Allow, "reads"),
        ((READS,), act("select relation public.customers"), Allow, "reads"),
        ((READS,), act("select relation public.Invoices"), Deny, "no-grant"),
        ((READS,), act("select relation public_invoices"), Deny, "no-grant"),
        ((READS,), act("select relation public.invoices", "select relation public.salaries"), Deny, "no-grant"),
        ((READS,), act("delete relation public.invoices"), Deny, "no-grant"),
        ((READS,), act("select relation ?.invoices"), Deny, "no-grant"),
        ((READS,), act(), Allow, "basics"),
        ((), act(), Deny, "no-grant"),
        ((DROPS,), act("drop table ?.a"), Allow, "drops"),
        ((READS, WRITES), act("select relation public.invoices", "update relation public.x"), Allow, "reads,writes"),
        ((READS, SAFETY), act("drop table public.invoices"), Deny, "safety"),
        ((DROPS, SAFETY), act("drop table public.invoices"), Deny, "safety"),
        ((DROPS, SAFETY), act("truncate relation public.invoices"), Deny, "safety"),
        ((DROPS, SAFETY), act("drop view public.v"), Allow, "drops"),
        ((DROPS, SAFETY), act("drop database scratch"), Hold, "safety"),
        ((READS, SAFETY), act("drop database scratch"), Deny, "no-grant"),
        ((WRITES, SAFETY), act("update relation public.a", traits="no-where"), Deny, "safety"),
        ((WRITES, SAFETY), act("update relation public.a"), Allow, "writes"),
        ((WRITES, SAFETY), act("select relation public.a", traits="no-where"), Allow, "writes"),
        ((WRITES, SAFETY), act("select relation public.a", traits="several-statements"), Deny, "safety"),
        ((WRITES, SAFETY), act(traits="several-statements"), Deny, "safety"),
    ],
)
def test_a_verdict_is_the_one_that_was_written_by_hand(
    parts: tuple[Grant | Guard, ...], action: Action, kind: type[Verdict], rule: str
) -> None:
    found = verdict(rules_of(*parts), action)
    assert (type(found), found.rule) == (kind, rule)


def test_a_denial_says_what_was_asked_and_what_to_do_next() -> None:
    found = verdict(rules_of(READS), act("select relation public.salaries"))
    assert isinstance(found, Deny)
    assert found.message == "verb select on public.salaries is not granted to job at billing"
    assert found.detail == "grants in force here: reads"
    assert found.hint.startswith("Ask the owner of target billing for a Grant with `select` on it")


def test_a_guards_own_message_is_what_the_client_reads_first() -> None:
    found = verdict(ALL, act("delete relation public.a", traits="no-where"))
    assert isinstance(found, Deny)
    assert found.message == "Say which rows."
    assert "guard safety denies delete, update that is no-where at billing" in found.detail
    assert "delete public.a" in found.detail
    unsaid = verdict(ALL, act("drop table public.a"))
    assert isinstance(unsaid, Deny)
    assert unsaid.message == "guard safety does not let through at billing: drop table public.a"


def test_what_a_client_named_cannot_break_the_lines_of_a_message() -> None:
    found = verdict(rules_of(READS), act("select relation public.x\x1b[31m\nHINT: " + "y" * 500))
    assert isinstance(found, Deny)
    assert found.message.isprintable() and len(found.message) < 300


def test_a_guard_fits_what_could_be_what_it_names() -> None:
    guard = Guard("b", Selector(), (GuardRule(frozenset({"select"}), resources=("public.salaries", "hr.*")),))
    wide = grant("wide", "select", "*")
    for name, kind in (("?.salaries", Deny), ("?.other", Deny), ("public.other", Allow), ("public.salaries", Deny)):
        assert type(verdict(rules_of(wide, guard), act(f"select relation {name}"))) is kind
    narrow = Guard("b", Selector(), (GuardRule(frozenset({"select"}), resources=("public.salaries",)),))
    assert type(verdict(rules_of(wide, narrow), act("select relation ?.other"))) is Allow


def test_of_two_guards_that_deny_the_first_by_name_is_the_one_that_speaks() -> None:
    first, second = (Guard(name, Selector(), (GuardRule(frozenset({"drop"}), message=name),)) for name in ("a", "b"))
    for parts in ((first, second), (second, first)):
        found = verdict(rules_of(DROPS, *parts), act("drop table public.a"))
        assert isinstance(found, Deny)
        assert (found.rule, found.message) == ("a", "a")


def test_a_hold_asks_the_people_it_names_about_what_is_asked() -> None:
    found = verdict(ALL, act("drop database scratch"))
    assert found == Hold("safety", "job asks to drop database scratch at billing", "dba", 2, 900, "drops")


def test_two_holds_are_one_question_with_the_most_people_and_the_least_time() -> None:
    rule = GuardRule(frozenset({"drop"}), approvers="dba", count=1, within_s=60, message="Tell the team.")
    found = verdict(rules_of(DROPS, SAFETY, Guard("also", Selector(), hold=(rule,))), act("drop database scratch"))
    question = "job asks to drop database scratch at billing. Tell the team."
    assert found == Hold("also,safety", question, "dba", 2, 60, "drops")


def test_two_holds_for_different_people_are_refused_since_neither_may_be_passed_by() -> None:
    rule = GuardRule(frozenset({"drop"}), approvers="interns", count=5)
    found = verdict(rules_of(DROPS, SAFETY, Guard("also", Selector(), hold=(rule,))), act("drop database scratch"))
    assert isinstance(found, Deny)
    assert found.rule == "hold-conflict" and "dba, interns" in found.message


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (act("show setting work_mem"), Allow),
        (act("begin transaction transaction"), Allow),
        (act("select relation pg_catalog.pg_class", "call function pg_catalog.version"), Allow),
        (act("select relation pg_catalog.pg_authid"), Deny),
        (act("select relation ?.pg_class"), Deny),
        (act("show setting ?.work_mem"), Deny),
        (act("call function pg_catalog.pg_read_file"), Deny),
        (act("select relation public.x"), Deny),
    ],
)
def test_basics_open_only_what_is_published_and_only_with_a_grant_that_has_them(
    action: Action, kind: type[Verdict]
) -> None:
    assert type(verdict(rules_of(replace(READS, basics="client")), action)) is kind
    assert type(verdict(rules_of(READS), action)) is Deny
    assert type(verdict(rules_of(), action)) is Deny
    barred = Guard("b", Selector(), (GuardRule(frozenset(), frozenset({"relation", "setting", "transaction"})),))
    assert type(verdict(rules_of(replace(READS, basics="client"), barred), action)) is Deny


def test_a_verdict_names_the_grants_that_were_needed_and_basics_where_none_was() -> None:
    rules = rules_of(replace(READS, basics="client"))
    assert verdict(rules, act("show setting work_mem")) == Allow("basics")
    assert verdict(rules, act("show setting work_mem", "select relation public.invoices")) == Allow("reads")


# ---- what is in force


def names_of(rules: Rules, groups: Iterable[str] = (), database: str = "db", now_us: int = NOW, role: str = "") -> str:
    return " ".join(one.name for one in context(rules, "job", groups, BILLING, database, now_us, role).grants)


def test_a_grant_is_in_force_for_its_target_database_role_and_time() -> None:
    rules = rules_of(READS, replace(DROPS, role="rw"), grant("ends", "select", "*", expires_at_us=NOW + 1))
    assert names_of(rules) == "drops ends reads"
    assert names_of(rules, now_us=NOW + 1) == "drops reads"
    assert names_of(rules, database="other") == ""
    assert names_of(rules, role="ro") == "ends reads"
    assert context(rules, "job", (), STOCK, "db", NOW).grants == ()
    assert context(rules, "stranger", (), BILLING, "db", NOW).grants == ()


def test_a_group_counts_only_while_the_identity_can_have_it() -> None:
    rules = rules_of(replace(READS, identity="", group="reporting"), replace(DROPS, identity="", group="dba"))
    assert names_of(rules, ("reporting", "dba")) == "reads"
    rules.identities["job"] = replace(JOB, groups_claim="groups", groups_only=frozenset({"dba"}))
    assert names_of(rules, ("reporting", "dba")) == "drops reads"
    assert names_of(rules, ()) == ""
    assert names_of(rules, ("",)) == ""


def test_what_is_declared_is_one_line_a_target_and_rule() -> None:
    wide = replace(DROPS, name="wide", identity="", group="reporting", target=Selector(), basics="client")
    wide = replace(wide, allow=(AllowRule(frozenset({"drop", "alter"}), ("a.*", "b"), frozenset({"table"})),))
    assert declared(rules_of(READS, wide)) == (
        "reads|job|billing|select|public.invoices,public.cust*|",
        "wide|@reporting|billing|alter,drop|a.*,b|relation,table",
        "wide|@reporting|billing|basics|client|",
        "wide|@reporting|stock|alter,drop|a.*,b|relation,table",
        "wide|@reporting|stock|basics|client|",
    )


ISSUER = Issuer("github", "https://i.example.org", match=(("org", "1"),))
BY_TOKEN = replace(JOB, logins=(OidcLogin("github", (("repo", "7"),)),))
TOKEN = Provenance(
    "oidc", ISSUER.url, "s", "gw", "", "RS256", 0, 0, "", "", (("more", "x"), ("org", "1"), ("repo", "7")), ()
)
KEY = replace(TOKEN, method="api-key", issuer="", alg="", claims=())


def admitted(provenance: Provenance = KEY, groups: Iterable[str] = (), role: str = "ro") -> Admission:
    identity = Identity("job", "ci-job", "ada@example.org", frozenset(groups), Initiator(), provenance, "")
    return Admission(identity, BILLING, role, "db", ("reads",), 1, 1 << 60)


def with_job(job: IdentityRule, *parts: Grant | Guard) -> Rules:
    return replace(rules_of(*parts or (READS,)), identities={"job": job}, issuers={"github": ISSUER})


def with_target(target: Target) -> Rules:
    return replace(rules_of(READS), targets={"billing": target})


def test_a_session_goes_on_while_the_rules_would_admit_it() -> None:
    for rules in (
        rules_of(READS, SAFETY),
        rules_of(READS, DROPS, WRITES),
        with_job(replace(JOB, expires_at_us=NOW + 1)),
        with_target(replace(BILLING, connections=3, labels=())),
        rules_of(replace(READS, expires_at_us=NOW + 1)),
    ):
        assert still_allowed(rules, admitted(), NOW) == ""
    assert still_allowed(with_job(BY_TOKEN), admitted(TOKEN), NOW) == ""
    in_group = rules_of(replace(READS, identity="", group="reporting"))
    assert still_allowed(in_group, admitted(groups={"reporting"}), NOW) == ""


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (replace(rules_of(READS), identities={}), "identity job was removed"),
        (with_job(replace(JOB, expires_at_us=NOW)), "has expired"),
        (replace(rules_of(READS), targets={}), "target billing was removed"),
        (with_target(replace(BILLING, host="elsewhere")), "another way"),
        (with_target(replace(BILLING, port=5433)), "another way"),
        (with_target(replace(BILLING, tls="verify-full")), "another way"),
        (with_target(replace(BILLING, ca_file="ca.pem")), "another way"),
        (with_target(replace(BILLING, protocol="other")), "another way"),
        (with_target(replace(BILLING, roles=(Role("rw", None),))), "role ro was removed"),
        (rules_of(), "no grant in force"),
        (rules_of(replace(READS, role="rw")), "no grant in force"),
        (rules_of(replace(READS, databases=("other",))), "no grant in force"),
        (rules_of(replace(READS, target=Selector(name="stock"))), "no grant in force"),
        (rules_of(replace(READS, expires_at_us=NOW)), "no grant in force"),
        (rules_of(replace(READS, identity="", group="reporting")), "no grant in force"),
    ],
)
def test_a_session_is_cut_when_the_rules_would_not_admit_it(rules: Rules, why: str) -> None:
    assert why in still_allowed(rules, admitted(), NOW)


@pytest.mark.parametrize(
    "job",
    [
        replace(JOB, groups=frozenset()),
        replace(JOB, groups=frozenset(), groups_claim="groups", groups_only=frozenset({"dba"})),
        replace(JOB, groups=frozenset(), groups_only=frozenset({"reporting"})),
    ],
)
def test_a_session_is_cut_when_it_has_a_group_that_it_could_no_longer_get(job: IdentityRule) -> None:
    assert "no longer in reporting" in still_allowed(with_job(job), admitted(groups={"reporting"}), NOW)
    kept = replace(job, groups_claim="groups", groups_only=frozenset({"reporting"}))
    assert still_allowed(with_job(kept), admitted(groups={"reporting"}), NOW) == ""


@pytest.mark.parametrize(
    ("issuer", "job", "token"),
    [
        (ISSUER, BY_TOKEN, replace(TOKEN, claims=(("org", "2"), ("repo", "7")))),
        (ISSUER, BY_TOKEN, replace(TOKEN, claims=(("org", "1"),))),
        (ISSUER, BY_TOKEN, replace(TOKEN, issuer="https://other.example.org")),
        (ISSUER, BY_TOKEN, replace(TOKEN, method="api-key")),
        (ISSUER, BY_TOKEN, KEY),
        (ISSUER, JOB, TOKEN),
        (None, BY_TOKEN, TOKEN),
        (replace(ISSUER, algorithms=("ES256",)), BY_TOKEN, TOKEN),
        (replace(ISSUER, audience="other"), BY_TOKEN, TOKEN),
        (replace(ISSUER, match=(("org", "1"), ("ref", "main"))), BY_TOKEN, TOKEN),
        (ISSUER, replace(BY_TOKEN, logins=(OidcLogin("gitlab", (("repo", "7"),)),)), TOKEN),
    ],
)
def test_a_session_is_cut_when_its_login_is_no_longer_trusted(
    issuer: Issuer | None, job: IdentityRule, token: Provenance
) -> None:
    rules = replace(with_job(job), issuers={"github": issuer} if issuer is not None else {})
    assert "no longer accepts the login" in still_allowed(rules, admitted(token), NOW)


def test_the_judge_answers_for_every_mix_of_a_touch_and_a_rule() -> None:
    for kind, name, verb in product((*KINDS, "", "\0"), (*NAMES, "", "*"), (*VERBS, "", "basics")):
        assert isinstance(verdict(ALL, Action((Touch(kind, name, verb),))), Allow | Deny | Hold)
