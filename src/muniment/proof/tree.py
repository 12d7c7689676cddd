"""The Merkle tree of RFC 6962 (section 2.1): roots, inclusion proofs, consistency proofs.

A *node* is named by (level, index): the root of the complete subtree over leaves index * 2^level up to
(index + 1) * 2^level; level 0 are the leaf hashes. Proofs are made by whoever can look nodes up (a list, tiles) and are
checked with nothing but hashes. Checks raise `ProofError` and return None: there is no boolean to forget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Node = Callable[[int, int], bytes]


class ProofError(Exception):
    """The proof does not show what it is said to show."""


def leaf_hash(line: bytes) -> bytes:
    """SHA-256(0x00 || line): the name of a leaf everywhere in the evidence. line: without its newline."""
    return sha256(b"\0" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """An append-only tree that keeps only its peaks: the roots of the complete subtrees, largest first.

    Memory: one hash per bit of the size. Cost of `append`: one or two hashes on average.
    """

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {max(size, 0).bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self.peaks = list(peaks)

    def append(self, leaf: bytes) -> int:
        """Add a leaf hash. Returns its index."""
        index = self.size
        while self.size & 1:
            leaf = node_hash(self.peaks.pop(), leaf)
            self.size >>= 1
        self.peaks.append(leaf)
        self.size = index + 1
        return index

    def root(self) -> bytes:
        """The root at the present size."""
        return _fold(self.peaks)


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaf hashes."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def nodes(leaves: Sequence[bytes]) -> Node:
    """Look nodes up in a list of leaf hashes, for small trees."""

    def node(level: int, index: int) -> bytes:
        part = leaves[index << level : (index + 1) << level]
        if len(part) != 1 << level:
            raise ValueError(f"no complete node {level}/{index} in a tree of {len(leaves)}")
        return root(part)

    return node


def peaks(size: int) -> list[tuple[int, int]]:
    """The complete subtrees that a tree of this size is made of, as (level, index), largest first."""
    return cover(0, size)


def cover(start: int, end: int) -> list[tuple[int, int]]:
    """The complete subtrees that leaves start to end are made of; start must be a multiple of each one's width."""
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """The audit path of a leaf in a tree of `size` leaves (RFC 6962, section 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    start, end = 0, size
    path: list[bytes] = []
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < middle:
            path.append(_subtree(middle, end, node))
            end = middle
        else:
            path.append(_subtree(start, middle, node))
            start = middle
    return path[::-1]


def consistency_proof(old: int, size: int, node: Node) -> list[bytes]:
    """The proof that a tree of `size` leaves begins with the tree of `old` leaves (RFC 6962, section 2.1.2)."""
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} has no earlier size {old}")
    if old in (0, size):
        return []
    start, end, whole = 0, size, True
    path: list[bytes] = []
    while old < end:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if old <= middle:
            path.append(_subtree(middle, end, node))
            end = middle
        else:
            path.append(_subtree(start, middle, node))
            start, whole = middle, False
    if not whole:
        path.append(_subtree(start, end, node))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash stands at `index` of the tree (RFC 9162, section 2.1.3.2). Raises ProofError."""
    if not 0 <= index < size:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    _sized(leaf, root, *proof)
    here, last = index, size - 1
    for step in proof:
        if last == 0:
            raise ProofError("the proof is too long")
        if here & 1 or here == last:
            leaf = node_hash(step, leaf)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            leaf = node_hash(leaf, step)
        here, last = here >> 1, last >> 1
    if last:
        raise ProofError("the proof is too short")
    if leaf != root:
        raise ProofError(f"leaf {index} is not in the tree with this root")


def verify_consistency(old: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree only grew (RFC 9162, section 2.1.4.2). Raises ProofError.

    From the empty tree every tree follows; its proof is empty and its root is the empty one.
    """
    if not 0 <= old <= size:
        raise ProofError(f"a tree of {size} cannot follow one of {old}")
    _sized(old_root, root, *proof)
    if old in (0, size):
        if proof:
            raise ProofError("the proof is too long")
        if old_root != (EMPTY_ROOT if old == 0 else root) or (size == 0 and root != EMPTY_ROOT):
            raise ProofError(f"another tree of {old} leaves")
        return
    path = list(proof)
    if old & (old - 1) == 0:  # a complete subtree: its root is the old root itself and is left out of the proof
        path.insert(0, old_root)
    if not path:
        raise ProofError("the proof is too short")
    here, last = old - 1, size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    before = after = path[0]
    for step in path[1:]:
        if last == 0:
            raise ProofError("the proof is too long")
        if here & 1 or here == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            after = node_hash(after, step)
        here, last = here >> 1, last >> 1
    if last:
        raise ProofError("the proof is too short")
    if before != old_root:
        raise ProofError(f"the tree does not begin with the one of {old} leaves")
    if after != root:
        raise ProofError("the proof leads to another root")


def _sized(*hashes: bytes) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise ProofError(f"a hash has {HASH_BYTES} bytes")


def _fold(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return EMPTY_ROOT
    total = hashes[-1]
    for one in reversed(hashes[:-1]):
        total = node_hash(one, total)
    return total


def _subtree(start: int, end: int, node: Node) -> bytes:
    return _fold([node(level, index) for level, index in cover(start, end)])
