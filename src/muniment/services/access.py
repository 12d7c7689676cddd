"""Let a workload in, or say no without saying why. The only maker of Admissions.

Every question becomes a `Check`; an Admission needs all of them. The outside learns a reference, the operator learns
each check by `muniment logins show REF`, and the evidence counts refusals per source and minute.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from muniment.judge import policy
from muniment.model.access import Admission, Refusal
from muniment.model.errors import Unavailable
from muniment.model.identity import Check, Identity, Initiator, Provenance
from muniment.model.rules import Grant, IdentityRule, Issuer, OidcLogin, Rules, Target
from muniment.services import oidc
from muniment.services.apikeys import PREFIX, SHAPE, ApiKeys, IssuedKey, check_key, key_ends_us
from muniment.services.discovery import is_loopback
from muniment.services.keysets import Append, KeySets, Seen, Spawn
from muniment.services.refusals import DELAY_S, FAILED_S, MAX_FAILED, Attempts, Refusals, host_of
from muniment.store.logins import LoginRow, Logins

__all__ = ["Access", "ApiKeys", "IssuedKey", "LoginRow", "Logins"]

OURS = ("keys", "store")  # checks that fail when an issuer or the database is down, whatever was presented
MAX_CONDITIONS = 40  # that are listed of bindings which did not match


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a secret proved. provenance is None where a check failed; ends_us: when the secret's own authority ends for
    sessions, 0 where a session may outlive it."""

    checks: tuple[Check, ...]
    provenance: Provenance | None = None
    groups: frozenset[str] = frozenset()
    initiator: Initiator = field(default_factory=Initiator)
    ends_us: int = 0


