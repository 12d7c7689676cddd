"""verify.py on a real evidence directory: the untouched one passes, and each way to attack it is found and placed.

The second half are logs that a gateway itself signed although it should not have: the records are intact there, and it
is what they say that must fail.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from muniment.model.entries import (
    ApprovalDecide,
    Heartbeat,
    InstanceStart,
    InstanceStop,
    RulesActive,
    RulesApply,
)
from muniment.proof import canonical, note, tree
from muniment.store.keys import Keys
from tests.verifier.conftest import FILE
from tests.verifier.scene import ADA, DECLARED, GRACE, Approver, Scene, whole

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


class Copy:
    """A copied evidence directory, with what its auditor holds."""

    def __init__(self, evidence: Path, verify: ModuleType) -> None:
        self.dir = evidence
        self.key = (evidence / "log/key.pub").read_text()
        rows = (evidence / "log/checkpoints.jsonl").read_text().splitlines()
        self.heads = [json.loads(row)["note"] for row in rows]
        self._verify = verify

    def check(self, **given: Any) -> list[tuple[str, str]]:
        failed: list[tuple[str, str]] = self._verify.Check(self.dir, self.key, **given).failed
        return failed

    def lines(self, name: str = "log/records.jsonl") -> list[bytes]:
        return (self.dir / name).read_bytes().splitlines(keepends=True)

    def write(self, lines: list[bytes], name: str = "log/records.jsonl") -> None:
        (self.dir / name).write_bytes(b"".join(lines))

    def where(self, kind: str) -> int:
        """The index of the first record of this kind."""
        return next(at for at, line in enumerate(self.lines()) if json.loads(line)["kind"] == kind)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene")
    whole(path)
    return path


@pytest.fixture
def copy(original: Path, tmp_path: Path, verify: ModuleType) -> Copy:
    shutil.copytree(original / "evidence", tmp_path / "evidence")
    return Copy(tmp_path / "evidence", verify)


def places(failed: list[tuple[str, str]]) -> set[str]:
    return {where for where, _ in failed}


def said(failed: list[tuple[str, str]]) -> str:
    return "\n".join(f"{where}: {what}" for where, what in failed)


# ---- the directory


def test_an_untouched_directory_passes(copy: Copy, verify: ModuleType) -> None:
    check = verify.Check(copy.dir, copy.key, held=copy.heads[0], until_us=1)
    assert check.failed == []
    assert check.counts["touches judged again"] == 6
    assert check.counts["approvals followed to their signatures"] == 1
    assert check.counts["recordings"] == 3
    assert check.counts["signatures of checkpoints"] == 2


@pytest.mark.parametrize("at", range(0, 25, 3))
def test_a_flipped_byte_is_found_with_its_line(copy: Copy, at: int) -> None:
    lines = copy.lines()
    place = lines[at].index(b'"t":') + 8
    lines[at] = lines[at][:place] + bytes([lines[at][place] ^ 1]) + lines[at][place + 1 :]
    copy.write(lines)
    failed = copy.check()
    assert f"log/records.jsonl:{at + 1}" in places(failed)
    assert "log/checkpoint" in places(failed)


def test_a_flipped_byte_is_found_without_the_journal_too(copy: Copy) -> None:
    shutil.rmtree(copy.dir / "journal")
    lines = copy.lines()
    lines[9] = lines[9].replace(b'"decision":"allow"', b'"decision":"denyy"').replace(b"denyy", b"deny ")
    copy.write(lines)
    assert "log/records.jsonl:11" in places(copy.check()), "the line after it does not follow"


def test_of_the_history_only_the_first_head_that_does_not_fit_is_told(copy: Copy) -> None:
    lines = copy.lines()
    lines[2] = lines[2].replace(b'"iseq":3', b'"iseq":4')
    copy.write(lines)
    heads = [where for where, what in copy.check(held=copy.heads[1]) if "its root" in what]
    assert heads == ["log/checkpoints.jsonl:1", "log/checkpoint", "the checkpoint you hold"]


def test_a_removed_line_is_found_where_it_stood(copy: Copy) -> None:
    lines = copy.lines()
    copy.write(lines[:10] + lines[11:])
    failed = copy.check()
    assert "log/records.jsonl:11" in places(failed)
    assert "does not follow line 10" in said(failed)


def test_two_swapped_lines_are_found(copy: Copy) -> None:
    lines = copy.lines()
    lines[10], lines[11] = lines[11], lines[10]
    copy.write(lines)
    assert {"log/records.jsonl:11", "log/records.jsonl:12", "log/checkpoint"} <= places(copy.check())


def test_an_added_line_is_found(copy: Copy) -> None:
    lines = copy.lines()
    copy.write([*lines[:10], lines[9], *lines[10:]])
    assert "log/records.jsonl:11" in places(copy.check())


def test_a_cut_tail_is_found_by_the_checkpoint(copy: Copy) -> None:
    copy.write(copy.lines()[:-1])
    assert "its tail was cut" in said(copy.check())


def cut_to_the_first_checkpoint(copy: Copy) -> None:
    """As a whole: records, journal, checkpoint and history of an earlier moment."""
    rows = copy.lines("log/checkpoints.jsonl")
    size = json.loads(rows[0])["size"]
    copy.write(copy.lines()[:size])
    copy.write(copy.lines("journal/i-0000000a.jsonl")[:size], "journal/i-0000000a.jsonl")
    copy.write(rows[:1], "log/checkpoints.jsonl")
    (copy.dir / "log/checkpoint").write_text(json.loads(rows[0])["note"])


def test_a_tail_cut_behind_the_checkpoint_that_is_held_is_found(copy: Copy) -> None:
    cut_to_the_first_checkpoint(copy)
    failed = copy.check(held=copy.heads[-1])
    assert places(failed) == {"the checkpoint you hold", "log/checkpoint"}
    assert "covers 25 leaves, and log/records.jsonl ends after 12" in said(failed)


def test_a_log_that_was_rolled_back_does_not_reach_the_periods_end(copy: Copy, verify: ModuleType) -> None:
    newest = verify.Check(copy.dir, copy.key).newest
    cut_to_the_first_checkpoint(copy)
    assert "the newest signed leaf is of" in said(copy.check(until_us=newest))


def test_an_older_checkpoint_that_was_put_back_is_found(copy: Copy) -> None:
    (copy.dir / "log/checkpoint").write_text(copy.heads[0])
    failed = copy.check()
    assert places(failed) == {"log/checkpoint"}
    assert "is older than log/checkpoints.jsonl:2" in said(failed)


def test_a_log_that_was_cut_while_the_journal_went_on_is_found(copy: Copy) -> None:
    size = json.loads(copy.lines("log/checkpoints.jsonl")[0])["size"]
    copy.write(copy.lines()[:size])
    copy.write(copy.lines("log/checkpoints.jsonl")[:1], "log/checkpoints.jsonl")
    (copy.dir / "log/checkpoint").write_text(copy.heads[0])
    lines = copy.lines("journal/i-0000000a.jsonl")
    last = json.loads(lines[-1]) | {"iseq": len(lines) + 1, "iprev": tree.leaf_hash(lines[-1][:-1]).hex()}
    last["t"] += 301_000_000
    copy.write([*lines, canonical.encode(last) + b"\n"], "journal/i-0000000a.jsonl")
    assert places(copy.check()) == {"journal/i-0000000a.jsonl"}


def test_a_few_lines_that_are_not_folded_yet_are_noted_and_checked(copy: Copy, verify: ModuleType) -> None:
    lines = copy.lines("journal/i-0000000a.jsonl")
    more = json.loads(lines[-1]) | {"iseq": len(lines) + 1, "iprev": tree.leaf_hash(lines[-1][:-1]).hex()}
    copy.write([*lines, canonical.encode(more) + b"\n", b'{"torn'], "journal/i-0000000a.jsonl")
    check = verify.Check(copy.dir, copy.key)
    assert check.failed == []
    assert "1 lines of journal/i-0000000a.jsonl are not in the log yet" in check.notes
    copy.write([*lines, canonical.encode(more | {"iseq": 99}) + b"\n"], "journal/i-0000000a.jsonl")
    assert places(copy.check()) == {"journal/i-0000000a.jsonl:26"}
    copy.write([*lines, b"null\n"], "journal/i-0000000a.jsonl")
    assert said(copy.check()) == "journal/i-0000000a.jsonl:26: cannot be read"


def test_a_journal_that_says_something_else_is_found(copy: Copy) -> None:
    lines = copy.lines("journal/i-0000000a.jsonl")
    lines[9] = lines[9].replace(b'"decision":"allow"', b'"decision":"deny"')
    copy.write(lines, "journal/i-0000000a.jsonl")
    assert places(copy.check()) == {"log/records.jsonl:10"}


def test_swapped_recordings_are_found_both(copy: Copy) -> None:
    one, other = copy.dir / "recordings/s-1.rec", copy.dir / "recordings/s-2.rec"
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    assert places(copy.check()) == {"recordings/s-1.rec", "recordings/s-2.rec"}


@pytest.mark.parametrize("name", ["s-1.rec", "s-1.orig"])
def test_a_removed_recording_is_found(copy: Copy, name: str) -> None:
    (copy.dir / "recordings" / name).unlink()
    failed = copy.check()
    assert places(failed) == {f"recordings/{name}"}
    assert "is missing" in said(failed)


def resigned(copy: Copy, lines: list[bytes], keys: Keys) -> None:
    """Everything again around these lines, chains and checkpoint too, under a key of the attacker's."""
    shutil.rmtree(copy.dir / "journal")
    (copy.dir / "log/checkpoints.jsonl").unlink()
    before, leaves = "", []
    for at, line in enumerate(lines):
        leaf = json.loads(line)
        leaf["iseq"] = at + 1
        leaf.pop("iprev", None)
        if before:
            leaf["iprev"] = before
        lines[at] = canonical.encode(leaf) + b"\n"
        leaves.append(tree.leaf_hash(lines[at][:-1]))
        before = leaves[-1].hex()
    copy.write(lines)
    sign, public = keys.log_signer()
    origin = json.loads((copy.dir / "log/log.json").read_text())["origin"]
    text = note.Checkpoint(origin, len(lines), tree.root(leaves)).text
    (copy.dir / "log/checkpoint").write_text(note.sign(text, origin, public, sign))
    (copy.dir / "log/key.pub").write_text(f"{note.VerifierKey(origin, public)}\n")


