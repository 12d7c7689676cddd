"""Manifests: what each kind becomes, and that every mistake is a problem with its place and its mend."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.judge import kinds, manifests, policy
from muniment.judge.documents import digest
from muniment.model.errors import ConfigError
from muniment.model.rules import (
    AllowRule,
    ApiKeyLogin,
    Durability,
    Grant,
    Guard,
    GuardRule,
    IdentityRule,
    Issuer,
    Mask,
    OidcLogin,
    Person,
    Role,
    Rules,
    SecretRef,
    Selector,
    Target,
)
from muniment.protocols.sql import postgres

JUNE_30_2027_OVER_US = int(datetime(2027, 7, 1, tzinfo=UTC).timestamp()) * 1_000_000
NOW_US = 1_790_000_000_000_000  # in September 2026


def key(letter: str) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + letter.encode() * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {letter}@example.org"


GOOD = f"""\
apiVersion: muniment/v1
kind: Issuer
metadata: {{name: github}}
spec:
  url: https://token.example.org
  match: {{repository_owner_id: "123456"}}
  initiator: {{kind: "=schedule", id: actor_id, run: run_id}}
  keep: [repository]
  ca: {{file: /etc/ca.pem}}
---
apiVersion: muniment/v1
kind: Identity
metadata: {{name: nightly-report}}
spec:
  kind: ci-job
  owner: ada@example.org
  deputy: grace@example.org
  purpose: Builds the nightly revenue report from the billing database.
  ticket: OPS-1412
  labels: {{environment: production}}
  expires: 2027-06-30
  groups: {{static: [reporting], fromToken: {{claim: groups, only: [reporting]}}}}
  login:
    - oidc: {{issuer: github, match: {{repository_id: 0456789, environment: production}}}}
    - apiKey: {{maxAge: 90d}}
  session: {{maxAge: 4h, idle: 15m, parallel: 10, interactive: false, notice: true}}
---
apiVersion: muniment/v1
kind: Target
metadata: {{name: billing, labels: {{environment: production, scope: pci}}}}
spec:
  protocol: postgres
  address: db.internal:5432
  tls: {{mode: verify-full, ca: {{file: /etc/muniment/db-ca.pem}}}}
  listen: {{port: 15432}}
  roles:
    report_ro: {{password: {{file: /run/secrets/report_ro}}}}
    app: {{password: {{env: APP}}}}
    local: {{trust: true}}
  limits: {{connections: 40}}
  durability: disk
---
apiVersion: muniment/v1
kind: Grant
metadata: {{name: reads-billing}}
spec:
  to: {{identity: nightly-report}}
  target: billing
  as: report_ro
  databases: [billing]
  allow:
    - {{verbs: [select], resources: [public.invoices, public.customers]}}
    - {{verbs: [call], resources: [public.fx_rate]}}
  basics: client
  ticket: OPS-1412
  expires: 2027-06-30
---
apiVersion: muniment/v1
kind: Guard
metadata: {{name: production-safety}}
spec:
  target: {{labels: {{environment: production}}}}
  deny:
    - {{verbs: [drop, truncate], objects: [table, schema]}}
    - {{verbs: [update, delete], traits: [no-where], message: Say which rows.}}
  hold:
    - {{verbs: [drop], objects: [database], approvers: {{group: dba, count: 2}}, within: 30m}}
    - {{verbs: [alter, create, grant], approvers: {{group: dba}}}}
---
apiVersion: muniment/v1
kind: Mask
metadata: {{name: cardholder-data}}
spec:
  target: {{labels: {{scope: pci}}}}
  columns: {{card_number: [public.customers.card_number], us_ssn: ["*.ssn"]}}
  detect: [card_number, us_ssn, api_secret]
  show: {{card_number: first6-last4, us_ssn: redact, api_secret: null}}
