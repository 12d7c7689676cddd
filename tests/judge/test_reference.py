"""The reference pages of manifests and settings: every field and word is in them, and their examples work."""

from __future__ import annotations

import re
from pathlib import Path

from muniment.judge import kinds, manifests
from muniment.judge.detect import CLASSES
from muniment.judge.nouns import KEY_TYPES
from muniment.judge.settings import Settings, read_settings

DOCS = Path(__file__).parents[2] / "docs" / "reference"
MANIFESTS = (DOCS / "manifests.md").read_text(encoding="utf-8")
SETTINGS = (DOCS / "settings.md").read_text(encoding="utf-8")


def examples(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_whole_set_in_the_reference_is_accepted() -> None:
    [text] = examples(MANIFESTS)
    rules = manifests.parse([("manifests.md", text)], 1)
    assert {len(part) for part in (rules.issuers, rules.identities, rules.targets, rules.grants, rules.guards)} == {1}
    assert len(rules.persons) == 2 and len(rules.masks) == 1


def test_the_whole_set_shows_every_kind_and_the_page_names_every_field() -> None:
    [text] = examples(MANIFESTS)
    for kind, shape in kinds.KINDS.items():
        assert f"kind: {kind}\n" in text
        section = MANIFESTS[MANIFESTS.index(f"\n## {kind}\n") + 1 :].split("\n## ")[0]
        for name, info in shape.model_fields.items():
            assert f"`{info.alias or name}`" in section, (kind, name)
        for later in shape.LATER:
            assert f"\n| `{later}`" not in section, f"{later} is not in force"


def test_the_page_lists_every_word_that_a_rule_may_use() -> None:
    words = MANIFESTS[MANIFESTS.index("## Words that rules may use") :]
    for word in kinds.VERBS | kinds.OBJECTS | kinds.TRAITS:
        assert f"`{word}`" in words
    for word in (*kinds.FORGOTTEN, *KEY_TYPES, *CLASSES, *kinds.SHOWS):
        assert word in MANIFESTS


def test_the_settings_in_the_reference_are_accepted_and_the_defaults_are_as_said() -> None:
    [text] = examples(SETTINGS)
    made = read_settings("settings.md", text)
    least = Settings(made.deployment, made.store)
    assert (made.postgres_host, made.postgres_port) == (least.postgres_host, least.postgres_port)
    assert (made.drain_s, made.login_s, made.plain_on_loopback) == (least.drain_s, least.login_s, False)
    for name in text.replace(",", "\n").replace("{", "\n").splitlines():
        if ":" in name:
            assert name.split(":")[0].strip() in SETTINGS.split("```")[2], name
