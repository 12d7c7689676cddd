"""The registry: an apply is checked whole, versioned, written down, swapped at once, and found again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from muniment.judge import policy
from muniment.model.entries import DocumentVersion, RulesActive, RulesApply
from muniment.model.errors import ConfigError
from muniment.model.rules import Rules
from tests.services.house import MANIFESTS, House

FILES = [("a.yaml", MANIFESTS)]


def walk(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Run a test on an event loop of its own."""

    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    run.__name__ = test.__name__
    return run


async def started(data: Path, manifests: Path | None = None) -> House:
    house = House(data, manifests)
    await house.registry.start()
    return house


@walk
async def test_an_apply_is_a_version_with_its_entries_and_in_force_at_once(tmp_path: Path) -> None:
    house = await started(tmp_path)
    swaps: list[tuple[int, int]] = []
    house.registry.on_change(lambda old, new: swaps.append((old.version, new.version)))
    applied = await house.registry.apply(FILES, by="ada@desk")
    assert (applied.version, applied.changed, len(applied.words)) == (1, True, 6)
    rules = house.registry.current
    assert rules.version == 1 and "nightly-report" in rules.identities and swaps == [(0, 1)]
    documents = house.written(DocumentVersion)
    assert {one["document"] for one in documents} == set(rules.refs)
    (apply,) = house.written(RulesApply)
    assert sorted(apply["documents"]) == sorted(f"{name}={leaf}" for name, leaf in rules.refs.items())
    before, active = house.written(RulesActive)
    assert (before["version"], active["version"], active["digest"]) == (0, 1, rules.digest)
    assert any(line.startswith("reads-billing|@reporting|billing|") for line in active["declared"])
    house.close()


@walk
async def test_a_restart_finds_the_same_rules_with_the_same_references(tmp_path: Path) -> None:
    house = await started(tmp_path)
    await house.registry.apply(FILES, by="ada")
    await house.registry.apply(
        [("b.yaml", MANIFESTS.replace("report_ro,", "x,").replace("nightly revenue", "weekly"))], by="ada"
    )
    before = house.registry.current
    house.close()
    again = await started(tmp_path)
    assert again.registry.current == before and before.version == 2
    assert [one["version"] for one in again.written(RulesActive)] == [0, 1, 2, 2]
    again.close()


@walk
async def test_what_is_broken_changes_nothing_and_every_problem_is_said(tmp_path: Path) -> None:
    house = await started(tmp_path)
    await house.registry.apply(FILES, by="ada")
    rules, count = house.registry.current, len(house.written(DocumentVersion))
    broken = MANIFESTS.replace("group: reporting", "group: nobody").replace("issuer: ci,", "issuer: other,")
    broken += "---\napiVersion: muniment/v1\nkind: Retention\nmetadata: {name: later}\nspec: {}\n"  # hides no other
    with pytest.raises(ConfigError) as caught:
        await house.registry.apply([("b.yaml", broken)], by="ada")
    assert len(caught.value.problems) >= 3 and all("b.yaml:" in one.where for one in caught.value.problems)
    assert house.registry.current is rules and len(house.written(DocumentVersion)) == count
    house.close()


@walk
async def test_what_is_left_out_stays_unless_it_is_pruned(tmp_path: Path) -> None:
    house = await started(tmp_path)
    await house.registry.apply(FILES, by="ada")
    guard = MANIFESTS.split("---\n")[4].replace("30m", "10m")
    without_guard = [("c.yaml", MANIFESTS.replace(MANIFESTS.split("---\n")[4] + "---\n", ""))]
    applied = await house.registry.apply([("g.yaml", guard)], by="ada")
    assert applied.version == 2 and len(house.registry.current.identities) == 1
    assert house.registry.current.guards["production-safety"].hold[0].within_s == 600
    assert not (await house.registry.apply(without_guard, by="ada")).changed
    dry = await house.registry.apply(without_guard, by="ada", prune=True, dry_run=True)
    assert dry.changed and dry.version == 3 and house.registry.current.version == 2
    assert "Guard/production-safety" in " ".join(dry.words)
    await house.registry.apply(without_guard, by="ada", prune=True)
    assert house.registry.current.guards == {} and "Guard/production-safety" not in house.registry.current.refs
    removed = [one["document"] for one in house.written(DocumentVersion) if one["removed"]]
    assert removed == ["Guard/production-safety"]
    house.close()
    again = await started(tmp_path)
    assert again.registry.current.guards == {} and again.registry.current.version == 3
    again.close()