class Access:
    """Who may open a session. Used on the event loop only.

    rules: the snapshot in force; append: the journal's; spawn: how tasks are started; count: how many sessions of this
    identity are open or being opened. An admission must be counted from the moment that `authenticate` returns it,
    without an await between, or two logins at once could both be the last one allowed.
    """

    def __init__(
        self,
        *,
        rules: Callable[[], Rules],
        deployment: str,
        logins: Logins,
        append: Append,
        spawn: Spawn,
        count: Callable[[str], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._deployment = deployment
        self._logins = logins
        self._count = count
        self._keysets = KeySets(append, spawn, clock=clock)
        self._refusals = Refusals(logins, append)
        self._attempts = Attempts(clock)

    async def authenticate(
        self, user: str, secret: str, target: Target, *, database: str, source: str, tls: bool, now_us: int
    ) -> Admission | Refusal:
        """Check who it is and whether it may come in.

        user: the identity's name; secret: a token or an API key; source: the client's address; tls: whether the
        secret came encrypted. A stranger, a wrong token and a missing grant take the same way and get the same answer.
        """
        host, known = host_of(source), user if user in self._rules().identities else ""
        if self._attempts.spent(host, known):
            return await self._unchecked(user, known, target, source, now_us)
        while True:
            rules = self._rules()
            transport = Check(
                "transport",
                tls or is_loopback(host_of(source)),
                "TLS" if tls else f"plaintext from {oidc.shown(source)}",
                "TLS, or a loopback client",
                "connect with sslmode=verify-full",
            )
            rule = rules.identities.get(user)
            if secret.startswith(PREFIX):
                proof = await self._by_key(rule, secret, now_us)
            else:
                proof = await self._by_token(rules, rule, secret, now_us)
            if self._rules() is rules:  # what was asked under older rules is asked again
                break
        checks = (transport, *_identity(rule, user, now_us), *proof.checks)
        if rule is not None and proof.provenance is not None and all(check.passed for check in checks):
            admission = self._admit(rules, rule, proof, checks, target, database, now_us)
            if isinstance(admission, Admission):
                return admission
            checks = admission
        if proof.provenance is None and not any(check.name in OURS for check in checks if not check.passed):
            self._attempts.failed(host, known)
        return await self._refusals.add(user, target.name, source, checks, now_us)

    async def _unchecked(self, user: str, known: str, target: Target, source: str, now_us: int) -> Refusal:
        """Refuse without looking at the secret: this source was refused too often."""
        await asyncio.sleep(DELAY_S)
        host = host_of(source)
        got, want = f"more than {MAX_FAILED} in {FAILED_S:.0f} s", "fewer refused logins of one source and name"
        mend = "wait a minute; see the refused logins before this one for what is wrong"
        checks = (Check("attempts", False, got, want, mend),)
        if reference := self._attempts.reference(host, known):
            return self._refusals.add_again(reference, user, target.name, source, checks, now_us)
        refusal = await self._refusals.add(user, target.name, source, checks, now_us)
        self._attempts.refer(host, known, refusal.reference)
        return refusal

    async def refuse(self, user: str, target: str, source: str, checks: tuple[Check, ...], now_us: int) -> Refusal:
        """Record a login that a door had to refuse before anything could be asked here (no target, no TLS ...).

        target: a name from the rules, or empty: never what a stranger wrote.
        """
        return await self._refusals.add(user, target, source, checks, now_us)

    def tick(self, now_us: int) -> None:
        """Called every few seconds: keeps issuers' keys fresh and writes the aggregates of minutes that are over.

        Raises Unavailable when the journal fails; what was not written is kept for the next call.
        """
        self._keysets.warm(self._rules().issuers.values())
        self._refusals.flush(now_us)

    def flush(self, now_us: int) -> None:
        """At shutdown: write every aggregate."""
        self._refusals.flush(now_us, everything=True)

    def _admit(
        self,
        rules: Rules,
        rule: IdentityRule,
        proof: _Proof,
        checks: tuple[Check, ...],
        target: Target,
        database: str,
        now_us: int,
    ) -> Admission | tuple[Check, ...]:
        """The permission of somebody who is proved: an Admission, or all checks with the failed ones."""
        groups = rule.groups | proof.groups
        grants = policy.context(rules, rule.name, groups, target, database, now_us).grants
        checks += _permission(rules, rule, groups, grants, target, database, self._count(rule.name))
        if proof.provenance is None or not all(check.passed for check in checks):
            return checks
        ends = [rule.expires_at_us, proof.ends_us, *(grant.expires_at_us for grant in grants)]
        identity = Identity(
            rule.name,
            rule.kind,
            rule.owner,
            groups,
            proof.initiator,
            replace(proof.provenance, checks=checks),
            rules.refs.get(f"Identity/{rule.name}", ""),
        )
        return Admission(
            identity,
            target,
            grants[0].role,
            database,
            tuple(grant.name for grant in grants),
            rules.version,
            # the first grant that ends ends the session, whoever looks at grants later: reconnecting uses the others
            min([now_us + rule.max_age_s * 1_000_000, *(end for end in ends if end)]),
        )

    async def _by_key(self, rule: IdentityRule | None, secret: str, now_us: int) -> _Proof:
        shape = SHAPE.match(secret)
        got, want = f"an API key of {len(secret)} characters", "mk_<id>_<secret>, 59 characters"
        mend = "present the key unchanged, as `muniment identities key issue` showed it"
        form = Check("form", shape is not None, got, want, mend)
        if shape is None:
            return _Proof((form,))
        try:
            row = await asyncio.to_thread(self._logins.key, shape[1])
        except Unavailable as why:
            return _Proof((form, Check("store", False, oidc.shown(why.what), "the gateway's database", why.mend)))
        checks = (form, *check_key(row, secret, rule, now_us))
        if row is None or rule is None or not all(check.passed for check in checks):
            return _Proof(checks)
        provenance = Provenance(
            method="api-key",
            issuer="",
            subject=row.identity,
            audience=self._deployment,
            kid="",
            alg="",
            issued_at_us=row.created_us,
            expires_at_us=row.expires_us,
            token_id=row.id,
            token_digest=row.hash.hex(),
            claims=(),
            checks=(),
        )
        return _Proof(checks, provenance, ends_us=key_ends_us(row, rule))

    async def _by_token(self, rules: Rules, rule: IdentityRule | None, secret: str, now_us: int) -> _Proof:
        token, form = oidc.read_token(secret)
        if token is None:
            return _Proof((form,))
        names = [login.issuer for login in rule.logins if isinstance(login, OidcLogin)] if rule else []
        bound = [rules.issuers[name] for name in dict.fromkeys(names) if name in rules.issuers]
        # an identity that is unknown or bound elsewhere still has its token checked: for the list, and for the time
        speaking = [issuer for issuer in rules.issuers.values() if issuer.url == token.iss]
        candidates = [issuer for issuer in bound if issuer in speaking] or speaking[:1]
        if not candidates:
            want = " or ".join(issuer.url for issuer in bound or rules.issuers.values()) or "an Issuer document"
            mend = "take the token from this issuer, or apply an Issuer with exactly this url"
            return _Proof((form, Check("issuer", False, oidc.shown(token.iss or "none"), oidc.shown(want), mend)))
        for issuer in candidates:
            proof = await self._by_issuer(rule, issuer, token, now_us)
            if proof.provenance is not None:
                break
        return replace(proof, checks=(form, *proof.checks))

    async def _by_issuer(self, rule: IdentityRule | None, issuer: Issuer, token: oidc.Token, now_us: int) -> _Proof:
        audience = issuer.audience or self._deployment
        algorithm = oidc.check_algorithm(token, issuer)
        checks, seen = [algorithm], None
        if algorithm.passed:
            signed, seen = await self._signature(issuer, token)
            checks += signed
        checks += oidc.check_claims(token, issuer, audience, now_us)
        conditions, names = _binding(rule, issuer, token)
        checks += conditions
        groups: frozenset[str] = frozenset()
        if rule is not None and rule.groups_claim:
            groups, said = oidc.groups_in(token.claims, rule.groups_claim, rule.groups_only)
            checks.append(said)
        if seen is None or rule is None or not all(check.passed for check in checks):
            return _Proof(tuple(checks))
        token_id = token.claims.get("jti", "")
        provenance = Provenance(
            method="oidc",
            issuer=issuer.url,
            subject=str(token.claims["sub"]),
            audience=audience,
            kid=token.kid,
            alg=token.alg,
            issued_at_us=oidc.seconds(token.claims.get("iat")),
            expires_at_us=oidc.seconds(token.claims["exp"]),
            token_id=token_id if isinstance(token_id, str) else "",
            token_digest=hashlib.sha256(token.text.encode()).hexdigest(),
            claims=oidc.kept(token.claims, names | frozenset(issuer.keep)),
            checks=(),
            keys=seen.leaf,
        )
        return _Proof(tuple(checks), provenance, groups, oidc.initiator_in(token.claims, issuer.initiator))

    async def _signature(self, issuer: Issuer, token: oidc.Token) -> tuple[list[Check], Seen | None]:
        """Verify with the issuer's keys; a key that is not known makes one look whether the issuer has a new one."""
        try:
            seen = await self._keysets.get(issuer)
        except Unavailable as why:
            want = f"keys of {issuer.url}, at most {issuer.stale_s} s old"
            return [Check("keys", False, oidc.shown(why.what), want, why.mend)], None
        checks = oidc.check_signature(token, seen.keys)
        if not all(check.passed for check in checks) and (len(checks) == 1 or not token.kid):
            newer = await self._keysets.renew(issuer, seen)
            if newer is not seen:
                seen, checks = newer, oidc.check_signature(token, newer.keys)
        trouble = self._keysets.trouble(issuer)
        note = f"known, though: {oidc.shown(trouble)}" if trouble else "known"
        return [Check("keys", True, note, f"keys of {issuer.url}"), *checks], seen


def _identity(rule: IdentityRule | None, user: str, now_us: int) -> list[Check]:
    mend = "connect with user=NAME of an Identity, or apply an Identity document of this name"
    checks = [Check("identity", rule is not None, oidc.shown(user), "a registered identity", mend)]
    if rule is not None and rule.expires_at_us:
        mend = "review the identity and set a later `expires`"
        ends = oidc.when(rule.expires_at_us)
        checks.append(Check("identity-expiry", now_us < rule.expires_at_us, ends, "a time to come", mend))
    return checks


def _binding(rule: IdentityRule | None, issuer: Issuer, token: oidc.Token) -> tuple[list[Check], frozenset[str]]:
    """The conditions of the issuer and of the first login binding that matches; those of all bindings if none does."""
    general = oidc.check_conditions(token.claims, issuer.match, f"Issuer/{issuer.name}")
    names = frozenset(name for name, _ in issuer.match)
    if rule is None:
        return general, names
    logins = [login for login in rule.logins if isinstance(login, OidcLogin) and login.issuer == issuer.name]
    want = f"a login of Identity/{rule.name} for {issuer.name}"
    if not logins:
        mend = f"add `login: [{{oidc: {{issuer: {issuer.name}, match: ...}}}}]` to it, or present another token"
        return [*general, Check("binding", False, "none", want, mend)], names
    missed: list[Check] = []
    for place, login in enumerate(logins):
        found = oidc.check_conditions(token.claims, login.match, f"Identity/{rule.name}")
        # a binding without a condition would let in whatever its issuer signs for, the neighbour's job included
        if found and all(check.passed for check in found):
            binding = Check("binding", True, f"login {place}", want)
            return [*general, *found, binding], names | {name for name, _ in login.match}
        missed += found
    mend = "run the workload from where the identity expects it, or name immutable claims of it in `match`"
    binding = Check("binding", False, f"none of {len(logins)} matches", want, mend)
    return [*general, *missed[:MAX_CONDITIONS], binding], names


def _permission(
    rules: Rules,
    rule: IdentityRule,
    groups: frozenset[str],
    grants: tuple[Grant, ...],
    target: Target,
    database: str,
    running: int,
) -> tuple[Check, ...]:
    who = f"{rule.name} ({', '.join(sorted(groups)) or 'no groups'})"
    wish = f"database {oidc.shown(database)} at {target.name}"
    roles = sorted({grant.role for grant in grants})
    return (
        Check(
            "target",
            rules.targets.get(target.name) == target,
            target.name,
            "the target as it stands in the rules in force",
            "connect again: the target was changed or removed just now",
        ),
        Check(
            "grant",
            bool(grants),
            ", ".join(grant.name for grant in grants) or f"none for {who}",
            f"a grant in force for {wish}",
            "apply a Grant to this identity or a group of it, with this target and database, not expired",
        ),
        Check(
            "role",
            len(roles) == 1 and any(role.name == roles[0] for role in target.roles),
            ", ".join(roles) or "none",
            f"one role of {target.name}: " + ", ".join(role.name for role in target.roles),
            "have all grants of this identity at this database name the same role (`as`)",
        ),
        Check(
            "parallel",
            running < rule.parallel,
            f"{running} open",
            f"fewer than {rule.parallel}",
            "wait for a session to end, close leaked connections, or raise session.parallel of the Identity",
        ),
    )
