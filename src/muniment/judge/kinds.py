"""The kinds of documents: one shape each, as people write them. What the fields mean is in docs/reference/manifests.md.

The words that a rule may use (verbs, objects, traits) stand here as well, so that a misspelt one is a problem and not a
rule that never fires.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from muniment.judge.fields import (
    BeforeValidator,
    Duration,
    Field,
    Flag,
    Globs,
    Group,
    Groups,
    Labels,
    Moment,
    Name,
    Port,
    Sentence,
    Shape,
    Word,
    Words,
    filled,
    lift,
    one_of,
    whole,
)

API_VERSION = "muniment/v1"
LATER_KINDS = ("Retention", "Channel", "Contract", "Review", "Witness", "Lease")
OTHER_PROTOCOLS = ("mysql", "mariadb", "http", "mcp", "kubernetes", "ssh", "mongodb", "redis", "mssql")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What the readers report (model.exchange.Touch); a word outside these lists can be neither granted nor guarded.
VERBS = _words(
    """
    select insert update delete merge truncate drop alter create references grant revoke copy call do set show reset
    begin commit rollback savepoint release prepare commit-prepared rollback-prepared constraints discard snapshot lock
    comment label vacuum analyze reindex cluster refresh listen notify checkpoint load import reassign execute read
    write
    """
)
OBJECTS = _words(
    """
    relation table view materialized-view foreign-table index sequence schema database function procedure aggregate
    operator operator-class operator-family cast collation conversion domain type extension language library role owned
    tablespace trigger event-trigger rule policy publication subscription server foreign-data-wrapper user-mapping
    statistics text-search-configuration text-search-dictionary text-search-parser text-search-template access-method
    transform default-privileges column constraint object setting transaction file program large-object channel
    """
)
TRAITS = _words(
    """
    no-where constant-where several-statements opaque procedure cascade owner rule into row-lock cursor copy-in copy-out
    file program large-object explain explain-analyze transaction-end pinned-setting local-setting resets-settings
    role-change custom-operator with-hold by-name
    """
)
# Classes whose originals nobody may keep, sealed or not (PCI DSS 3.3.1).
FORGOTTEN = frozenset({"card_security_code", "card_verification_code", "cvv", "cvc", "card_pin", "pin", "track_data"})
SHOWS = ("redact", "last4", "first6-last4", "pseudonym", "null")
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
INITIATORS = ("user", "schedule", "event", "system")


class FileRef(Shape):
    """A file on the gateway's machine."""

    file: Word = Field(examples=["/etc/muniment/ca.pem"])


class Selector(Shape):
    """Which targets: `billing`, or `{labels: {scope: pci}}`."""

    name: Name | None = None
    labels: Labels | None = None


OneTarget = Annotated[Selector, BeforeValidator(lift("name"))]
Verb = Annotated[str, BeforeValidator(one_of(*sorted(VERBS)))]
Object = Annotated[str, BeforeValidator(one_of(*sorted(OBJECTS)))]
Trait = Annotated[str, BeforeValidator(one_of(*sorted(TRAITS)))]
Verbs = Annotated[tuple[Verb, ...], BeforeValidator(filled)]
Objects = Annotated[tuple[Object, ...], BeforeValidator(filled)]
Traits = Annotated[tuple[Trait, ...], BeforeValidator(filled)]


class InitiatorMap(Shape):
    """Which claims say what set a run going: a claim's name, or a literal after `=`."""

    kind: Word | None = None
    id: Word | None = None
    run: Word | None = None
    attempt: Word | None = None
    workload: Word | None = None


