"""Tiles and bundles: the paths and layouts of C2SP tlog-tiles."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.proof import tiles
from muniment.proof.tiles import ENTRIES, Tile, TileError


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1234067), "tile/0/x001/x234/067"),  # the specification's own example of an index
        (Tile(0, 0), "tile/0/000"),
        (Tile(1, 999, 17), "tile/1/999.p/17"),
        (Tile(63, 1000, 255), "tile/63/x001/000.p/255"),
        (Tile(ENTRIES, 12, 1), "tile/entries/012.p/1"),
    ],
)
def test_paths_are_the_specifications(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert tiles.parse_path(path) == tile


@given(st.integers(-1, 63), st.integers(0, 2**60), st.integers(1, 256))
def test_a_path_names_one_tile(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert tiles.parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "", "tile/0/0", "tile/00/000", "tile/64/000", "tile/0/x000/000", "tile/0/001/000", "tile/0/000.p/0",
        "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000/", "/tile/0/000", "tile/0/../000", "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660", "tile/-1/000",
    ],
)  # fmt: skip
def test_no_other_path_is_read(path: str) -> None:
    with pytest.raises(TileError):
        tiles.parse_path(path)


@settings(max_examples=200)
@given(st.text(st.sampled_from("tilenrs/0123456789x.p"), max_size=24))
def test_reading_a_garbage_path_raises_nothing_but_tile_errors(path: str) -> None:
    try:
        tile = tiles.parse_path(path)
    except TileError:
        return
    assert tile.path == path


def test_the_specifications_example_of_partial_tiles() -> None:
    assert list(tiles.partial_tiles(70_000)) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles.partial_tiles(256)) == [Tile(1, 0, 1)]
    assert list(tiles.partial_tiles(0)) == []


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_bundles_give_their_entries_back(entries: list[bytes]) -> None:
    data = tiles.encode_bundle(entries)
    assert tiles.decode_bundle(data, len(entries)) == entries
    with pytest.raises(TileError):
        tiles.decode_bundle(data, len(entries) + 1)


def test_an_entry_stands_behind_two_bytes_of_length() -> None:
    assert tiles.encode_bundle([b"ab", b""]) == b"\0\2ab\0\0"


@settings(max_examples=200)
@given(st.binary(max_size=64), st.integers(1, 3))
def test_reading_a_garbage_bundle_raises_nothing_but_tile_errors(data: bytes, width: int) -> None:
    try:
        entries = tiles.decode_bundle(data, width)
    except TileError:
        return
    assert tiles.encode_bundle(entries) == data


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=256))
def test_hash_tiles_give_their_hashes_back(hashes: list[bytes]) -> None:
    assert tiles.decode_hashes(tiles.encode_hashes(hashes), len(hashes)) == hashes


@pytest.mark.parametrize("hashes", [[], [b"x" * 31], [b"x" * 32] * 257])
def test_what_is_no_tile_is_not_written(hashes: list[bytes]) -> None:
    with pytest.raises(TileError):
        tiles.encode_hashes(hashes)
    with pytest.raises(TileError):
        tiles.decode_hashes(b"".join(hashes), 256)


@pytest.mark.parametrize("entries", [[], [b""] * 257, [b"x" * 65_536]])
def test_what_is_no_bundle_is_not_written(entries: list[bytes]) -> None:
    with pytest.raises(TileError):
        tiles.encode_bundle(entries)