def test_a_log_that_was_signed_again_with_another_key_is_found(copy: Copy, tmp_path: Path) -> None:
    resigned(copy, copy.lines(), Keys.open(tmp_path / "other"))
    failed = copy.check()
    assert "log/checkpoint" in places(failed)
    assert "is not signed by the key that you gave" in said(failed)


def test_with_the_logs_own_key_stolen_the_checkpoint_that_is_held_still_tells(copy: Copy, original: Path) -> None:
    lines = copy.lines()
    resigned(copy, lines[:10] + lines[11:], Keys.open(original / "keys"))
    assert "the checkpoint you hold" in places(copy.check(held=copy.heads[-1]))


def test_a_session_whose_close_was_removed_is_named(copy: Copy, original: Path) -> None:
    at = copy.where("session.close")
    lines = copy.lines()
    resigned(copy, lines[:at] + lines[at + 1 :], Keys.open(original / "keys"))
    assert "session s-1 was never closed" in said(copy.check())


def test_a_removed_request_is_missed(copy: Copy, original: Path) -> None:
    lines = copy.lines()
    at = copy.where("request")
    resigned(copy, lines[:at] + lines[at + 1 :], Keys.open(original / "keys"))
    failed = said(copy.check())
    assert "exchange 2 of session s-1 does not follow exchange 0" in failed
    assert "exchange 1 of session s-1 succeeded, and no record says that it was released" in failed


