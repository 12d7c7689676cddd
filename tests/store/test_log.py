"""The deployment log: what is folded, what is signed, and what a crash or an intruder leaves behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.model.errors import ConfigError, Unavailable
from muniment.proof import canonical, note, tiles, tree
from muniment.store.keys import Keys
from muniment.store.log import Log
from muniment.store.replay import SyncedLine

YEAR = 2026


def a_line(iseq: int, instance: str = "i-0000000a", text: str = "") -> bytes:
    return canonical.encode({"kind": "heartbeat", "inst": instance, "iseq": iseq, "t": iseq, "text": text, "v": 1})


def some_lines(start: int, end: int, instance: str = "i-0000000a") -> list[bytes]:
    return [a_line(iseq, instance) for iseq in range(start, end + 1)]


class Place:
    """A data directory."""

    def __init__(self, path: Path) -> None:
        self.evidence = path / "evidence"
        self.log = self.evidence / "log"
        self.keys = Keys.open(path / "keys")

    def open(self, deployment: str = "gw.example.org") -> Log:
        return Log.open(self.evidence, deployment, YEAR, self.keys)

    def signed(self) -> note.Checkpoint:
        vkey = note.parse_vkey((self.log / "key.pub").read_text())
        return note.parse_checkpoint(note.verify((self.log / "checkpoint").read_text(), [vkey]))

    def records(self) -> list[bytes]:
        return (self.log / "records.jsonl").read_bytes().splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_leaves_are_the_journals_lines_byte_for_byte(place: Place) -> None:
    log = place.open()
    assert log.fold(some_lines(1, 3)) == 0
    assert log.fold(some_lines(4, 5)) == 3
    assert place.records() == some_lines(1, 5)
    assert list(log.lines(2)) == some_lines(3, 5)


def test_a_checkpoint_is_signed_over_the_root_of_all_leaves(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 7))
    text = log.checkpoint(1)
    assert (place.log / "checkpoint").read_text() == text
    leaves = [tree.leaf_hash(line) for line in some_lines(1, 7)]
    assert place.signed() == note.Checkpoint(f"gw.example.org/evidence/{YEAR}", 7, tree.root(leaves))


def test_tiles_and_bundles_give_back_every_leaf_at_every_level(place: Place) -> None:
    log = place.open()
    lines = some_lines(1, 600)
    log.fold(lines[:300])
    log.checkpoint(1)
    log.fold(lines[300:])
    log.checkpoint(2)
    leaves = [tree.leaf_hash(line) for line in lines]
    for tile in [tiles.Tile(0, 0), tiles.Tile(0, 1), *tiles.partial_tiles(600)]:
        held = tiles.decode_hashes((place.log / tile.path).read_bytes(), tile.width)
        node = tree.nodes(leaves)
        wanted = [node(8 * tile.level, tile.index * 256 + i) for i in range(tile.width)]
        assert held == wanted, tile
    for index, width in ((0, 256), (1, 256), (2, 88)):
        path = place.log / tiles.Tile(tiles.ENTRIES, index, width).path
        assert tiles.decode_bundle(path.read_bytes(), width) == lines[index * 256 : index * 256 + width]
    assert not (place.log / "tile/0/001.p").exists(), "a partial tile goes when the full one is there"


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), restart=st.booleans())
def test_proofs_from_tiles_hold_at_any_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], restart: bool
) -> None:
    place = Place(tmp_path_factory.mktemp("log"))
    log = place.open()
    heads: list[tuple[int, bytes]] = []
    for size in sizes:
        log.fold(some_lines(log.size + 1, log.size + size))
        log.checkpoint(1)
        heads.append((log.size, log.root))
        if restart:
            log.close()
            log = place.open()
    for old, root in heads:
        tree.verify_consistency(old, log.size, root, log.root, log.consistency(old))
    for index in (0, log.size // 2, log.size - 1):
        tree.verify_inclusion(tree.leaf_hash(a_line(index + 1)), index, log.size, log.inclusion(index), log.root)
    log.close()


def test_it_goes_on_after_a_restart_where_it_stopped(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 300))
    log.checkpoint(1)
    log.fold(some_lines(301, 310))
    log.close()
    log = place.open()
    assert (log.size, log.folded("i-0000000a"), log.signed.size) == (310, 310, 300)
    assert list(log.lines(250)) == some_lines(251, 310)
    assert log.root == tree.root(tree.leaf_hash(line) for line in some_lines(1, 310))


def test_a_torn_last_line_is_cut_and_folded_again(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 5))
    log.checkpoint(1)
    log.fold(some_lines(6, 9))
    log.close()
    records = place.log / "records.jsonl"
    records.write_bytes(records.read_bytes()[:-7])
    log = place.open()
    assert log.folded("i-0000000a") == 8
    log.fold(some_lines(6, 12))
    assert place.records() == some_lines(1, 12)


@pytest.mark.parametrize("rubbish", [b"\0" * 40, b"\0" * 40 + b"\n", b'{"inst":"i-0000000a","iseq":9}\n', b"{}\n"])
def test_what_a_power_cut_left_behind_the_checkpoint_is_cut(place: Place, rubbish: bytes) -> None:
    log = place.open()
    log.fold(some_lines(1, 5))
    log.checkpoint(1)
    log.close()
    with (place.log / "records.jsonl").open("ab") as records:
        records.write(rubbish)
    log = place.open()
    assert log.size == 5
    log.fold(some_lines(6, 6))
    assert place.records() == some_lines(1, 6)


def test_tiles_that_are_gone_or_damaged_are_made_again_from_the_records(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 700))
    log.checkpoint(1)
    log.close()
    shutil.rmtree(place.log / "tile")
    log = place.open()
    log.fold(some_lines(701, 701))
    log.checkpoint(2)
    assert (place.log / tiles.Tile(0, 1).path).exists()
    assert place.signed().root == tree.root(tree.leaf_hash(line) for line in some_lines(1, 701))
    log.close()
    damaged = place.log / tiles.Tile(0, 2, 189).path
    damaged.write_bytes(b"x" * 189 * 32)
    assert place.open().root == place.signed().root


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_full_tile_stops_the_signing_until_tiles_are_made_again(place: Place, harm: str) -> None:
    log = place.open()
    log.fold(some_lines(1, 300))
    log.checkpoint(1)
    log.fold(some_lines(301, 600))
    path = place.log / tiles.Tile(0, 0).path
    held = path.read_bytes()
    path.unlink()
    if harm != "remove":
        path.write_bytes(held[:-1] if harm == "cut" else bytes([held[0] ^ 1]) + held[1:])
    with pytest.raises(Unavailable, match="remove log/tile and start"):
        log.inclusion(7) if harm != "flip" else log._signer.sign(
            note.Checkpoint(log.origin, 600, log.root), log_proof(log), 0, {}
        )
    log.close()
    shutil.rmtree(place.log / "tile")
    log = place.open()
    log.checkpoint(2)
    assert place.signed().root == tree.root(tree.leaf_hash(line) for line in some_lines(1, 600))
    assert path.read_bytes() == held


def log_proof(log: Log) -> list[bytes]:
    """A consistency proof out of a damaged node."""
    return [b"\0" * 32, *tree.consistency_proof(300, 600, log._tree.node)[1:]]


def test_lines_offered_twice_are_folded_once(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 4))
    assert log.fold(some_lines(2, 6)) == 4
    assert place.records() == some_lines(1, 6)


def test_two_instances_are_counted_apart(place: Place) -> None:
    log = place.open()
    log.fold([*some_lines(1, 3), *some_lines(1, 2, "i-0000000b")])
    log.checkpoint(1)
    log.close()
    log = place.open()
    assert (log.folded("i-0000000a"), log.folded("i-0000000b"), log.folded("i-0000000c")) == (3, 2, 0)


def test_a_gap_is_refused_and_nothing_of_it_is_kept(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 2))
    with pytest.raises(Unavailable, match="line 3 of i-0000000a is missing"):
        log.fold([a_line(4)])
    assert (log.size, place.records()) == (2, some_lines(1, 2))


def test_an_older_copy_of_the_evidence_is_not_taken_up(place: Place, tmp_path: Path) -> None:
    log = place.open()
    log.fold(some_lines(1, 5))
    log.checkpoint(1)
    log.close()
    shutil.copytree(place.evidence, tmp_path / "older")
    log = place.open()
    log.fold(some_lines(6, 8))
    log.checkpoint(2)
    log.close()
    shutil.rmtree(place.evidence)
    shutil.copytree(tmp_path / "older", place.evidence)
    with pytest.raises(Unavailable, match="behind what was signed"):
        place.open()


def test_records_that_were_altered_are_not_signed_over(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 5))
    log.checkpoint(1)
    log.close()
    records = place.log / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"t":3', b'"t":4'))
    shutil.rmtree(place.log / "tile")
    with pytest.raises(Unavailable, match="not what was signed"):
        place.open()


def test_a_signer_without_its_memory_signs_nothing(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 5))
    log.close()
    (place.keys.directory / "log.last").unlink()
    with pytest.raises(Unavailable, match=r"log\.last is missing"):
        place.open()


def test_the_signer_refuses_what_is_smaller_or_does_not_follow(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 5))
    log.checkpoint(1)
    signer = log._signer
    node = tree.nodes([tree.leaf_hash(line) for line in some_lines(2, 9)])
    other = tree.root(tree.leaf_hash(line) for line in some_lines(2, 9))
    for head, proof in (
        (note.Checkpoint(log.origin, 4, tree.root(tree.leaf_hash(line) for line in some_lines(1, 4))), []),
        (note.Checkpoint(log.origin, 5, other), []),
        (note.Checkpoint(log.origin, 8, other), tree.consistency_proof(5, 8, node)),
        (note.Checkpoint("another/evidence/2026", 5, log.root), []),
    ):
        with pytest.raises(Unavailable, match="the signer refuses"):
            signer.sign(head, proof, 0, {})
    assert signer.last.size == 5


def test_a_checkpoint_is_due_five_seconds_after_the_last_and_only_when_the_log_grew(place: Place) -> None:
    log = place.open()
    assert log.tick(10_000_000) is None
    log.fold(some_lines(1, 1))
    assert log.tick(10_000_000) is not None
    log.fold(some_lines(2, 2))
    assert log.tick(14_999_999) is None
    assert log.tick(15_000_000) is not None
    assert log.tick(60_000_000) is None


def test_the_history_holds_every_checkpoint_and_survives_a_torn_line(place: Place) -> None:
    log = place.open()
    log.fold(some_lines(1, 1))
    log.checkpoint(5)
    with (place.log / "checkpoints.jsonl").open("ab") as history:
        history.write(b'{"note":"torn')
    log.fold(some_lines(2, 2))
    text = log.checkpoint(6)
    rows = (place.log / "checkpoints.jsonl").read_bytes().splitlines()
    assert [json.loads(rows[at])["size"] for at in (0, 2)] == [1, 2]
    assert json.loads(rows[2]) == {"note": text, "root": log.root.hex(), "size": 2, "t": 6}


def test_one_log_is_written_by_one_process(place: Place) -> None:
    place.open()
    with pytest.raises(Unavailable, match="in use by another process"):
        place.open()


def test_a_store_of_another_deployment_is_a_thing_to_mend(place: Place) -> None:
    place.open().close()
    with pytest.raises(ConfigError, match=r"belongs to gw\.example\.org"):
        place.open("staging.example.org")


def test_the_origin_is_fixed_when_the_log_begins(place: Place) -> None:
    place.open().close()
    assert Log.open(place.evidence, "gw.example.org", YEAR + 1, place.keys).origin == f"gw.example.org/evidence/{YEAR}"


def test_basics_stand_under_their_digest(place: Place) -> None:
    log = place.open()
    digest = log.publish_basics({"postgres/client": {"functions": ["pg_catalog.version"]}})
    assert (place.log / "basics" / f"{digest}.json").exists()
    assert log.publish_basics({"postgres/client": {"functions": ["pg_catalog.version"]}}) == digest
    assert log.publish_basics({}) != digest


def test_a_disk_that_refuses_leaves_no_half_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = place.open()
    log.fold(some_lines(1, 2))
    real = __import__("os").write

    def full(file: int, data: bytes) -> int:
        if len(data) > 10:
            return real(file, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("muniment.store.log.os.write", full)
    with pytest.raises(Unavailable, match="No space left"):
        log.fold(some_lines(3, 3))
    monkeypatch.undo()
    log.fold(some_lines(3, 4))
    assert place.records() == some_lines(1, 4)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 5), st.booleans()), min_size=1, max_size=4))
def test_lines_straight_from_the_journal_make_the_same_log(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, int, bool]]
) -> None:
    plain, quick = Place(tmp_path_factory.mktemp("plain")).open(), Place(tmp_path_factory.mktemp("quick")).open()
    at = 0
    for size, again, plainly in cuts:
        lines = some_lines(max(at - again, 0) + 1, at + size)
        at += size
        plain.fold(lines)
        if plainly:
            quick.fold(lines)
        else:
            quick.fold_synced("i-0000000a", synced(lines, at))
        assert (quick.size, quick.root, quick.folded("i-0000000a")) == (plain.size, plain.root, at)
        assert list(quick.lines()) == list(plain.lines())
    for log in (plain, quick):
        log.close()


@pytest.mark.parametrize("lines", [[3], [1, 3], [1, 2, 4], [2, 1]])
def test_a_gap_straight_from_the_journal_is_refused(place: Place, lines: list[int]) -> None:
    log = place.open()
    with pytest.raises(Unavailable):
        log.fold_synced("i-0000000a", [synced([a_line(iseq)], iseq)[0] for iseq in lines])
    assert (log.size, log.folded("i-0000000a")) == (0, 0)


def synced(lines: list[bytes], last: int) -> list[SyncedLine]:
    first = last - len(lines) + 1
    return [SyncedLine(iseq, line, tree.leaf_hash(line).hex(), -1) for iseq, line in enumerate(lines, first)]
