"""People with real SSH keys, made by ssh-keygen; and a record of what was journalled."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from muniment.model.entries import Entry
from muniment.model.errors import Unavailable
from muniment.model.rules import Person
from muniment.services.decisions import NAMESPACE


@dataclass
class Signer:
    """A person at their own desk."""

    person: Person
    key: Path

    def sign(self, text: str, namespace: str = NAMESPACE) -> str:
        command = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(self.key)]
        return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout.decode()


def make_person(directory: Path, name: str, *groups: str, email: str = "", key: Path | None = None) -> Signer:
    """A Person's manifest and the private key that goes with it."""
    if key is None:
        key = directory / f"id_{name}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True)
    line = key.with_suffix(".pub").read_text().strip()
    return Signer(Person(name, email or f"{name}@example.org", frozenset(groups), (line,)), key)


@dataclass
class Notes:
    """Stands where the journal stands: keeps entries, and can be down. Its leaf hashes are numbers."""

    entries: list[Entry] = field(default_factory=list)
    down: bool = False
    synced: int = 0

    def append(self, entries: Sequence[Entry]) -> list[str]:
        if self.down:
            raise Unavailable("the journal failed")
        self.entries += entries
        return [f"{len(self.entries) - len(entries) + nth:064x}" for nth in range(len(entries))]

    async def durable(self) -> None:
        await asyncio.sleep(0)
        self.synced = len(self.entries)
