"""One document's shape made into a noun of `model.rules`; says what shapes cannot say."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from urllib.parse import urlsplit

from muniment.judge import kinds
from muniment.judge.detect import CLASSES
from muniment.judge.documents import Document, Map, Problems, meant
from muniment.judge.fields import NOT_IN_FORCE, Shape
from muniment.judge.policy import RESERVED
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

KEY_TYPES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
NO_CLAIM = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti"})  # every token of an issuer has them, or checked anyway
MAX_LEEWAY_S = 300
MAX_STALE_S = 7 * 86400


class Maker:
    """Makes the noun of one document. bad: a problem was reported."""

    def __init__(self, document: Document, problems: Problems) -> None:
        self.document, self.problems, self.bad = document, problems, False
        self.name = document.name

    def wrong(self, path: tuple[str | int, ...], what: str, mend: str) -> None:
        self.bad = True
        self.problems.add(self.document.file, self.document.line_of("spec", *path), what, mend)

    def make(self, rules: Rules, spec: Shape) -> None:
        """Put the noun into the rules; `bad` says whether it has a problem."""
        match spec:
            case kinds.Issuer():
                rules.issuers[self.name] = self.issuer(spec)
            case kinds.Identity():
                rules.identities[self.name] = self.identity(spec)
            case kinds.Target():
                rules.targets[self.name] = self.target(spec)
            case kinds.Grant():
                rules.grants[self.name] = self.grant(spec)
            case kinds.Guard():
                rules.guards[self.name] = self.guard(spec)
            case kinds.Mask():
                rules.masks[self.name] = self.mask(spec)
            case kinds.Person():
                rules.persons[self.name] = self.person(spec)
            case _:
                raise TypeError(f"no noun for {type(spec).__name__}")

    def issuer(self, spec: kinds.Issuer) -> Issuer:
        try:
            url = urlsplit(spec.url)
            plain = url.scheme == "http" and not _loopback(url.hostname or "")
            whole = url.scheme in ("https", "http") and url.hostname and not (url.query or url.fragment or url.username)
            _ = url.port
        except ValueError:
            plain, whole = False, None
        if not whole:
            self.wrong(("url",), "`url` is not an issuer's address", "write the exact `iss` of its tokens: https://...")
        elif plain:
            self.wrong(("url",), "`url` is not https, and not on this machine", "write https://...")
        if spec.leeway > MAX_LEEWAY_S:
            self.wrong(("leeway",), "`leeway` is longer than five minutes", "set the clocks right and write 30s")
        if spec.stale_if_down > MAX_STALE_S:
            self.wrong(("staleIfDown",), "`staleIfDown` is longer than a week", "a key that was withdrawn must end: 1h")
        initiator = tuple(sorted((key, value) for key, value in spec.initiator.model_dump().items() if value))
        for key, value in initiator:
            if key == "kind" and value.startswith("=") and value[1:] not in kinds.INITIATORS:
                mend = meant(value[1:], kinds.INITIATORS, "write =" + ", =".join(kinds.INITIATORS))
                self.wrong(("initiator", "kind"), f"`kind` cannot be `{value[:64]}`", mend)
            elif value == "=":
                self.wrong(("initiator", key), f"`{key}` is an empty literal", "write a claim's name")
        return Issuer(
            self.name,
            spec.url,
            spec.algorithms,
            _pairs(spec.match),
            initiator,
            spec.keep,
            spec.ca.file if spec.ca else "",
            spec.leeway,
            spec.stale_if_down,
            spec.audience,
        )

    def identity(self, spec: kinds.Identity) -> IdentityRule:
        logins: list[OidcLogin | ApiKeyLogin] = []
        for nth, login in enumerate(spec.login):
            if (login.oidc is None) == (login.api_key is None):
                self.wrong(("login", nth), "a login is one of `oidc` and `apiKey`", "write each as an item of the list")
            elif login.oidc is not None:
                if not set(login.oidc.match) - NO_CLAIM:
                    what = f"without `match` every token of issuer {login.oidc.issuer} would be let in"
                    mend = "match claims that only this workload has, like `match: {repository_id: '456789'}`"
                    self.wrong(("login", nth, "oidc"), what, mend)
                logins.append(OidcLogin(login.oidc.issuer, _pairs(login.oidc.match)))
            elif login.api_key is not None:
                logins.append(ApiKeyLogin(login.api_key.max_age))
        if spec.session.interactive:
            what = f"`interactive: true` is {NOT_IN_FORCE}"
            self.wrong(("session", "interactive"), what, "take it away: sessions are of programs")
        idle_s = spec.session.idle
        if "idle" not in spec.session.model_fields_set:  # nobody has to write it to shorten `maxAge`
            idle_s = min(idle_s, spec.session.max_age)
        if idle_s > spec.session.max_age:
            self.wrong(("session", "idle"), "`idle` is longer than `maxAge`: it can never end a session", "shorten it")
        token = spec.groups.from_token
        if token is not None and not any(isinstance(login, OidcLogin) for login in logins):
            self.wrong(("groups", "fromToken"), "no login of this identity is by a token", "write `static` groups")
        return IdentityRule(
            self.name,
            spec.kind,
            spec.owner,
            spec.purpose,
            tuple(logins),
            spec.deputy,
            spec.ticket,
            _pairs(spec.labels),
            spec.expires,
            frozenset(spec.groups.static),
            token.claim if token else "",
            frozenset(token.only) if token else frozenset(),
            spec.session.max_age,
            idle_s,
            spec.session.parallel,
            spec.session.notice,
        )

    def target(self, spec: kinds.Target) -> Target:
        host, port = self.address(spec.address)
        if spec.tls.ca is not None and not spec.tls.mode.startswith("verify"):
            self.wrong(("tls", "ca"), f"`ca` is never used with mode {spec.tls.mode}", "write `mode: verify-full`")
        roles = []
        for name, role in sorted(spec.roles.items()):
            secret = None
            if role.password is not None and not role.trust:
                secret = self.secret(role.password, ("roles", name, "password"))
            elif role.password is not None or not role.trust:
                what = f"role `{name[:64]}` has one of `password` and `trust: true`"
                self.wrong(("roles", name), what, "write `password: {file: /run/secrets/" + name[:64] + "}`")
            roles.append(Role(name, secret))
        labels = self.document.node.get("metadata")
        given = labels.get("labels") if isinstance(labels, Map) else None
        pairs = {str(key): str(value) for key, value in given.items()} if isinstance(given, Map) else {}
        return Target(
            self.name,
            spec.protocol,
            host,
            port,
            spec.tls.mode,
            tuple(roles),
            _pairs(pairs),
            spec.tls.ca.file if spec.tls.ca else "",
            spec.listen.port if spec.listen else 0,
            Durability(spec.durability),
            spec.limits.connections,
        )

    def address(self, text: str) -> tuple[str, int]:
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
            self.wrong(("address",), "`address` is not host:port", "write it like db.internal:5432 or [::1]:5432")
            return text, 0
        if any(c in host for c in "/@ ,") or (":" in host and not _is_ip(host)):
            self.wrong(("address",), "`address` has no plain host", "write it like db.internal:5432 or [::1]:5432")
        return host, int(port)

    def secret(self, spec: kinds.Secret, path: tuple[str, ...]) -> SecretRef:
        if (spec.env is None) == (spec.file is None):
            self.wrong(path, "a secret is read from one of `env` and `file`", "write `{file: /run/secrets/name}`")
        return SecretRef("env", spec.env) if spec.env else SecretRef("file", spec.file or "")

    def selector(self, spec: kinds.Selector) -> Selector:
        if (spec.name is None) == (spec.labels is None):
            self.wrong(
                ("target",), "`target` is one of a name and labels", "write `billing` or `{labels: {scope: pci}}`"
            )
        return Selector(spec.name or "", _pairs(spec.labels or {}))

    def reserved(self) -> None:
        if self.name in RESERVED:
            self.bad = True
            what = f"the name {self.name} is what the record calls a rule of the gateway's own"
            self.problems.add(
                self.document.file, self.document.line_of("metadata", "name"), what, "choose another name"
            )

    def grant(self, spec: kinds.Grant) -> Grant:
        self.reserved()
        if (spec.to.identity is None) == (spec.to.group is None):
            self.wrong(("to",), "`to` is one of `identity` and `group`", "write two grants, or one of the two")
        return Grant(
            self.name,
            spec.to.identity or "",
            spec.to.group or "",
            self.selector(spec.target),
            spec.as_,
            spec.databases,
            tuple(AllowRule(frozenset(one.verbs), one.resources, frozenset(one.objects)) for one in spec.allow),
            spec.basics,
            spec.ticket,
            spec.expires,
            spec.hold_in_transaction,
        )

    def guard(self, spec: kinds.Guard) -> Guard:
        self.reserved()
        if not spec.deny and not spec.hold:
            self.wrong((), "the guard has neither `deny` nor `hold`: it does nothing", "add one")
        for field, lines in (("deny", spec.deny), ("hold", spec.hold)):
            for nth, line in enumerate(lines):
                if not (line.verbs or line.objects or line.resources or line.traits):
                    what = f"a line of `{field}` that names nothing stands for everything"
                    self.wrong((field, nth), what, "name verbs, objects, resources or traits; or remove the Grants")
        return Guard(
            self.name,
            self.selector(spec.target),
            tuple(_bar(line) for line in spec.deny),
            tuple(_bar(line, line.approvers.group, line.approvers.count, line.within) for line in spec.hold),
        )

    def mask(self, spec: kinds.Mask) -> Mask:
        if not spec.columns and not spec.detect:
            self.wrong((), "the mask has neither `columns` nor `detect`: it does nothing", "add one")
        for nth, name in enumerate(spec.detect):
            if name not in CLASSES:
                what = f"there is no detector `{name[:64]}` in this release"
                self.wrong(("detect", nth), what, meant(name, CLASSES, "known: " + ", ".join(sorted(CLASSES))))
        for name, patterns in spec.columns.items():
            for nth, pattern in enumerate(patterns):
                if "." not in pattern and pattern != "*":
                    mend = f"write schema.table.column; `*.{pattern[:64]}` is any table's"
                    self.wrong(("columns", name, nth), f"`{pattern[:64]}` names no column", mend)
            if name in kinds.FORGOTTEN and spec.original != "forget":
                what = f"values of class {name} may be kept by nobody, sealed or not (PCI DSS 3.3.1)"
                self.wrong(("columns", name), what, "put it in a Mask with `original: forget`")
        for name, show in spec.show.items():
            if name not in spec.columns and name not in spec.detect:
                used = [*spec.columns, *spec.detect]
                what = f"class `{name[:64]}` is in neither `columns` nor `detect`: this line never applies"
                self.wrong(("show", name), what, meant(name, used, "take it away"))
            elif name in kinds.FORGOTTEN and show not in ("redact", "null"):
                self.wrong(("show", name), f"nothing of class {name} may be shown", "write redact or null")
        columns = tuple(sorted(spec.columns.items()))
        return Mask(self.name, self.selector(spec.target), columns, spec.detect, _pairs(spec.show), spec.original)

    def person(self, spec: kinds.Person) -> Person:
        if "@" not in spec.email.strip("@"):
            self.wrong(("email",), "`email` is not an address", "write it like grace@example.org")
        for nth, key in enumerate(spec.keys):
            if why := _key_problem(key):
                self.wrong(
                    ("keys", nth), f"this is not a public key that can sign: {why}", "paste the line of the .pub file"
                )
        return Person(self.name, spec.email, frozenset(spec.groups), spec.keys)


def _bar(line: kinds.Deny, group: str = "", count: int = 1, within_s: int = 1800) -> GuardRule:
    return GuardRule(
        frozenset(line.verbs),
        frozenset(line.objects),
        line.resources,
        frozenset(line.traits),
        line.message,
        group,
        count,
        within_s,
    )


def _pairs(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _key_problem(line: str) -> str:
    """Why this is not a public key in OpenSSH's one-line form; empty where it is. Source: RFC 4253, section 6.6."""
    words = line.split()
    if "PRIVATE" in line:
        return "it is a private key; make a new one, this one is known now"
    if len(words) < 2 or words[0] not in KEY_TYPES:
        return "it does not begin with one of " + ", ".join(KEY_TYPES)
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return "its second word is not base64"
    name = words[0].encode()
    if len(blob) < 36 + len(name) or blob[: 4 + len(name)] != len(name).to_bytes(4, "big") + name:
        return "it is cut, or says two different types"
    return ""
