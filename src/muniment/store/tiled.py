"""The log's tree as files: C2SP tlog-tiles of hashes and of entries, written when they are full or at a checkpoint.

Only the tiles that are not full stand in memory. Not thread-safe: the log's lock is held around every call.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from muniment.model.errors import Unavailable
from muniment.proof import tiles, tree
from muniment.proof.tiles import ENTRIES, WIDTH, Tile
from muniment.store.keys import sync_directory

REMAKE = "stop the gateway, remove log/tile and start it: tiles are made again from the records"


class TiledTree:
    """The tree over the leaves appended so far. size: how many; the tiles are below `directory`/tile."""

    def __init__(self, directory: Path) -> None:
        self.size = 0
        self._directory = directory
        self._edges: list[list[bytes]] = []  # per tile level, the hashes of the tile that is not full yet
        self._bundle: list[bytes] = []  # the lines of the entry bundle that is not full yet
        self._full: dict[Tile, bytes] = {}  # full tiles that are not on the disk yet

    @property
    def unwritten(self) -> int:
        """How many full tiles wait in memory for a flush."""
        return len(self._full)

    def append(self, line: bytes, leaf: bytes = b"") -> None:
        """Take one more leaf. leaf: its hash, where it is known."""
        leaf = leaf or tree.leaf_hash(line)
        index = self.size
        self.size = index + 1
        self._bundle.append(line)
        if len(self._bundle) == WIDTH:
            self._full[Tile(ENTRIES, index // WIDTH)] = tiles.encode_bundle(self._bundle)
            self._bundle = []
        for level in range(tiles.MAX_LEVEL):
            if level == len(self._edges):
                self._edges.append([])
            edge = self._edges[level]
            edge.append(leaf)
            if len(edge) < WIDTH:
                return
            self._full[Tile(level, index >> tiles.HEIGHT * (level + 1))] = tiles.encode_hashes(edge)
            leaf = tree.root(edge)
            edge.clear()

    def flush(self) -> None:
        """Bring the tiles of the present size to the disk. Raises OSError; then all of them are written again."""
        files = dict(self._full)
        for tile in tiles.partial_tiles(self.size):
            files[tile] = tiles.encode_hashes(self._edges[tile.level])
        if self._bundle:
            index, width = divmod(self.size, WIDTH)
            files[Tile(ENTRIES, index, width)] = tiles.encode_bundle(self._bundle)
        self._store(files)
        for tile in self._full:
            shutil.rmtree(self._directory / f"{tile.path}.p", ignore_errors=True)
        self._full.clear()

    def entries(self, start: int) -> Iterator[bytes]:
        """The leaves from index `start` on, as of this call. Raises Unavailable where a bundle is gone."""
        return self._entries(start, self.size, list(self._bundle), dict(self._full))

    def _entries(self, start: int, size: int, newest: list[bytes], full: Mapping[Tile, bytes]) -> Iterator[bytes]:
        for index in range(start // WIDTH, -(-size // WIDTH)):
            tile = Tile(ENTRIES, index)
            if index == size // WIDTH:
                entries = newest
            else:
                entries = tiles.decode_bundle(full[tile] if tile in full else self._read(tile))
            yield from entries[max(start - index * WIDTH, 0) :]

    def root(self) -> bytes:
        """The root at the present size, out of the tiles that are not full: their peaks are the tree's."""
        found = []
        for edge in reversed(self._edges):
            found += [tree.root(edge[at << level : (at + 1) << level]) for level, at in tree.peaks(len(edge))]
        return tree.Tree(self.size, found).root()

    def _read(self, tile: Tile) -> bytes:
        try:
            return (self._directory / tile.path).read_bytes()
        except FileNotFoundError:
            raise Unavailable(f"{tile.path} is missing from the log", REMAKE) from None

    def node(self, level: int, index: int) -> bytes:
        """A complete subtree's root, from the tiles (`tree.Node`)."""
        at, inner = divmod(level, tiles.HEIGHT)
        number, offset = divmod(index << inner, WIDTH)
        tile = Tile(at, number)
        if number == self.size >> tiles.HEIGHT * (at + 1):
            hashes = self._edges[at]
        else:
            try:
                hashes = tiles.decode_hashes(self._full.get(tile) or self._read(tile))
            except tiles.TileError:
                raise Unavailable(f"{tile.path} is damaged", REMAKE) from None
        return tree.root(hashes[offset : offset + (1 << inner)])

    def resume(self, size: int, root: bytes) -> bool:
        """Take up the tree from the tiles of this size. False: they are not all there, or not right."""
        try:
            for tile in tiles.partial_tiles(size):
                while len(self._edges) <= tile.level:
                    self._edges.append([])
                self._edges[tile.level] = tiles.decode_hashes(self._partial(tile), tile.width)
            index, width = divmod(size, WIDTH)
            self._bundle = tiles.decode_bundle(self._partial(Tile(ENTRIES, index, width)), width) if width else []
            self.size = size
        except (OSError, ValueError, Unavailable):
            return False
        leaves = [tree.leaf_hash(line) for line in self._bundle]
        return self.root() == root and (not self._edges or leaves == self._edges[0])

    def _partial(self, tile: Tile) -> bytes:
        """A partial tile's bytes; cut from the full one where that has taken its place."""
        path = self._directory / tile.path
        if path.exists():
            return path.read_bytes()
        data = self._read(Tile(tile.level, tile.index))
        if tile.level == ENTRIES:
            return tiles.encode_bundle(tiles.decode_bundle(data)[: tile.width])
        return data[: tile.width * tree.HASH_BYTES]

    def _store(self, files: Mapping[Tile, bytes]) -> None:
        """Write all, then sync all: half the cost of one after the other. A torn tile is behind what the signer
        remembers, and is written again."""
        paths = [(self._directory / tile.path, data) for tile, data in files.items()]
        for path, data in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for path, _ in paths:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        for parent in {parent for path, _ in paths for parent in (path.parent, path.parent.parent)}:
            sync_directory(parent)
