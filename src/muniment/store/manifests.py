"""Versions of the documents that people write, as rows: what `services.registry` finds again after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import insert, select

from muniment.store.database import Database, applies, manifests


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One document of one apply. text: its canonical JSON, empty where it was removed; leaf: of its version."""

    version: int
    kind: str
    name: str
    digest: str
    text: str
    file: str
    line: int
    removed: bool
    leaf: str
    applied_us: int


@dataclass(frozen=True, slots=True)
class ApplyRow:
    """One numbered version of the whole set. by: asserted."""

    version: int
    digest: str
    leaf: str
    by: str
    t_us: int


_MANIFEST = [manifests.c[field.name] for field in fields(ManifestRow)]
_APPLY = [applies.c[field.name] for field in fields(ApplyRow)]


def load(database: Database) -> tuple[ApplyRow | None, list[ManifestRow]]:
    """The last version and the documents that are in it, by kind and name."""
    with database.read() as connection:
        last = connection.execute(select(*_APPLY).order_by(applies.c.version.desc()).limit(1)).first()
        found: dict[tuple[str, str], ManifestRow] = {}
        for row in connection.execute(select(*_MANIFEST).order_by(manifests.c.version)):
            found[row.kind, row.name] = ManifestRow(**row._mapping)
    present = sorted((key, row) for key, row in found.items() if not row.removed)
    return (ApplyRow(**last._mapping) if last else None), [row for _, row in present]


def save(database: Database, apply: ApplyRow, changed: Sequence[ManifestRow]) -> None:
    """Keep a new version, all or nothing."""
    with database.begin() as connection:
        connection.execute(
            insert(applies),
            {"version": apply.version, "digest": apply.digest, "leaf": apply.leaf, "by": apply.by, "t_us": apply.t_us},
        )
        for row in changed:
            connection.execute(insert(manifests), {field.name: getattr(row, field.name) for field in fields(row)})


def versions(database: Database, limit: int = 100) -> list[ApplyRow]:
    """The versions, newest first."""
    with database.read() as connection:
        query = select(*_APPLY).order_by(applies.c.version.desc()).limit(limit)
        return [ApplyRow(**row._mapping) for row in connection.execute(query)]
