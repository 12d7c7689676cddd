"""The languages that the gateway speaks: an explicit list, in the order in which they were learnt.

A protocol that is not here does not exist for the gateway; the kit in `tests/kit` runs against every entry.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from muniment.model.effects import Step
from muniment.protocols.postgres.conversation import Conversation
from muniment.protocols.postgres.login import login
from muniment.protocols.sql import literals
from muniment.protocols.sql.postgres import READER


@dataclass(frozen=True, slots=True)
class Language:
    """One protocol. login: makes the generator that logs both sides in; conversation: its steady state; redact: a
    statement's text without its values; reader: name and version of what reads statements, for the record."""

    name: str
    default_port: int
    login: Callable[..., Generator[Step, Any, Any]]
    conversation: type[Conversation]
    redact: Callable[[str], str]
    reader: str


POSTGRES = Language("postgres", 5432, login, Conversation, literals.redact, READER)

LANGUAGES: dict[str, Language] = {POSTGRES.name: POSTGRES}
