"""The API: one table of routes, one small handler each. A handler translates; the services decide."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from muniment.doors.http.plain import Body, Query, plain
from muniment.judge.documents import Document
from muniment.services.access import ApiKeys, Logins
from muniment.services.approvals import Approvals
from muniment.services.decisions import NotAccepted
from muniment.services.evidence import Evidence
from muniment.services.registry import Registry
from muniment.services.sessions import Sessions
from muniment.services.status import Status
from muniment.store.index import Filters

PLURALS = {
    "issuers": "Issuer", "identities": "Identity", "targets": "Target", "grants": "Grant", "guards": "Guard",
    "masks": "Mask", "persons": "Person",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Services:
    """What the API reaches."""

    registry: Registry
    approvals: Approvals
    sessions: Sessions
    evidence: Evidence
    keys: ApiKeys
    logins: Logins
    status: Callable[[], Status]
    now_us: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and bounded. path: the address's named parts; who: asserted by the client."""

    path: dict[str, str]
    query: Query
    body: Body
    who: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no such thing."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A stream of JSON objects, one a line."""

    items: Iterator[object]


@dataclass(frozen=True, slots=True)
class Archive:
    """A stream of bytes, for a file of this name."""

    name: str
    parts: Iterator[bytes]


Answer = object  # plain JSON, or one of NotFound, NotAccepted, Lines, Archive
Handler = Callable[[Services, Call], Awaitable[Answer]]


async def _status(services: Services, call: Call) -> Answer:
    call.query.end()
    return plain(services.status())


def _document(services: Services, one: Document) -> dict[str, object]:
    leaf = services.registry.current.refs.get(f"{one.kind}/{one.name}", "")
    return {
        "kind": one.kind, "name": one.name, "digest": one.digest, "file": one.file, "line": one.line, "leaf": leaf,
        "document": json.loads(one.text),
    }  # fmt: skip


async def _documents(services: Services, call: Call) -> Answer:
    call.query.end()
    kind = PLURALS.get(call.path["plural"])
    if kind is None:
        return NotFound(f"there are no {call.path['plural']!r}", f"one of {', '.join(sorted(PLURALS))}")
    return [_document(services, one) for one in services.registry.documents if one.kind == kind]


async def _one_document(services: Services, call: Call) -> Answer:
    call.query.end()
    kind, name = PLURALS.get(call.path["plural"], ""), call.path["name"]
    for one in services.registry.documents:
        if (one.kind, one.name) == (kind, name):
            return _document(services, one)
    return NotFound(f"there is no {kind or call.path['plural']} {name!r} in force", "see the list without a name")


async def _apply(services: Services, call: Call) -> Answer:
    body = call.body
    files, prune, dry_run = body.files("files"), body.flag("prune"), body.flag("dry_run")
    body.end()
    return plain(await services.registry.apply(files, by=call.who, prune=prune, dry_run=dry_run))


async def _versions(services: Services, call: Call) -> Answer:
    call.query.end()
    return plain(await services.registry.versions())


async def _keys(services: Services, call: Call) -> Answer:
    call.query.end()
    rows = await services.keys.list(call.path["name"])
    return [
        {"id": row.id, "identity": row.identity, "created_us": row.created_us, "expires_us": row.expires_us,
         "revoked_us": row.revoked_us}
        for row in rows
    ]  # fmt: skip


async def _issue(services: Services, call: Call) -> Answer:
    expires_us = call.body.number("expires_us", 0)
    call.body.end()
    return plain(await services.keys.issue(call.path["name"], expires_us, services.now_us()))


async def _revoke(services: Services, call: Call) -> Answer:
    call.body.end()
    name = call.path["id"]
    if not await services.keys.revoke(name, services.now_us()):
        return NotFound(f"there is no API key {name!r} in force", "see `muniment identities key list`")
    return {"id": name, "revoked": True, "sessions_cut": services.sessions.cut_credential(name)}


async def _sessions(services: Services, call: Call) -> Answer:
    query = call.query
    filters = Filters(
        identity=query.text("identity"), initiator=query.text("initiator"), run=query.text("run"),
        target=query.text("target"), verb=query.text("verb"), since_us=query.number("since_us", 0),
        limit=query.number("limit", 100, 10_000),
    )  # fmt: skip
    query.end()
    live = {session.id for session in services.sessions.live()}
    return [plain(row) | {"live": row.ses in live} for row in await services.evidence.sessions(filters)]


def _no_session(ses: str) -> NotFound:
    return NotFound(f"there is no session {ses!r}", "see `muniment sessions list`")


