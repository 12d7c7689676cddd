"""The manifests of the live tests, as documents that are written out as YAML. People and companies are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.live.servers import Cluster

Document = dict[str, Any]
Allow = Mapping[str, Sequence[str]]

EVERY_VERB = (
    "select insert update delete merge truncate drop alter create references grant copy call do set show reset begin "
    "commit rollback savepoint release prepare discard lock comment vacuum analyze refresh listen notify execute"
).split()
INVOICES = {"verbs": ["select"], "resources": ["public.invoices"]}


def text(documents: Sequence[Document]) -> str:
    """The documents as one file."""
    return yaml.safe_dump_all(documents, sort_keys=False)


def document(kind: str, name: str, spec: Mapping[str, Any], **labels: str) -> Document:
    """One document."""
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "muniment/v1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def issuer(url: str, name: str = "demo", **spec: Any) -> Document:
    """Trust in the demo's issuer."""
    initiator = {"kind": "kind", "id": "actor", "run": "run_id", "attempt": "run_attempt", "workload": "workflow"}
    return document("Issuer", name, {"url": url, "initiator": initiator} | spec)


def identity(name: str, *logins: Document, **spec: Any) -> Document:
    """A job that proves itself by a token with `repository: acme/NAME`, or as `logins` say."""
    said = {
        "kind": "ci-job",
        "owner": "ada@example.org",
        "purpose": "Shows in a test what the gateway does.",
        "login": list(logins) or [{"oidc": {"issuer": "demo", "match": {"repository": f"acme/{name}"}}}],
        "session": {"parallel": 50},
    }
    return document("Identity", name, said | spec)


def target(name: str, cluster: Cluster, role: str, secret: Path | str | None, /, **spec: Any) -> Document:
    """A database. secret: a file, the name of a variable, None for trust. `labels` in spec go where they belong."""
    labels = spec.pop("labels", {})
    password = {"trust": True} if secret is None else {"password": _source(secret)}
    said: dict[str, Any] = {
        "protocol": "postgres",
        "address": f"{cluster.host}:{cluster.port}",
        "tls": {"mode": "disable"},
        "roles": {role: password},
    }
    return document("Target", name, said | spec, **labels)


def grant(name: str, to: str, at: str, role: str, *allow: Allow, **spec: Any) -> Document:
    """What an identity, or a group that is named like @this, may do at a target."""
    who = {"group": to[1:]} if to.startswith("@") else {"identity": to}
    said = {"to": who, "target": at, "as": role, "databases": ["billing"], "allow": list(allow)}
    return document("Grant", name, said | spec)


def person(name: str, key: Path, *groups: str) -> Document:
    """Somebody with the public key beside `key`."""
    public = key.with_suffix(".pub").read_text().strip()
    return document("Person", name, {"email": f"{name}@example.org", "groups": list(groups), "keys": [public]})


def mask(name: str, at: str, **spec: Any) -> Document:
    """The masks of the tests: cards by column and detector, SSNs by name, e-mail and API secrets by detector."""
    said: dict[str, Any] = {
        "target": at,
        "columns": {"card_number": ["public.customers.card_number"], "us_ssn": ["*.us_ssn"]},
        "detect": ["card_number", "us_ssn", "email", "api_secret"],
        "show": {"card_number": "first6-last4", "us_ssn": "redact"},
    }
    return document("Mask", name, said | spec)


def _source(secret: Path | str) -> Document:
    return {"file": str(secret)} if isinstance(secret, Path) else {"env": secret}


def world(issuer_url: str, cluster: Cluster, secrets: Path, people: Mapping[str, Path]) -> list[Document]:
    """The rules of the gateway that most tests share, over one database.

    Targets: `plain` (nothing masked), `billing` (masked), `sealed` (masked by pseudonym and NULL), `forgetful` (masked,
    no original kept), `guarded` (denies and holds). Jobs: `wide` may do everything that it has a word for, everywhere;
    `narrow` may read one table at `plain` and `billing`.
    """
    role = secrets / "report_ro.secret"
    admin = secrets / "billing_admin.secret"
    tls = {"mode": "verify-full", "ca": {"file": str(cluster.ca.pem)}} if cluster.ca else {"mode": "disable"}
    everything = {"verbs": EVERY_VERB, "resources": ["*"]}
    targets = {
        "plain": ("billing_admin", admin),
        "billing": ("report_ro", role),
        "sealed": ("report_ro", role),
        "forgetful": ("report_ro", role),
        "guarded": ("billing_admin", admin),
    }
    documents = [issuer(issuer_url), identity("wide"), identity("narrow")]
    for name, (user, secret) in targets.items():
        documents.append(target(name, cluster, user, secret, tls=tls))
        documents.append(grant(f"wide-at-{name}", "wide", name, user, everything, databases=["*"]))
    documents += [
        grant("narrow-at-plain", "narrow", "plain", "billing_admin", INVOICES),
        grant("narrow-at-billing", "narrow", "billing", "report_ro", INVOICES),
        mask("cardholder", "billing"),
        mask("cardholder-sealed", "sealed", show={"card_number": "pseudonym", "us_ssn": "null"}),
        mask("cardholder-forgotten", "forgetful", original="forget"),
        guard(),
        *(person(name, key, "dba") for name, key in people.items() if name != "stranger"),
    ]
    return documents


def guard(name: str = "production-safety", at: str = "guarded") -> Document:
    """Tables are not dropped, a delete says which rows; a call of fx_rate is held for one person, an update for two."""
    one, two = ({"group": "dba", "count": count} for count in (1, 2))
    return document(
        "Guard",
        name,
        {
            "target": at,
            "deny": [
                {"verbs": ["drop", "truncate"], "objects": ["table", "schema"], "message": "Tables are not dropped."},
                {"verbs": ["delete"], "traits": ["no-where"], "message": "Say which rows."},
            ],
            "hold": [
                {"verbs": ["call"], "resources": ["public.fx_rate"], "approvers": one, "within": "10m"},
                {"verbs": ["drop"], "objects": ["database"], "approvers": one, "within": "10m"},
                {"verbs": ["alter"], "resources": ["public.events"], "approvers": one, "within": "2s"},
                {"verbs": ["update"], "resources": ["public.invoices"], "approvers": two, "within": "10m"},
            ],
        },
    )