---
apiVersion: muniment/v1
kind: Person
metadata: {{name: ada}}
spec: {{email: ada@example.org, groups: [dba], keys: ["{key("a")}"]}}
---
apiVersion: muniment/v1
kind: Person
metadata: {{name: grace}}
spec: {{email: grace@example.org, groups: [dba, audit], keys: ["{key("g")}"]}}
"""


def parse(text: str, now_us: int = NOW_US, known: tuple[str, ...] = ()) -> Rules:
    return manifests.parse([("m.yaml", text)], now_us, known)


def problems(*texts: str, now_us: int = NOW_US) -> list[str]:
    """ "line: what | mend" of each problem."""
    try:
        manifests.parse([(f"m{n}.yaml" if n else "m.yaml", text) for n, text in enumerate(texts)], now_us)
    except ConfigError as error:
        return [f"{one.where.removeprefix('m.yaml:')}: {one.what} | {one.mend}" for one in error.problems]
    return []


def changed(old: str, new: str) -> list[str]:
    """The problems after one change to the good documents."""
    assert old in GOOD
    return problems(GOOD.replace(old, new))


def line(part: str) -> int:
    """The line of the good documents in which this stands."""
    return GOOD[: GOOD.index(part)].count("\n") + 1


# ---- what each kind becomes


def test_every_kind_becomes_what_was_written() -> None:
    rules = parse(GOOD)
    assert rules.issuers["github"] == Issuer(
        "github",
        "https://token.example.org",
        match=(("repository_owner_id", "123456"),),
        initiator=(("id", "actor_id"), ("kind", "=schedule"), ("run", "run_id")),
        keep=("repository",),
        ca_file="/etc/ca.pem",
    )
    assert rules.identities["nightly-report"] == IdentityRule(
        "nightly-report",
        "ci-job",
        "ada@example.org",
        "Builds the nightly revenue report from the billing database.",
        (
            OidcLogin("github", (("environment", "production"), ("repository_id", "0456789"))),
            ApiKeyLogin(90 * 86400),
        ),
        "grace@example.org",
        "OPS-1412",
        (("environment", "production"),),
        JUNE_30_2027_OVER_US,
        frozenset({"reporting"}),
        "groups",
        frozenset({"reporting"}),
        4 * 3600,
        900,
        10,
        True,
    )
    assert rules.targets["billing"] == Target(
        "billing",
        "postgres",
        "db.internal",
        5432,
        "verify-full",
        (
            Role("app", SecretRef("env", "APP")),
            Role("local", None),
            Role("report_ro", SecretRef("file", "/run/secrets/report_ro")),
        ),
        (("environment", "production"), ("scope", "pci")),
        "/etc/muniment/db-ca.pem",
        15432,
        Durability.DISK,
        40,
    )
    assert rules.grants["reads-billing"] == Grant(
        "reads-billing",
        "nightly-report",
        "",
        Selector("billing"),
        "report_ro",
        ("billing",),
        (
            AllowRule(frozenset({"select"}), ("public.invoices", "public.customers")),
            AllowRule(frozenset({"call"}), ("public.fx_rate",)),
        ),
        "client",
        "OPS-1412",
        JUNE_30_2027_OVER_US,
    )
    assert rules.guards["production-safety"] == Guard(
        "production-safety",
        Selector("", (("environment", "production"),)),
        (
            GuardRule(frozenset({"drop", "truncate"}), frozenset({"table", "schema"})),
            GuardRule(frozenset({"update", "delete"}), traits=frozenset({"no-where"}), message="Say which rows."),
        ),
        (
            GuardRule(frozenset({"drop"}), frozenset({"database"}), approvers="dba", count=2, within_s=1800),
            GuardRule(frozenset({"alter", "create", "grant"}), approvers="dba"),
        ),
    )
    assert rules.masks["cardholder-data"] == Mask(
        "cardholder-data",
        Selector("", (("scope", "pci"),)),
        (("card_number", ("public.customers.card_number",)), ("us_ssn", ("*.ssn",))),
        ("card_number", "us_ssn", "api_secret"),
        (("api_secret", "null"), ("card_number", "first6-last4"), ("us_ssn", "redact")),
    )
    assert rules.persons["grace"] == Person("grace", "grace@example.org", frozenset({"dba", "audit"}), (key("g"),))


def test_what_is_left_out_has_the_defaults_that_are_safe() -> None:
    rules = parse(GOOD.replace("  tls: {mode: verify-full, ca: {file: /etc/muniment/db-ca.pem}}\n", ""))
    assert rules.targets["billing"].tls == "verify-full"
    text = "\n".join(one for one in GOOD.splitlines() if "session:" not in one and "basics:" not in one)
    identity = parse(text).identities["nightly-report"]
    assert (identity.max_age_s, identity.idle_s, identity.parallel, identity.notice) == (14400, 900, 10, True)
    assert parse(text).grants["reads-billing"].basics == "client"


def test_who_shortens_the_age_of_sessions_need_not_write_how_long_they_may_idle() -> None:
    identity = parse(GOOD.replace("maxAge: 4h, idle: 15m", "maxAge: 5m")).identities["nightly-report"]
    assert (identity.max_age_s, identity.idle_s) == (300, 300)


def test_json_is_read_as_well_and_gives_the_same_rules_and_digest() -> None:
    found = manifests.documents([("m.yaml", GOOD)])
    again = [(one.name + ".json", one.text) for one in reversed(found)]
    assert manifests.parse(again, NOW_US) == parse(GOOD)
    assert [one.digest for one in manifests.documents(again)] == [one.digest for one in found]


def test_a_documents_digest_is_that_of_its_meaning_and_not_of_its_layout() -> None:
    [one] = manifests.documents(
        [("a", "apiVersion: muniment/v1\nkind: Person\nmetadata: {name: x}\nspec: {email: e@x}")]
    )
    other = "# why\nspec:\n  email: 'e@x'\nmetadata:\n  name: x\nkind: Person\napiVersion: 'muniment/v1'\n"
    [two] = manifests.documents([("b", other)])
    assert one.digest == two.digest == digest(one.text)
    assert (one.kind, one.name, one.file, one.line) == ("Person", "x", "a", 1)


def test_the_sets_digest_does_not_depend_on_files_or_their_order() -> None:
    parts = GOOD.split("---\n")
    spread = [(f"{n}.yaml", part) for n, part in enumerate(reversed(parts))]
    assert manifests.parse(spread, NOW_US) == parse(GOOD)
    assert parse(GOOD).digest != parse(GOOD.replace("OPS-1412", "OPS-1413")).digest


# ---- every mistake is a problem


def test_all_problems_come_at_once_sorted_by_file_and_line() -> None:
    text = GOOD.replace("kind: ci-job", "kind: cron").replace("verbs: [select]", "verbs: [selct]")
    found = problems(text.replace("as: report_ro", "as: nobody"), "kind: Nothing\n", "a: [\n")
    where = [one.split(": ")[0] for one in found]
    assert where == sorted(where, key=lambda one: (one[0] == "m", one if one[0] == "m" else int(one)))
    assert len(found) >= 6
    assert any("did you mean `select`?" in one for one in found)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # heads
        ("apiVersion: muniment/v1\nkind: Issuer", "kind: Issuer", "`apiVersion` is missing"),
        ("apiVersion: muniment/v1\nkind: Issuer", "apiVersion: v1\nkind: Issuer", "write `apiVersion: muniment/v1`"),
        ("kind: Issuer", "kind: Isuer", "unknown kind `Isuer` | did you mean `Issuer`?"),
        ("kind: Mask", "kind: Retention", "kind Retention is not in force in this release"),
        ("metadata: {name: github}", "metadata: {name: GitHub}", "`name` is not a DNS label"),
        ("metadata: {name: github}", "metadata: {name: -x}", "`name` is not a DNS label"),
        ("metadata: {name: github}", "metadata: {name: " + "x" * 64 + "}", "`name` is not a DNS label"),
        ("metadata: {name: github}\n", "", "`metadata` is missing"),
        ("metadata: {name: reads-billing}", "metadata: {name: reads-billing, labels: {a: b}}", "a Grant has no labels"),
        ("spec:\n  url", "spce:\n  url", "unknown field `spce` | did you mean `spec`?"),
        # issuers
        ("https://token.example.org", "http://token.example.org", "`url` is not https"),
        ("https://token.example.org", "token.example.org", "`url` is not an issuer's address"),
        ("https://token.example.org", "https://u:p@token.example.org", "`url` is not an issuer's address"),
        ("https://token.example.org", "https://[", "`url` is not an issuer's address"),
        ("  keep: [repository]", "  algorithms: [HS256]", "cannot be `HS256`"),
        ("  keep: [repository]", "  algorithms: [none]", "cannot be `none`"),
        ("  keep: [repository]", "  leeway: 10m", "longer than five minutes"),
        ("  keep: [repository]", "  staleIfDown: 30d", "longer than a week"),
        ("  keep: [repository]", "  preset: github-actions", "`preset` is not in force in this release"),
        ("  keep: [repository]", "  keeps: [repository]", "unknown field `keeps` | did you mean `keep`?"),
        ('"=schedule"', '"=cron"', "`kind` cannot be `=cron`"),
        ("run: run_id", "runner: run_id", "unknown field `runner` | did you mean `run`?"),
        # identities
        ("kind: ci-job", "kind: human", "cannot be `human`"),
        ("  purpose: Builds the nightly revenue report from the billing database.\n", "", "`purpose` is missing"),
        (", match: {repository_id: 0456789, environment: production}", "", "every token of issuer github"),
        ("{repository_id: 0456789, environment: production}", "{aud: gw}", "every token of issuer github"),
        ("oidc: {issuer: github", "oidc: {issuer: gitlab", "there is no Issuer `gitlab`"),
        ("- apiKey: {maxAge: 90d}", "- existing: {user: x}", "`existing` is not in force"),
        ("- apiKey: {maxAge: 90d}", "- {}", "a login is one of `oidc` and `apiKey`"),
        ("- apiKey: {maxAge: 90d}", "- {apiKey: {maxAge: 1d}, oidc: {issuer: github, match: {a: b}}}", "a login is"),
        ("- apiKey: {maxAge: 90d}", "- apiKey: {maxAge: 90 days}", "`maxAge` is not a duration"),
        ("interactive: false", "interactive: true", "`interactive: true` is not in force"),
        ("interactive: false", "interactive: nope", "`interactive` is yes or no"),
        ("idle: 15m", "idle: 5h", "`idle` is longer than `maxAge`"),
        ("parallel: 10", "parallel: 0", "`parallel` is not a number in its range"),
        ("{claim: groups, only: [reporting]}", "{claim: groups}", "`only` is missing"),
        ("static: [reporting]", "static: reporting", "`static` is a list | write `static: [first, second]`"),
        ("static: [reporting]", "static: ['a|b']", "is not a group's name"),
        ("  ticket: OPS-1412\n  labels", "  team: x\n  labels", "`team` is not in force"),
        # targets
        ("protocol: postgres", "protocol: mysql", "`mysql` is not in force in this release"),
        ("protocol: postgres", "protocol: postgers", "did you mean `postgres`?"),
        ("address: db.internal:5432", "address: db.internal", "`address` is not host:port"),
        ("address: db.internal:5432", "address: db.internal:99999", "`address` is not host:port"),
        ("address: db.internal:5432", "address: a:b:5432", "`address` has no plain host"),
        ("{mode: verify-full, ca", "{mode: disable, ca", "`ca` is never used with mode disable"),
        ("{mode: verify-full, ca", "{mode: prefer, ca", "cannot be `prefer`"),
        ("listen: {port: 15432}", "listen: {host: x, port: 15432}", "`host` is not in force"),
        ("listen: {port: 15432}", "logins: {postgres: x}", "`logins` is not in force"),
        ("{password: {env: APP}}", "{password: {env: APP, file: x}}", "one of `env` and `file`"),
        ("{password: {env: APP}}", "{password: {env: APP}, trust: true}", "one of `password` and `trust: true`"),
        ("{password: {env: APP}}", "{}", "one of `password` and `trust: true`"),
        ("durability: disk", "durability: memory", "cannot be `memory`"),
        # grants
        ("to: {identity: nightly-report}", "to: {identity: nigthly-report}", "did you mean `nightly-report`?"),
        ("to: {identity: nightly-report}", "to: {group: dba}", "no identity can have the group `dba`"),
        ("to: {identity: nightly-report}", "to: {identity: x, group: y}", "one of `identity` and `group`"),
        ("  target: billing", "  target: biling", "there is no Target `biling` | did you mean `billing`?"),
        ("  target: billing", "  target: {labels: {scope: hr}}", "no target has the labels {scope: hr}"),
        ("  target: billing", "  target: {name: billing, labels: {scope: pci}}", "one of a name and labels"),
        ("as: report_ro", "as: report_rw", "billing has no role `report_rw` | did you mean `report_ro`?"),
        ("verbs: [select]", "verbs: [read-all]", "cannot be `read-all`"),
        ("verbs: [select]", "verbs: ['*']", "cannot be `*`"),
        ("verbs: [select]", "verbs: []", "`verbs` is empty"),
        ("verbs: [select],", "", "`verbs` is missing"),
        ("[public.fx_rate]", "['public.%']", "SQL LIKE"),
        ("[public.fx_rate]", "['a|b']", "which part fields in the evidence"),
        ("[public.fx_rate]", "['a,b']", "which part fields in the evidence"),
        ("  basics: client", "  mode: observe", "`observe` is not in force"),
        ("  basics: client", "  limits: {rows: 1}", "`limits` is not in force"),
        ("  basics: client", "  when: {days: mon-fri}", "`when` is not in force"),
        ("  basics: client", "  from: [10.0.0.0/8]", "`from` is not in force"),
        ("verbs: [select],", "verbs: [select], objects: [index],", "touch a relation"),
        ("metadata: {name: reads-billing}", "metadata: {name: no-grant}", "choose another name"),
        # guards
        ("message: Say which rows.", "messages: Say.", "did you mean `message`?"),
        ("traits: [no-where]", "traits: [nowhere]", "did you mean `no-where`?"),
        ("objects: [table, schema]", "objects: [tabel]", "did you mean `table`?"),
        ("within: 30m", "tell: [oncall]", "`tell` is not in force"),
        ("group: dba, count: 2", "group: dbas, count: 2", "no person has the group `dbas` | did you mean `dba`?"),
        ("group: dba, count: 2", "group: dba, count: 3", "3 people of `dba` must approve, and 2 could | add persons"),
        ("{verbs: [drop, truncate], objects: [table, schema]}", "{message: Never.}", "stands for everything"),
        ("  target: {labels: {environment: production}}\n  deny", "  deny", "`target` is missing"),
        # masks
        ("detect: [card_number, us_ssn, api_secret]", "detect: [card_nubmer]", "did you mean `card_number`?"),
        ("us_ssn: redact", "ssn: redact", "is in neither `columns` nor `detect`"),
        ("us_ssn: redact", "us_ssn: last5", "did you mean `last4`?"),
        ('us_ssn: ["*.ssn"]', "us_ssn: [ssn]", "`*.ssn` is any table's"),
        ('us_ssn: ["*.ssn"]', 'cvv: ["*.cvv"]', "put it in a Mask with `original: forget`"),
        ("  detect: [card_number", "  except: [{identity: x}]\n  detect: [card_number", "`except` is not in force"),
        # persons
        ("email: ada@example.org, groups", "email: ada, groups", "`email` is not an address"),
        ("email: ada@example.org, groups", "email: GRACE@example.org, groups", "one person could decide as two"),
        (key("a"), key("g"), "this is the key of Person/ada too"),
        (key("a"), "ssh-ed25519 AAAA", "it is cut"),
        (key("a"), key("a").replace("ssh-ed25519", "ssh-rsa", 1), "says two different types"),
        (key("a"), "ssh-dss AAAA", "it does not begin with one of"),
        (key("a"), "ssh-ed25519 not-base64!", "not base64"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_mend(old: str, new: str, said: str) -> None:
    found = changed(old, new)
    assert any(said in one for one in found), found


def test_one_mistake_is_one_problem_at_its_own_line() -> None:
    assert changed("as: report_ro", "as: report_rw") == [
        f"{line('as: report_ro')}: billing has no role `report_rw` | did you mean `report_ro`?"
    ]
    assert changed("verbs: [call]", "verbs: [cal]") == [
        f"{line('verbs: [call]')}: `verbs` cannot be `cal` | did you mean `call`?"
    ]
    assert changed("parallel: 10", "paralel: 10") == [
        f"{line('parallel: 10')}: unknown field `paralel` | did you mean `parallel`?"
    ]


def test_a_broken_document_does_not_make_those_that_name_it_look_broken() -> None:
    assert len(changed("protocol: postgres", "protocol: mysql")) == 1
    assert len(changed("kind: ci-job", "kind: cron")) == 1
    assert len(changed("  url: https", "  - url: https")) == 1
    text = GOOD.replace("to: {identity: nightly-report}", "to: {group: reporting}")
    assert not problems(text)
    assert len(problems(text.replace("kind: ci-job", "kind: cron"))) == 1


def test_two_documents_with_one_name_are_a_problem_that_names_both_places() -> None:
    place = GOOD[: GOOD.rindex("---")].count("\n") + 1
    rename = "rename one of them, or take it away"
    assert problems(GOOD, GOOD.split("---\n")[-1]) == [
        f"m1.yaml:1: Person/grace stands here and at m.yaml:{place + 1} | {rename}"
    ]


def test_a_secret_that_was_written_into_a_manifest_is_in_no_message() -> None:
    for wrong in (
        "{password: hunter2}",
        "{password: {value: hunter2}}",
        "hunter2",
        "{password: {file: [hunter2]}}",
        "{passwd: hunter2}",
        "{password: [hunter2], trust: hunter2}",
    ):
        found = changed("{password: {env: APP}}", wrong)
        assert found and "hunter2" not in str(found)


def test_an_issuer_on_this_machine_may_be_plain_http() -> None:
    for host in ("127.0.0.1:8080", "[::1]:8080", "localhost:8080/x"):
        assert not changed("https://token.example.org", f"http://{host}")
    assert changed("https://token.example.org", "http://127.0.0.1.example.org")


def test_what_has_expired_already_is_a_problem_unless_it_is_in_force() -> None:
    found = problems(GOOD, now_us=JUNE_30_2027_OVER_US)
    assert [one.split(" | ")[0].split(": ", 1)[1] for one in found] == [
        "Identity/nightly-report has expired already: it can never be used",
        "Grant/reads-billing has expired already: it can never be used",
    ]
    assert not problems(GOOD, now_us=JUNE_30_2027_OVER_US - 1)
    known = tuple(one.digest for one in manifests.documents([("m", GOOD)]))
    assert parse(GOOD, JUNE_30_2027_OVER_US, known) == parse(GOOD)


@pytest.mark.parametrize(("text", "seconds"), [("15s", 15), ("30m", 1800), ("4h", 14400), ("90d", 90 * 86400)])
def test_a_duration_has_one_unit(text: str, seconds: int) -> None:
    assert parse(GOOD.replace("maxAge: 90d", f"maxAge: {text}")).identities["nightly-report"].logins[1] == ApiKeyLogin(
        seconds
    )


@pytest.mark.parametrize("text", ["", "0s", "-1h", "1.5h", "4", "h", "1w", "99999d", "٣h", "4h\u00a0"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert any("`maxAge` is" in one for one in changed("maxAge: 90d", f'maxAge: "{text}"'))


@pytest.mark.parametrize(
    ("text", "over_us"),
    [
        ("2027-06-30", JUNE_30_2027_OVER_US),
        ("2027-06-30T23:59:00Z", JUNE_30_2027_OVER_US - 60_000_000),
        ("2027-06-30T23:00:30+02:00", JUNE_30_2027_OVER_US - 3 * 3_600_000_000 + 30_000_000),
    ],
)
def test_a_date_counts_to_its_end_and_a_moment_as_it_says(text: str, over_us: int) -> None:
    assert parse(GOOD.replace("2027-06-30", text)).grants["reads-billing"].expires_at_us == over_us


@pytest.mark.parametrize("text", ["2027-02-30", "30.6.2027", "2027-6-3", "2027-06-30T10:00:00", "9999-12-31", "never"])
def test_what_is_no_date_is_refused(text: str) -> None:
    found = changed("  expires: 2027-06-30\n  groups", f"  expires: {text}\n  groups")
    assert any("`expires` is not a date" in one for one in found)


# ---- rules that could never fire


def more(kind: str, name: str, spec: str) -> str:
    return f"{GOOD}---\napiVersion: muniment/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def said(kind: str, name: str, spec: str) -> str:
    [one] = problems(more(kind, name, spec))
    return one


def test_a_hold_behind_a_deny_never_fires() -> None:
    hold = "{target: billing, hold: [{verbs: [drop], objects: [table], approvers: {group: dba}}]}"
    place = f"m.yaml:{line('- {verbs: [drop, truncate]')}"
    assert f"guard production-safety ({place}) denies all of this before" in said("Guard", "zz", hold)
    assert not problems(more("Guard", "zz", hold.replace("[table]", "[view]")))
    assert not problems(more("Guard", "zz", hold.replace("objects: [table], ", "")))
    assert not problems(more("Guard", "zz", hold.replace("verbs: [drop], ", "")))
    stock = "{protocol: postgres, address: 'h:1', roles: {r: {trust: true}}}"
    elsewhere = more("Target", "stock", stock) + "---\n" + more("Guard", "zz", hold).split("---\n")[-1]
    assert not problems(elsewhere.replace("{target: billing", "{target: stock"))


def test_a_deny_behind_a_wider_one_never_fires_and_before_it_does() -> None:
    deny = "{target: billing, deny: [{verbs: [drop], objects: [schema], resources: [tmp.*], message: No.}]}"
    assert "this line never fires" in said("Guard", "zz", deny)
    assert not problems(more("Guard", "aa", deny))  # asked first: its message is the one that is shown


def test_a_grant_that_a_guard_denies_whole_never_fires() -> None:
    spec = (
        "{to: {group: reporting}, target: billing, as: report_ro, databases: ['*'], "
        "allow: [{verbs: [truncate], resources: ['*'], objects: [table]}]}"
    )
    assert "denies all that this line grants" in said("Grant", "zz", spec)
    assert not problems(more("Grant", "zz", spec.replace("[truncate]", "[truncate, insert]")))


def test_a_hold_that_only_the_owner_could_approve_is_a_problem() -> None:
    text = GOOD.replace("count: 2", "count: 1").replace("groups: [dba, audit]", "groups: [audit]")
    found = problems(text)
    assert found and all("the only approver, ada, owns identity nightly-report" in one for one in found)
    assert not problems(text.replace("owner: ada@example.org", "owner: grace@example.org"))


def test_a_person_without_a_key_cannot_approve() -> None:
    text = GOOD.replace(f', keys: ["{key("g")}"]', "")
    assert any("2 people of `dba` must approve, and 1 could | give grace a key" in one for one in problems(text))


def test_two_roles_for_one_identity_at_one_database_are_a_problem() -> None:
    spec = (
        "{to: {group: reporting}, target: billing, as: app, databases: ['bill*'], "
        "allow: [{verbs: [insert], resources: ['*']}]}"
    )
    assert "nightly-report has role report_ro at billing by Grant/reads-billing, and app here" in said(
        "Grant", "zz", spec
    )
    assert not problems(more("Grant", "zz", spec.replace("bill*", "stock")))


def test_two_targets_on_one_port_are_a_problem() -> None:
    spec = "{protocol: postgres, address: 'h:1', listen: {port: 15432}, roles: {r: {trust: true}}}"
    assert "port 15432 is that of Target/billing already" in said("Target", "stock", spec)


def test_groups_from_a_token_need_a_login_by_token() -> None:
    text = "\n".join(one for one in GOOD.splitlines() if "- oidc:" not in one)
    assert any("no login of this identity is by a token" in one for one in problems(text))


# ---- robustness


def test_the_longest_list_of_problems_is_cut() -> None:
    text = "---\n".join(
        f"apiVersion: muniment/v1\nkind: Person\nmetadata: {{name: p{n}}}\nspec: {{}}\n" for n in range(300)
    )
    found = problems(text)
    assert len(found) == 201 and found[-1].startswith("...: 100 more problems")


@given(st.data())
def test_a_damaged_set_gives_problems_or_rules_and_never_another_error(data: st.DataObject) -> None:
    lines = GOOD.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        cut = data.draw(st.integers(0, len(lines[at])))
        lines[at] = lines[at][:cut] + data.draw(
            st.sampled_from(["", "x", "{", "[", ":", "\n", "- ", "''", "&a ", "*a"])
        )
    for one in problems("".join(lines)):
        assert " | " in one and not one.endswith("| ")


STATEMENTS = """\
SELECT a FROM t FOR UPDATE; SELECT a INTO b FROM t; WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x
INSERT INTO t VALUES (1); UPDATE t SET a = 1; DELETE FROM t WHERE true; TRUNCATE t CASCADE; LOCK t
MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)
DROP TABLE t CASCADE; DROP VIEW v; DROP DATABASE d; DROP ROLE r; DROP OWNED BY r; REASSIGN OWNED BY r TO s
CREATE TABLE t (a int REFERENCES u); CREATE VIEW v AS SELECT 1; CREATE SCHEMA s; CREATE DATABASE d
CREATE INDEX ON t (a); CREATE MATERIALIZED VIEW m AS SELECT 1; CREATE SEQUENCE s; CREATE TYPE y AS ENUM ('a')
CREATE DOMAIN d AS int; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE EXTENSION e
CREATE ROLE r; CREATE LANGUAGE l; CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f()
CREATE RULE r AS ON INSERT TO t DO NOTHING; CREATE POLICY p ON t; CREATE PUBLICATION p
CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p; CREATE SERVER s FOREIGN DATA WRAPPER w
CREATE USER MAPPING FOR r SERVER s; CREATE TABLESPACE t LOCATION '/x'; CREATE CAST (a AS b) WITHOUT FUNCTION
CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f(); CREATE STATISTICS s ON a, b FROM t
CREATE ACCESS METHOD a TYPE INDEX HANDLER h; CREATE COLLATION c FROM d
CREATE TEXT SEARCH CONFIGURATION c (PARSER = p); CREATE AGGREGATE g (int) (SFUNC = f, STYPE = int)
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = f); CREATE OPERATOR FAMILY o USING btree
CREATE FOREIGN TABLE t (a int) SERVER s; CREATE TRANSFORM FOR int LANGUAGE l (FROM SQL WITH FUNCTION f(internal))
ALTER TABLE t ADD COLUMN b int; ALTER TABLE t OWNER TO r; ALTER TABLE t RENAME a TO b; ALTER SYSTEM SET a = 1
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO r; GRANT SELECT ON t TO r; REVOKE ALL ON SCHEMA s FROM r
GRANT a TO b; COMMENT ON TABLE t IS 'x'; SECURITY LABEL ON TABLE t IS 'x'
IMPORT FOREIGN SCHEMA s FROM SERVER r INTO t; COPY t FROM STDIN; COPY t TO STDOUT; COPY t TO PROGRAM 'x'
COPY t FROM '/x'; LOAD 'x'; DO 'x'; CALL p(); CHECKPOINT; BEGIN; COMMIT; ROLLBACK; SAVEPOINT a; RELEASE a
ROLLBACK TO a; PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x'; ROLLBACK PREPARED 'x'; SET a = 1; SET LOCAL a = 1
SET ROLE r; SET standard_conforming_strings = off; SHOW a; RESET a; RESET ALL; DISCARD ALL
SET CONSTRAINTS ALL DEFERRED; SET TRANSACTION SNAPSHOT 'x'; DECLARE c CURSOR FOR SELECT 1; FETCH c
EXPLAIN ANALYZE SELECT 1; VACUUM t; ANALYZE; REINDEX TABLE t; CLUSTER t USING i; REFRESH MATERIALIZED VIEW m
LISTEN c; NOTIFY c; UNLISTEN c
SELECT f(), pg_read_file('/x'), lo_unlink(1), lo_import('/x'), lo_export(1, '/x'), a === b
SELECT set_config('a', 'b', true)
"""


def test_every_word_that_the_reader_of_sql_says_can_be_written_in_a_rule() -> None:
    said: dict[str, set[str]] = {"verbs": set(), "objects": set(), "traits": set()}
    for text in STATEMENTS.replace(";", "\n").splitlines():
        reading = postgres.read(text)
        for part in reading.parts:
            said["traits"] |= part.traits
            said["verbs"] |= {use.verb for use in part.uses}
            said["objects"] |= {use.kind for use in part.uses}
    assert said["verbs"] <= kinds.VERBS
    assert said["objects"] <= kinds.OBJECTS
    assert said["traits"] <= kinds.TRAITS
    assert len(said["verbs"]) > 40 and len(said["objects"]) > 35 and len(said["traits"]) > 15


# ---- the difference in words


def test_a_difference_is_said_in_words() -> None:
    before = manifests.documents([("m", GOOD)])
    text = GOOD.replace("[select]", "[select, insert]").replace("connections: 40", "connections: 41")
    text = (
        text.replace("  basics: client\n", "")
        .replace("name: github", "name: gitlab")
        .replace("  deny:\n    - {", "  deny:\n    - {message: No, ")
    )
    after = manifests.documents([("m", text)])
    assert manifests.diff(before, after) == [
        "Grant/reads-billing: spec.allow.1.verbs: + insert",
        "Grant/reads-billing: spec.basics: - client",
        "Guard/production-safety: spec.deny.1.message: + No",
        "Issuer/github: removed",
        "Issuer/gitlab: added",
        "Target/billing: spec.limits.connections: 40 -> 41",
    ]
    assert manifests.diff(before, before) == []
    assert manifests.diff((), before)[0] == "Grant/reads-billing: added"


def test_what_is_declared_of_the_example_is_what_a_reader_expects() -> None:
    assert policy.declared(parse(GOOD)) == (
        "reads-billing|nightly-report|billing|basics|client|",
        "reads-billing|nightly-report|billing|call|public.fx_rate|",
        "reads-billing|nightly-report|billing|select|public.invoices,public.customers|",
    )