class Issuer(Shape):
    """Trust in an issuer of tokens."""

    LATER: ClassVar = ("preset", "saml", "spiffe", "discovery", "jwks")
    url: Word = Field(examples=["https://token.actions.githubusercontent.com"])
    algorithms: Annotated[tuple[Annotated[str, BeforeValidator(one_of(*ALGORITHMS))], ...], BeforeValidator(filled)] = (
        "RS256",
        "ES256",
        "PS256",
        "EdDSA",
    )
    audience: Word = ""
    match: Labels = Field(default_factory=dict)
    initiator: InitiatorMap = Field(default_factory=InitiatorMap)
    keep: Words = ()
    ca: FileRef | None = None
    leeway: Duration = 30
    stale_if_down: Duration = 3600


class FromToken(Shape):
    """Groups that a token gives: the claim, and the only groups that it may give."""

    claim: Word = Field(examples=["groups"])
    only: Groups = Field(examples=["[reporting]"])


class IdentityGroups(Shape):
    """Where an identity's groups come from."""

    static: Groups = ()
    from_token: FromToken | None = None


class Oidc(Shape):
    """A binding to an issuer's tokens."""

    issuer: Name = Field(examples=["github"])
    match: Labels = Field(default_factory=dict)


class ApiKey(Shape):
    """Keys that `muniment identities key` issues."""

    max_age: Duration = Field(examples=["90d"])


class Login(Shape):
    """One way to prove an identity: exactly one of its fields."""

    LATER: ClassVar = ("existing", "saml", "spiffe", "kubernetes", "certificate")
    oidc: Oidc | None = None
    api_key: ApiKey | None = None


class SessionLimits(Shape):
    """How long and how many."""

    max_age: Duration = 4 * 3600
    idle: Duration = 15 * 60
    parallel: Annotated[int, BeforeValidator(whole(1, 100_000))] = 10
    interactive: Flag = False
    notice: Flag = True


class Identity(Shape):
    """A non-human identity."""

    LATER: ClassVar = ("team", "review", "environment", "dataClasses")
    kind: Annotated[str, BeforeValidator(one_of("service", "ci-job", "agent", "robot", "vendor"))] = Field(
        examples=["ci-job"]
    )
    owner: Word = Field(examples=["ada@example.org"])
    deputy: Word = ""
    purpose: Sentence = Field(examples=["Builds the nightly revenue report."])
    ticket: Word = ""
    labels: Labels = Field(default_factory=dict)
    expires: Moment = 0
    groups: IdentityGroups = Field(default_factory=IdentityGroups)
    login: Annotated[tuple[Login, ...], BeforeValidator(filled)] = Field(
        examples=["[{oidc: {issuer: ..., match: ...}}]"]
    )
    session: SessionLimits = Field(default_factory=SessionLimits)


class Tls(Shape):
    """How the gateway speaks to the target."""

    LATER: ClassVar = ("cert", "key", "serverName")
    mode: Annotated[str, BeforeValidator(one_of("disable", "require", "verify-ca", "verify-full"))] = "verify-full"
    ca: FileRef | None = None


class Listen(Shape):
    """Where the target's own listener is."""

    LATER: ClassVar = ("host",)
    port: Port = Field(examples=["15432"])


class Secret(Shape):
    """Where a secret is read from, never the secret: exactly one of its fields."""

    LATER: ClassVar = ("vault", "aws", "gcp", "azure", "kubernetes")
    env: Word | None = None
    file: Word | None = None


class Role(Shape):
    """A login role at the target."""

    LATER: ClassVar = ("maxAge", "certificate")
    password: Secret | None = None
    trust: Flag = False


class TargetLimits(Shape):
    """What the target is spared."""

    LATER: ClassVar = ("frame", "rate")
    connections: Annotated[int, BeforeValidator(whole(1, 100_000))] = 100


class Target(Shape):
    """A thing that is reached."""

    LATER: ClassVar = ("logins", "retention", "discover")
    protocol: Annotated[str, BeforeValidator(one_of("postgres", later=OTHER_PROTOCOLS))] = Field(examples=["postgres"])
    address: Word = Field(examples=["db.internal:5432"])
    tls: Tls = Field(default_factory=Tls)
    listen: Listen | None = None
    roles: Annotated[dict[Word, Role], BeforeValidator(filled)] = Field(
        examples=["{report_ro: {password: {file: /run/secrets/report_ro}}}"]
    )
    durability: Annotated[str, BeforeValidator(one_of("disk", "process", "mixed"))] = "mixed"
    limits: TargetLimits = Field(default_factory=TargetLimits)