def test_a_list_of_basics_that_was_widened_is_found(copy: Copy) -> None:
    (path,) = (copy.dir / "log/basics").iterdir()
    path.write_text(path.read_text().replace("pg_catalog.*", "*"))
    assert "was altered" in said(copy.check())
    path.unlink()
    assert "log/records.jsonl:6" in places(copy.check())


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[]", b"null", b"\xff", b'{"kind":"request","inst":"../x","iseq":1,"t":0}', b"[" * 5000, b"1" * 5000],
)
def test_rubbish_in_the_records_is_a_failure_and_never_a_crash(copy: Copy, line: bytes) -> None:
    copy.write([*copy.lines()[:5], line + b"\n", *copy.lines()[5:]])
    assert "log/records.jsonl:6" in places(copy.check())


@pytest.mark.parametrize("text", ["", "\n\n", "x\n\n— a b\n", "x\n1\n\n\n— gw.example.org/evidence/2026 AAAA\n"])
def test_rubbish_for_a_checkpoint_is_a_failure_and_never_a_crash(copy: Copy, text: str) -> None:
    (copy.dir / "log/checkpoint").write_text(text)
    assert "log/checkpoint" in places(copy.check())


FILES = ("log/records.jsonl", "log/checkpoint", "recordings/s-1.rec", "recordings/s-1.orig", "journal/i-0000000a.jsonl")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), data=st.data())
def test_no_change_of_any_byte_passes(copy: Copy, name: str, data: st.DataObject) -> None:
    path = copy.dir / name
    held = path.read_bytes()
    at = data.draw(st.integers(0, len(held) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != held[at]))
    changed = held[:at] + bytes([other]) + held[at + 1 :]
    # A journal whose last line is torn is what a live one looks like: the log holds that line.
    assume(not (name.startswith("journal") and at == len(held) - 1))
    try:
        path.write_bytes(changed)
        assert copy.check()
    finally:
        path.write_bytes(held)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rubbish=st.binary(min_size=1, max_size=40),
    at=st.integers(0, 24),
    fill=st.sampled_from([0, (1 << 20) - 40, 1 << 20]),
)
def test_nothing_can_be_put_between_the_lines(copy: Copy, rubbish: bytes, at: int, fill: int) -> None:
    lines = copy.lines()
    copy.write([*lines[:at], b"x" * fill + rubbish, *lines[at:]])
    try:
        assert copy.check()
    finally:
        copy.write(lines)