async def _session(services: Services, call: Call) -> Answer:
    after, limit = call.query.number("after", 0), call.query.number("limit", 1000, 1000)
    call.query.end()
    view = await services.evidence.show(call.path["id"], call.who, after=after, limit=limit)
    return _no_session(call.path["id"]) if view is None else plain(view)


async def _replay(services: Services, call: Call) -> Answer:
    call.query.end()
    events = await services.evidence.replay(call.path["id"], call.who)
    return _no_session(call.path["id"]) if events is None else Lines(plain(event) for event in events)


async def _cut(services: Services, call: Call) -> Answer:
    reason = call.body.text("reason")
    call.body.end()
    if not services.sessions.cut(call.path["id"], f"cut by an operator: {reason}"[:500]):
        return NotFound(f"no session {call.path['id']!r} is open", "see `muniment sessions list`")
    return {"ses": call.path["id"], "cut": True}


async def _approvals(services: Services, call: Call) -> Answer:
    everything, limit = call.query.number("all", 0, 1), call.query.number("limit", 200, 1000)
    call.query.end()
    return plain(await services.evidence.approvals(open_only=not everything, limit=limit))


async def _approval(services: Services, call: Call) -> Answer:
    call.query.end()
    view = await services.evidence.approval(call.path["id"])
    if view is None:
        return NotFound(f"there is no approval {call.path['id']!r}", "see `muniment approvals list --all`")
    return plain(view)


async def _decide(services: Services, call: Call) -> Answer:
    body = call.body
    document, signature, reason = body.text("document"), body.text("signature"), body.text("reason")
    body.end()
    result = await services.approvals.decide(document, signature, reason)
    return result if isinstance(result, NotAccepted) else plain(result)


async def _logins(services: Services, call: Call) -> Answer:
    limit = call.query.number("limit", 100, 1000)
    call.query.end()
    return plain(await asyncio.to_thread(services.logins.recent, limit))


async def _login(services: Services, call: Call) -> Answer:
    call.query.end()
    reference = call.path["reference"]
    row = await asyncio.to_thread(services.logins.refused, reference)
    if row is None:
        return NotFound(f"there is no refused login {reference!r}", "see `muniment logins list`; old ones are dropped")
    await services.evidence.viewed("login", row.reference, call.who)
    return plain(row)


async def _key(services: Services, call: Call) -> Answer:
    call.query.end()
    return {"vkey": await services.evidence.vkey(), "directory": str(services.evidence.directory)}


async def _export(services: Services, call: Call) -> Answer:
    call.query.end()
    return Archive("evidence.tar", await services.evidence.export(call.who))


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table."""

    method: str
    path: str
    handler: Handler
    summary: str


ROUTES = (
    Route("GET", "/v1/status", _status, "How the gateway is doing"),
    Route("POST", "/v1/rules/apply", _apply, "Check documents and put them in force"),
    Route("GET", "/v1/rules/versions", _versions, "The versions of the rules, newest first"),
    Route("GET", "/v1/documents/{plural}", _documents, "The documents of one kind that are in force"),
    Route("GET", "/v1/documents/{plural}/{name}", _one_document, "One document"),
    Route("GET", "/v1/identities/{name}/keys", _keys, "An identity's API keys, never the key itself"),
    Route("POST", "/v1/identities/{name}/keys", _issue, "Issue an API key; the answer is the only place it is shown"),
    Route("POST", "/v1/keys/{id}/revoke", _revoke, "Revoke an API key and cut its sessions"),
    Route("GET", "/v1/sessions", _sessions, "Sessions, newest first"),
    Route("GET", "/v1/sessions/{id}", _session, "A session and its exchanges"),
    Route("GET", "/v1/sessions/{id}/replay", _replay, "Everything in a session in order of time, a JSON object a line"),
    Route("POST", "/v1/sessions/{id}/cut", _cut, "End a session now"),
    Route("GET", "/v1/approvals", _approvals, "Questions put to people, newest first"),
    Route("GET", "/v1/approvals/{id}", _approval, "One question and what became of it"),
    Route("POST", "/v1/approvals/decide", _decide, "Hand in a person's signed decision"),
    Route("GET", "/v1/logins", _logins, "Refused logins, newest first"),
    Route("GET", "/v1/logins/{reference}", _login, "One refused login with each check"),
    Route("GET", "/v1/evidence/key", _key, "The log's public key and the evidence's directory"),
    Route("GET", "/v1/evidence/export", _export, "The evidence as a tar stream"),
)