class To(Shape):
    """Who a grant is for: exactly one of its fields."""

    identity: Name | None = None
    group: Group | None = None


class Allow(Shape):
    """One line of a grant."""

    LATER: ClassVar = ("columns", "rows", "parameters")
    verbs: Verbs = Field(examples=["[select]"])
    resources: Globs = Field(examples=["[public.invoices]"])
    objects: Objects = ()


class Grant(Shape):
    """What an identity or a group may do at targets."""

    LATER: ClassVar = ("limits", "when", "from", "until")
    to: To = Field(examples=["{identity: nightly-report}"])
    target: OneTarget = Field(examples=["billing"])
    as_: Word = Field(alias="as", examples=["report_ro"])
    databases: Globs = Field(examples=["[billing]"])
    allow: Annotated[tuple[Allow, ...], BeforeValidator(filled)] = Field(
        examples=["[{verbs: [select], resources: [public.invoices]}]"]
    )
    basics: Annotated[str, BeforeValidator(one_of("client", "none"))] = "client"
    mode: Annotated[str, BeforeValidator(one_of("enforce", later=("observe",)))] = "enforce"
    hold_in_transaction: Flag = False
    ticket: Word = ""
    expires: Moment = 0


class Approvers(Shape):
    """Who decides: how many different people of a group."""

    group: Group = Field(examples=["dba"])
    count: Annotated[int, BeforeValidator(whole(1, 20))] = 1


class Deny(Shape):
    """One line of a guard's deny. Every field that is there must fit."""

    verbs: Verbs = ()
    objects: Objects = ()
    resources: Globs = ()
    traits: Traits = ()
    message: Sentence = ""


class Hold(Deny):
    """One line of a guard's hold."""

    LATER: ClassVar = ("tell", "first", "escalate")
    approvers: Approvers = Field(examples=["{group: dba, count: 1}"])
    within: Duration = 1800


class Guard(Shape):
    """What stands over every grant."""

    LATER: ClassVar = ("except", "when", "observe")
    target: OneTarget = Field(examples=["{labels: {environment: production}}"])
    deny: Annotated[tuple[Deny, ...], BeforeValidator(filled)] = ()
    hold: Annotated[tuple[Hold, ...], BeforeValidator(filled)] = ()


class Mask(Shape):
    """What is protected in answers."""

    LATER: ClassVar = ("except", "stream", "json")
    target: OneTarget = Field(examples=["{labels: {scope: pci}}"])
    columns: Annotated[dict[Word, Globs], BeforeValidator(filled)] = Field(default_factory=dict)
    detect: Words = ()
    show: Annotated[dict[Word, Annotated[str, BeforeValidator(one_of(*SHOWS))]], BeforeValidator(filled)] = Field(
        default_factory=dict
    )
    original: Annotated[str, BeforeValidator(one_of("seal", "forget"))] = "seal"


class Person(Shape):
    """An approver, auditor or operator."""

    LATER: ClassVar = ("webauthn", "oidc", "chat")
    email: Word = Field(examples=["grace@example.org"])
    groups: Groups = ()
    keys: Words = ()


class Metadata(Shape):
    """A document's name; labels only where the kind has them."""

    LATER: ClassVar = ("annotations", "namespace")
    name: Name = Field(examples=["nightly-report"])
    labels: Labels = Field(default_factory=dict)


KINDS: dict[str, type[Shape]] = {
    "Issuer": Issuer,
    "Identity": Identity,
    "Target": Target,
    "Grant": Grant,
    "Guard": Guard,
    "Mask": Mask,
    "Person": Person,
}