@pytest.mark.parametrize("t", ["Infinity", "NaN", "-1", "1" + "0" * 400, '"x"', "1e3"])
def test_a_time_that_is_none_is_a_failure_and_never_a_crash(copy: Copy, t: str) -> None:
    lines = copy.lines()
    lines[24] = re.sub(rb'"t":[0-9]+', b'"t":' + t.encode(), lines[24])
    copy.write(lines)
    copy.write(lines, "journal/i-0000000a.jsonl")
    assert "log/records.jsonl:25" in places(copy.check())
    copy.write(lines[:24])
    assert copy.check()


def test_an_empty_directory_fails(tmp_path: Path, copy: Copy, verify: ModuleType) -> None:
    assert verify.Check(tmp_path / "nothing", copy.key).failed


# ---- what the records say


def played(tmp_path: Path, verify: ModuleType, act: Callable[[Scene], None]) -> str:
    """What the verifier says of a scene that ends with this act."""
    scene = Scene(tmp_path, quick=True)
    scene.play()
    act(scene)
    scene.finish()
    return said(verify.Check(scene.evidence, f"{scene.log._signer.vkey}").failed)


def test_a_session_that_goes_on_is_noted_and_does_not_fail(tmp_path: Path, verify: ModuleType) -> None:
    scene = Scene(tmp_path)
    scene.play()
    scene.open("s-3")
    scene.finish()
    check = verify.Check(scene.evidence, f"{scene.log._signer.vkey}")
    assert check.failed == []
    assert "session s-3 (nightly-report) has not ended yet" in check.notes


OUTSIDE = (
    "select relation public.salaries",
    "delete relation public.invoices",
    "select relation ?.invoices",
    "select relation publicXinvoices",
    "drop table public.invoices",
    "call function public.fx_rates",
    "call function pg_catalog.pg_read_file",
    "select relation pg_catalog.pg_stat_activity",
    "update relation pg_catalog.pg_class",
    "set setting search_path",
    "prepare transaction ",
)


