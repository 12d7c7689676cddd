"""C2SP tlog-tiles: how a log's hashes and entries are cut into files that never change once they are full.

A tile at level L holds up to 256 hashes; each is the root over 256^L leaves. Source: c2sp.org/tlog-tiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from muniment.proof.tree import HASH_BYTES

HEIGHT = 8
WIDTH = 1 << HEIGHT
ENTRIES = -1  # the "level" of entry bundles
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 0xFFFF

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


class TileError(ValueError):
    """Not a tile, a bundle or a path of one."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One file of a log. level: `ENTRIES` for a bundle; index: within its level; width: 1 to 256, 256 is full."""

    level: int
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Where it is served and stored, e.g. `tile/0/x001/234.p/17`."""
        rest, path = self.index // 1000, f"{self.index % 1000:03d}"
        while rest:
            rest, path = rest // 1000, f"x{rest % 1000:03d}/{path}"
        level = "entries" if self.level == ENTRIES else str(self.level)
        return f"tile/{level}/{path}" + ("" if self.width == WIDTH else f".p/{self.width}")


def parse_path(path: str) -> Tile:
    """Read a path back. Raises TileError unless it is exactly the one form that names its tile."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise TileError("not the path of a tile")
    level, index, width = match.groups()
    tile = Tile(
        ENTRIES if level == "entries" else int(level),
        int(index.replace("/", "").replace("x", "")),
        WIDTH if width is None else int(width),
    )
    if tile.level > MAX_LEVEL or tile.width > WIDTH or tile.path != path:
        raise TileError("not the path of a tile")
    return tile


def partial_tiles(size: int) -> Iterator[Tile]:
    """The partial hash tiles of a tree of this size, lowest level first. A level with none is left out."""
    level = 0
    while size:
        if size % WIDTH:
            yield Tile(level, size // WIDTH, size % WIDTH)
        size //= WIDTH
        level += 1


def encode_hashes(hashes: Sequence[bytes]) -> bytes:
    """The content of a hash tile."""
    if not 0 < len(hashes) <= WIDTH or any(len(one) != HASH_BYTES for one in hashes):
        raise TileError(f"a tile holds 1 to {WIDTH} hashes of {HASH_BYTES} bytes")
    return b"".join(hashes)


def decode_hashes(data: bytes, width: int = WIDTH) -> list[bytes]:
    """The hashes of a tile that must hold exactly `width` of them. Raises TileError."""
    if len(data) != width * HASH_BYTES:
        raise TileError(f"a tile of {width} hashes has {width * HASH_BYTES} bytes, not {len(data)}")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """The content of an entry bundle: each entry behind its length, two bytes, big end first."""
    if not 0 < len(entries) <= WIDTH or any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise TileError(f"a bundle holds 1 to {WIDTH} entries of at most {MAX_ENTRY_BYTES} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes, width: int = WIDTH) -> list[bytes]:
    """The entries of a bundle that must hold exactly `width` of them. Raises TileError."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise TileError("the bundle ends within an entry")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != width:
        raise TileError(f"{len(entries)} entries where {width} were expected")
    return entries
