"""API keys: issued by an operator, shown once, kept as a hash, checked in constant time.

A key is `mk_<id>_<secret>`. Its secret is 32 random bytes, so plain SHA-256 keeps it: there is nothing to guess, and a
slow password hash would only let strangers burn our time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from muniment.model.entries import CredentialIssued
from muniment.model.errors import ConfigError, Problem
from muniment.model.identity import Check
from muniment.model.rules import ApiKeyLogin, IdentityRule, Rules
from muniment.services.keysets import Append
from muniment.services.oidc import when
from muniment.store.logins import ApiKeyRow, Logins

PREFIX = "mk_"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARS = 12  # 71 bits: ids never meet; not secret
SECRET_CHARS = 43  # 32 bytes in base 62
SHAPE = re.compile(rf"mk_([0-9A-Za-z]{{{ID_CHARS}}})_([0-9A-Za-z]{{{SECRET_CHARS}}})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key just made. key: the only time that it can be seen; it is left out of this object's repr."""

    id: str
    identity: str
    expires_us: int
    key: str = field(repr=False)


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def check_key(row: ApiKeyRow | None, presented: str, rule: IdentityRule | None, now_us: int) -> list[Check]:
    """Every question that is asked of an API key. An unknown key takes the same way as a wrong one."""
    stored = row.hash if row else bytes(32)
    good = hmac.compare_digest(stored, digest(presented)) and row is not None
    mend = "issue a key with `muniment identities key issue NAME` and present it unchanged"
    checks = [
        Check("key", good, "the key that was issued" if good else "no key that was issued", "an issued key", mend)
    ]
    if not good or row is None:
        return checks  # whose key it is and how old is nobody's business who does not hold it
    longest = (
        max((login.max_age_s for login in rule.logins if isinstance(login, ApiKeyLogin)), default=0) if rule else 0
    )
    ends_us = min(row.expires_us, row.created_us + longest * 1_000_000) if longest else row.expires_us
    checks += [
        Check(
            "key-owner",
            rule is not None and row.identity == rule.name,
            row.identity,
            rule.name if rule else "a known identity",
            "connect as the identity that the key was issued to",
        ),
        Check(
            "binding",
            longest > 0,
            "a key" if longest else "no api-key login",
            "an identity with an api-key login",
            "add `login: [{apiKey: {maxAge: ...}}]` to the Identity, or present a token",
        ),
        Check(
            "key-revoked",
            row.revoked_us == 0,
            f"revoked {when(row.revoked_us)}" if row.revoked_us else "in force",
            "in force",
            mend,
        ),
        Check("key-expiry", now_us < ends_us, when(ends_us), f"a time to come; it is {when(now_us)}", mend),
    ]
    return checks


def longest_s(rule: IdentityRule) -> int:
    """The longest life of a key that the identity allows, in seconds; 0 where it allows none."""
    return max((login.max_age_s for login in rule.logins if isinstance(login, ApiKeyLogin)), default=0)


def key_ends_us(row: ApiKeyRow, rule: IdentityRule) -> int:
    """When a key's authority ends: its own expiry, or earlier if the identity's `maxAge` was shortened since."""
    return min(row.expires_us, row.created_us + longest_s(rule) * 1_000_000)


class ApiKeys:
    """What an operator does with API keys. rules: the snapshot in force; append: the journal's."""

    def __init__(self, logins: Logins, append: Append, rules: Callable[[], Rules]) -> None:
        self._logins = logins
        self._append = append
        self._rules = rules

    async def issue(self, identity: str, expires_us: int, now_us: int) -> IssuedKey:
        """Make a key. expires_us: 0 for the longest that the identity allows.

        Raises ConfigError where the identity is unknown, has no api-key login, or the time is longer than it allows.
        Recorded before it is usable: a key without its entry must not exist.
        """
        rule = self._rules().identities.get(identity)
        if rule is None:
            raise ConfigError(Problem(identity, "no such identity", "apply its Identity document first"))
        longest = longest_s(rule)
        if not longest:
            raise ConfigError(
                Problem(f"Identity/{identity}", "has no api-key login", "add `login: [{apiKey: {maxAge: 90d}}]` to it")
            )
        last_us = now_us + longest * 1_000_000
        if rule.expires_at_us:
            last_us = min(last_us, rule.expires_at_us)
        ends_us = expires_us or last_us
        if not now_us < ends_us <= last_us:
            raise ConfigError(
                Problem(
                    f"Identity/{identity}",
                    f"a key until {when(ends_us)} is not allowed",
                    f"choose a time after now and until {when(last_us)}, or lengthen its apiKey.maxAge or expires",
                )
            )
        key_id = "".join(secrets.choice(BASE62) for _ in range(ID_CHARS))
        key = f"{PREFIX}{key_id}_{_base62(secrets.token_bytes(32))}"
        self._append([CredentialIssued("issued", key_id, identity, ends_us)])
        await asyncio.to_thread(self._logins.add_key, ApiKeyRow(key_id, identity, digest(key), now_us, ends_us, 0))
        return IssuedKey(key_id, identity, ends_us, key)

    async def revoke(self, key_id: str, now_us: int) -> bool:
        """Make a key useless for new sessions at once; False where it is unknown or was revoked before."""
        row = await asyncio.to_thread(self._logins.key, key_id)
        if row is None or row.revoked_us:
            return False
        self._append([CredentialIssued("revoked", key_id, row.identity, row.expires_us)])
        return await asyncio.to_thread(self._logins.revoke_key, key_id, now_us)

    async def list(self, identity: str = "") -> list[ApiKeyRow]:
        """The keys, or one identity's; never the key itself."""
        return await asyncio.to_thread(self._logins.keys, identity)


def _base62(data: bytes) -> str:
    number, digits = int.from_bytes(data, "big"), []
    for _ in range(SECRET_CHARS):
        number, rest = divmod(number, 62)
        digits.append(BASE62[rest])
    return "".join(reversed(digits))