def test_a_request_outside_what_is_declared_is_found_although_it_says_allow(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        for n, touch in enumerate(OUTSIDE, 1):
            scene.ask("s-3", n, "allow", "select relation public.invoices", touch)

    found = [line.partition(": ")[2] for line in played(tmp_path, verify, act).splitlines()]
    assert found == [f"outside what is declared for nightly-report at billing: {touch}" for touch in OUTSIDE]


@pytest.mark.parametrize(
    "other", [{"identity": "another", "identity_ref": ""}, {"target": "payroll"}, {"protocol": "mysql", "groups": ()}]
)
def test_a_grant_covers_only_its_own_identity_and_target(
    tmp_path: Path, verify: ModuleType, other: dict[str, str]
) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3", **other)
        scene.ask("s-3", 1, "allow", "select relation pg_catalog.pg_class")

    assert "outside what is declared" in played(tmp_path, verify, act)


def test_a_request_that_was_denied_may_be_outside(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.ask("s-3", 1, "deny", "select relation public.salaries", complete=False)
        scene.ask("s-3", 2, "allow", "select relation public.salaries", phase="prepare")

    assert played(tmp_path, verify, act) == ""


def test_rules_that_were_taken_away_declare_nothing_any_more(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.rules(version=2, declared=DECLARED[2:])
        scene.ask("s-3", 1, "allow", "select relation public.invoices")  # judged by rules 1, just before the swap
        scene.now_us += 10_000_000
        scene.ask("s-3", 2, "allow", "select relation public.invoices", rules=2)
        scene.ask("s-3", 3, "allow", "begin transaction ", rules=1)

    failed = played(tmp_path, verify, act)
    assert failed.count("outside what is declared") == 1
    assert "was judged by rules 1, and 2 were in force" in failed


def test_what_was_not_fully_read_is_never_inside(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.ask("s-3", 1, "allow", complete=False)

    assert "was not fully read" in played(tmp_path, verify, act)


def test_a_request_after_the_sessions_expiry_is_found(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3", expires_us=scene.now_us + 1_000_000)
        scene.now_us += 62_000_000
        scene.ask("s-3", 1, "allow")

    assert "its session had expired" in played(tmp_path, verify, act)


def test_a_request_of_no_session_is_found(tmp_path: Path, verify: ModuleType) -> None:
    assert "cannot be read (KeyError: 's-9')" in played(
        tmp_path, verify, lambda scene: void(scene.ask("s-9", 1, "allow"))
    )


def void(_: object) -> None:
    """For one-line acts."""


def test_a_gap_between_exchanges_is_found(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.ask("s-3", 1, "allow")
        scene.ask("s-3", 3, "allow")

    assert "exchange 3 of session s-3 does not follow exchange 1" in played(tmp_path, verify, act)


def test_a_close_that_counts_otherwise_is_found(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.ask("s-3", 1, "allow")
        scene.close("s-3", 2)

    assert "session s-3 ends with exchange 2; the last one recorded is 1" in played(tmp_path, verify, act)


def test_a_session_that_a_restart_left_open_must_be_closed(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.add(InstanceStart(software="0.1", boot="b2"))
        scene.open("s-4")
        scene.open("s-5")
        scene.close("s-4", 0)
        scene.add(InstanceStop())

    failed = played(tmp_path, verify, act)
    assert "session s-3 was never closed" in failed
    assert "session s-5 was never closed" in failed


def test_every_request_is_decided(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.ask("s-3", 1, "")
        scene.ask("s-3", 2, "perhaps")

    failed = played(tmp_path, verify, act)
    assert "no attribute 'decision'" in failed
    assert "'perhaps' is no decision" in failed


def test_a_session_id_is_never_used_again(tmp_path: Path, verify: ModuleType) -> None:
    assert "session s-1 was there before" in played(tmp_path, verify, lambda scene: scene.open("s-1"))


def test_connections_that_do_not_add_up_are_found(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.add(Heartbeat(accepted=5, rejected=1, opened=4, closed=2, open=1))

    assert "do not add up" in played(tmp_path, verify, act)


def test_references_must_lead_to_what_they_name(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3", identity_ref=scene.docs["Person/ada"])
        scene.add(RulesActive(version=7, digest="e" * 64, apply="0" * 64, declared=()))

    failed = played(tmp_path, verify, act)
    assert "no earlier document with {'document': 'Identity/nightly-report'}" in failed
    assert "no earlier rules with" in failed


def test_an_apply_must_name_documents_that_are_there(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.add(RulesApply(version=2, digest="e" * 64, documents=(f"Grant/nightly={scene.docs['Person/ada']}",)))

    assert "no earlier document with {'document': 'Grant/nightly'}" in played(tmp_path, verify, act)


def test_a_declared_line_that_cannot_be_read_declares_nothing(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.add(RulesActive(declared=("nightly|nightly-report|billing|select|*",)))

    assert "a declared line that has not six parts" in played(tmp_path, verify, act)


# ---- approvals


def test_a_forged_approval_is_found(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        question = scene.question("AAAA", "s-3", 1, count=1)
        document = scene.document("AAAA", GRACE)
        scene.decide("AAAA", question, GRACE, document=document, signature=Approver("mallory").sign(document.encode()))
        use = scene.add(ApprovalDecide(approval="AAAA", request=question, decision="use", ses="s-3", n=1))
        scene.ask("s-3", 1, "allow", "drop database reports", approval=use)

    failed = played(tmp_path, verify, act)
    assert "the signature of grace does not hold" in failed
    assert "approval AAAA is used without 1 consents" in failed


@pytest.mark.parametrize(
    "other", [{"approval": "BBBB"}, {"bound": "c" * 64}, {"target": "payroll"}, {"person": "ada"}, {"decision": "deny"}]
)
def test_a_signature_counts_only_for_what_it_was_given(
    tmp_path: Path, verify: ModuleType, other: dict[str, str]
) -> None:
    def act(scene: Scene) -> None:
        question = scene.question("AAAA", "s-3", 1, count=1)
        document = canonical.encode(json.loads(scene.document("AAAA", GRACE)) | other).decode()
        scene.decide("AAAA", question, GRACE, document=document, signature=GRACE.sign(document.encode()))

    assert "the document" in played(tmp_path, verify, act)


def test_a_signature_for_another_purpose_is_no_approval(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        question = scene.question("AAAA", "s-3", 1, count=1)
        document = scene.document("AAAA", GRACE)
        scene.decide("AAAA", question, GRACE, document=document, signature=GRACE.sign(document.encode(), b"git"))

    assert "the signature of grace does not hold" in played(tmp_path, verify, act)


def test_one_person_is_not_two(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.held("s-3", 1, "AAAA", approvers=(GRACE, GRACE))

    assert "approval AAAA is used without 2 consents" in played(tmp_path, verify, act)


def test_one_key_under_two_names_is_not_two_people(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        question = scene.question("AAAA", "s-3", 1)
        scene.decide("AAAA", question, GRACE)
        document = scene.document("AAAA", ADA)
        scene.decide("AAAA", question, ADA, document=document, key=GRACE.line, signature=GRACE.sign(document.encode()))
        scene.add(ApprovalDecide(approval="AAAA", request=question, decision="use", ses="s-3", n=1))

    assert "approval AAAA is used without 2 consents" in played(tmp_path, verify, act)


def test_an_approval_names_the_persons_own_document(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        question = scene.question("AAAA", "s-3", 1, count=1)
        scene.decide("AAAA", question, GRACE, person_ref=scene.docs["Person/ada"])
        scene.add(ApprovalDecide(approval="AAAA", request=question, decision="use", ses="s-3", n=1))

    failed = played(tmp_path, verify, act)
    assert "no earlier document with {'document': 'Person/grace'}" in failed
    assert "approval AAAA is used without 1 consents" in failed


def test_a_denial_beats_consents(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        question = scene.question("AAAA", "s-3", 1, count=1)
        scene.decide("AAAA", question, GRACE)
        scene.decide("AAAA", question, ADA, "deny")
        scene.add(ApprovalDecide(approval="AAAA", request=question, decision="use", ses="s-3", n=1))

    assert "approval AAAA is used without" in played(tmp_path, verify, act)


def test_an_approval_is_used_once_by_one_exchange(tmp_path: Path, verify: ModuleType) -> None:
    def both(scene: Scene) -> None:
        scene.open("s-3")
        scene.held("s-3", 1, "AAAA")
        released = json.loads(flushed(scene)[-1])["approval"]
        scene.ask("s-3", 3, "allow", "drop database reports", approval=released)
        use = next(json.loads(line) for line in flushed(scene) if tree.leaf_hash(line).hex() == released)
        scene.add(ApprovalDecide(approval="AAAA", request=use["request"], decision="use", ses="s-3", n=4))

    failed = played(tmp_path, verify, both)
    assert "was released by approval AAAA, which was not used for it" in failed
    assert "approval AAAA is used without 2 consents, twice" in failed


def flushed(scene: Scene) -> list[bytes]:
    scene.journal.flush()
    return list(scene.log.lines())


def test_an_approval_that_is_not_there_releases_nothing(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        scene.ask("s-3", 1, "allow", "drop database reports", approval="0" * 64)

    assert "no earlier approval.decide" in played(tmp_path, verify, act)


def test_the_decision_itself_may_be_named_when_it_was_used_for_the_exchange(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        question = scene.question("AAAA", "s-3", 1, count=1)
        decided = scene.decide("AAAA", question, GRACE)
        scene.add(ApprovalDecide(approval="AAAA", request=question, decision="use", ses="s-3", n=1))
        scene.ask("s-3", 1, "allow", "drop database reports", approval=decided)

    assert played(tmp_path, verify, act) == ""


def test_an_approval_of_another_identitys_question_releases_nothing(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        scene.open("s-3")
        question = scene.question("AAAA", "s-3", 1, count=1, target="payroll")
        document = scene.document("AAAA", GRACE, target="payroll")
        scene.decide("AAAA", question, GRACE, document=document, signature=GRACE.sign(document.encode()))
        use = scene.add(ApprovalDecide(approval="AAAA", request=question, decision="use", ses="s-3", n=1))
        scene.ask("s-3", 1, "allow", "drop database reports", approval=use)

    assert "which was not used for it" in played(tmp_path, verify, act)


def test_an_approval_that_came_too_late_is_found(tmp_path: Path, verify: ModuleType) -> None:
    def act(scene: Scene) -> None:
        question = scene.question("AAAA", "s-3", 1, count=1, expires_us=scene.now_us + 1_000_000)
        scene.now_us += 62_000_000
        scene.decide("AAAA", question, GRACE)

    assert "or too late" in played(tmp_path, verify, act)


# ---- the program


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", FILE, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_it_runs_alone_and_prints_one_page(copy: Copy, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_text(copy.heads[0])
    page = run(copy.dir, "--key", copy.dir / "log/key.pub", "--checkpoint", held, "--until", "2026-09-21")
    assert page.returncode == 0, page.stderr
    assert page.stdout.splitlines()[-1] == "RESULT: everything that was checked holds"
    assert len(page.stdout.splitlines()) < 60


def test_a_failure_is_an_exit_status_and_a_place(copy: Copy) -> None:
    (copy.dir / "recordings/s-2.rec").unlink()
    page = run(copy.dir, "--key", copy.key)
    assert page.returncode == 1
    assert "FAILED recordings/s-2.rec: is missing" in page.stdout


def test_json_says_the_same(copy: Copy) -> None:
    (copy.dir / "recordings/s-2.rec").unlink()
    page = json.loads(run(copy.dir, "--key", copy.key, "--json").stdout)
    assert (page["ok"], page["failed"][0]["where"], page["size"]) == (False, "recordings/s-2.rec", 25)


@pytest.mark.parametrize("arguments", [[], ["--key", "/no/such/file"], ["--key", "k", "--until", "yesterday"]])
def test_wrong_usage_is_told_apart(copy: Copy, arguments: list[str]) -> None:
    assert run(copy.dir, *arguments).returncode == 2


def test_a_reader_can_hold_it_in_the_head() -> None:
    source = FILE.read_text()
    # Lines that do something: blank lines, comments and docstrings do not count.
    words = tokenize.generate_tokens(io.StringIO(source).readline)
    told = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    code = {line for word in words if word.type not in told for line in range(word.start[0], word.end[0] + 1)}
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    docs = [node.body[0] for node in nodes if ast.get_docstring(node)]
    code -= {line for doc in docs for line in range(doc.lineno, (doc.end_lineno or 0) + 1)}
    assert len(code) < 400
    imported = {word for line in source.splitlines() if re.match(r"(from|import) ", line) for word in line.split()[1:2]}
    assert imported <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", ["log/records.jsonl", "recordings"])
def test_what_is_no_plain_file_fails_and_never_hangs(copy: Copy, name: str) -> None:
    path = next((copy.dir / name).glob("*.rec")) if name == "recordings" else copy.dir / name
    path.unlink()
    os.mkfifo(path)
    assert copy.check()