@walk
async def test_a_problem_in_a_stored_document_is_told_with_the_file_that_it_came_from(tmp_path: Path) -> None:
    house = await started(tmp_path)
    await house.registry.apply(FILES, by="ada")
    target = MANIFESTS.split("---\n")[2].replace("report_ro:", "other:")
    with pytest.raises(ConfigError) as caught:
        await house.registry.apply([("t.yaml", target)], by="ada")
    assert "a.yaml" in str(caught.value)  # the grant in force names a role that would be gone
    house.close()


@walk
async def test_a_directory_is_the_only_truth_and_is_followed(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests.d"
    manifests.mkdir()
    (manifests / "all.yaml").write_text(MANIFESTS)
    house = await started(tmp_path / "data", manifests)
    assert house.registry.current.version == 1
    with pytest.raises(ConfigError, match="only truth"):
        await house.registry.apply(FILES, by="ada")
    (manifests / "all.yaml").write_text(MANIFESTS.replace("30m", "10m"))
    await house.registry.reload()
    assert house.registry.current.version == 2
    (manifests / "all.yaml").write_text("kind: [broken")
    await house.registry.reload()
    assert house.registry.current.version == 2 and "stays in force" in house.registry.problem
    (manifests / "all.yaml").write_text(MANIFESTS)
    await house.registry.reload()
    assert house.registry.current.version == 3 and house.registry.problem == ""
    (manifests / "all.yaml").unlink()
    await house.registry.reload()
    assert house.registry.current.identities == {}
    house.close()
    (manifests / "all.yaml").write_text(MANIFESTS)
    again = await started(tmp_path / "data", manifests)
    assert again.registry.current.version == 5
    again.close()


@walk
async def test_a_start_with_a_broken_directory_is_refused(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests.d"
    manifests.mkdir()
    (manifests / "a.yaml").write_text("kind: Nothing")
    house = House(tmp_path / "data", manifests)
    with pytest.raises(ConfigError):
        await house.registry.start()
    assert house.registry.current == Rules()
    house.close()


@walk
async def test_a_directory_that_goes_away_keeps_the_rules_and_says_so(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests.d"
    manifests.mkdir()
    (manifests / "a.yaml").write_text(MANIFESTS)
    house = await started(tmp_path / "data", manifests)
    os.rename(manifests, tmp_path / "elsewhere")
    await house.registry.reload()
    assert house.registry.current.version == 1 and "manifests.d" in house.registry.problem
    os.rename(tmp_path / "elsewhere", manifests)
    await house.registry.reload()
    assert house.registry.problem == "" and house.registry.current.version == 1
    house.close()


@walk
async def test_a_large_set_is_spread_over_leaves(tmp_path: Path) -> None:
    house = await started(tmp_path)
    parts = MANIFESTS.split("---\n")
    grants = [parts[3].replace("reads-billing", f"reads-billing-{n:04}") for n in range(250)]
    await house.registry.apply([("a.yaml", "---\n".join(parts[:3] + grants))], by="ada")
    actives = house.written(RulesActive)[1:]
    assert len(actives) > 1 and [one["more"] for one in actives] == [True] * (len(actives) - 1) + [False]
    declared = [line for one in actives for line in one["declared"]]
    assert declared == list(policy.declared(house.registry.current))
    assert sum(len(one["documents"]) for one in house.written(RulesApply)) == 253
    house.close()
