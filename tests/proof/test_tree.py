"""The Merkle tree against RFC 6962's vectors, against the definition, and against somebody else's implementation."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pymerkle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment.proof import tree
from muniment.proof.tree import ProofError, Tree

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "rfc6962.json").read_text())
LEAVES = [tree.leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [base64.b64decode(root) for root in VECTORS["roots"]]
ZERO = b"\0" * 32

leaf_lists = st.lists(st.binary(max_size=4).map(tree.leaf_hash), min_size=1, max_size=70, unique=True)


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return tree.node_hash(by_definition(leaves[:split]), by_definition(leaves[split:]))


def hashes(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


@pytest.mark.parametrize("size", range(9))
def test_the_eight_leaves_give_the_published_roots(size: int) -> None:
    assert tree.root(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: f"{case['index']}-of-{case['size']}")
def test_the_published_inclusion_proofs_are_ours_and_hold(case: dict[str, Any]) -> None:
    index, size, proof = case["index"], case["size"], hashes(case["proof"])
    assert LEAVES[index] == base64.b64decode(case["leaf"])
    assert tree.inclusion_proof(index, size, tree.nodes(LEAVES)) == proof
    tree.verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: f"{case['old']}-to-{case['size']}")
def test_the_published_consistency_proofs_are_ours_and_hold(case: dict[str, Any]) -> None:
    old, size, proof = case["old"], case["size"], hashes(case["proof"])
    assert tree.consistency_proof(old, size, tree.nodes(LEAVES)) == proof
    tree.verify_consistency(old, size, ROOTS[old], ROOTS[size], proof)


def damaged(proof: list[bytes], root: bytes) -> list[list[bytes]]:
    """How the public test data damages a proof."""
    flipped = [[*proof[:at], bytes([one[0] ^ 16]) + one[1:], *proof[at + 1 :]] for at, one in enumerate(proof)]
    extended = [[*proof, b""], [*proof, root], [b"", *proof], [root, *proof], [*proof, ZERO]]
    return [*flipped, *extended, proof[:-1] if proof else [ZERO], proof[1:] if proof else [root]]


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: f"{case['index']}-of-{case['size']}")
def test_every_published_damage_of_an_inclusion_proof_is_refused(case: dict[str, Any]) -> None:
    index, size, proof = case["index"], case["size"], hashes(case["proof"])
    leaf, root = LEAVES[index], ROOTS[size]
    wrong = [(leaf, index, size, one, root) for one in damaged(proof, root)]
    wrong += [(leaf, at, size, proof, root) for at in (index - 1, index + 1, index ^ 2)]
    wrong += [(leaf, index, of, proof, root) for of in (size * 2, size // 2, 0, -1)]
    wrong += [(ZERO, index, size, proof, root), (leaf, index, size, proof, ZERO), (leaf, index, size, proof, b"")]
    for given_ in wrong:
        with pytest.raises(ProofError):
            tree.verify_inclusion(*given_)


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: f"{case['old']}-to-{case['size']}")
def test_every_published_damage_of_a_consistency_proof_is_refused(case: dict[str, Any]) -> None:
    old, size, proof = case["old"], case["size"], hashes(case["proof"])
    before, after = ROOTS[old], ROOTS[size]
    wrong = [(old, size, before, after, one) for one in damaged(proof, after)]
    wrong += [(other, size, before, after, proof) for other in (old - 1, old + 1, old ^ 2) if other != old]
    wrong += [(old, other, before, after, proof) for other in (size * 2, size // 2) if old != other]
    wrong += [(old, size, ZERO, after, proof), (old, size, before, ZERO, proof)]
    if before != after:
        wrong.append((old, size, after, before, proof))
    for given_ in wrong:
        with pytest.raises(ProofError):
            tree.verify_consistency(*given_)


@pytest.mark.parametrize(
    ("old", "size", "before", "after", "proof"),
    [
        (0, 1, b"x" * 12, b"y" * 12, []),
        (0, 1, ROOTS[0], ROOTS[0], [ROOTS[0]]),
        (0, 1, ROOTS[1], ROOTS[1], []),
        (0, 0, ROOTS[0], ROOTS[1], []),
        (0, 0, ROOTS[0], ROOTS[0], [ROOTS[0]]),
        (1, 1, ROOTS[1], ROOTS[0], []),
        (1, 0, ROOTS[1], ROOTS[0], []),
        (2, 1, ROOTS[2], ROOTS[1], [ROOTS[1]]),
        (1, 2, ROOTS[1], ROOTS[2], []),
    ],
)
def test_the_edges_of_consistency_are_refused(
    old: int, size: int, before: bytes, after: bytes, proof: list[bytes]
) -> None:
    with pytest.raises(ProofError):
        tree.verify_consistency(old, size, before, after, proof)


def test_every_tree_follows_from_the_empty_one() -> None:
    tree.verify_consistency(0, 8, ROOTS[0], ROOTS[8], [])
    tree.verify_consistency(0, 0, ROOTS[0], ROOTS[0], [])


@settings(max_examples=100)
@given(leaf_lists)
def test_the_root_is_the_one_of_the_definition(leaves: list[bytes]) -> None:
    assert tree.root(leaves) == by_definition(leaves)


@settings(max_examples=60, deadline=None)
@given(leaf_lists, st.data())
def test_every_proof_that_is_made_holds_and_holds_for_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    size, node = len(leaves), tree.nodes(leaves)
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(0, size))
    proof, root = tree.inclusion_proof(index, size, node), tree.root(leaves)
    tree.verify_inclusion(leaves[index], index, size, proof, root)
    if other != index:
        with pytest.raises(ProofError):
            tree.verify_inclusion(leaves[index], other, size, proof, root)
        with pytest.raises(ProofError):
            tree.verify_inclusion(leaves[other], index, size, proof, root)
    path = tree.consistency_proof(old, size, node)
    tree.verify_consistency(old, size, tree.root(leaves[:old]), root, path)
    with pytest.raises(ProofError):
        tree.verify_consistency(old, size, ZERO, root, path)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=6), min_size=1, max_size=40), st.data())
def test_somebody_elses_implementation_agrees(entries: list[bytes], data: st.DataObject) -> None:
    theirs = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        theirs.append_entry(entry)
    leaves = [tree.leaf_hash(entry) for entry in entries]
    size = len(leaves)
    assert theirs.get_root(size) == tree.root(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    node = tree.nodes(leaves)
    theirs_path = theirs.prove_inclusion(index + 1, size).path  # counts from 1, and holds the leaf as well
    assert {*tree.inclusion_proof(index, size, node), leaves[index]} == set(theirs_path)
    path = tree.consistency_proof(old, size, node)
    tree.verify_consistency(old, size, theirs.get_root(old), theirs.get_root(size), path)


@settings(max_examples=100)
@given(
    st.integers(-2, 40), st.integers(-2, 40), st.lists(st.sampled_from([*LEAVES, ZERO, b""]), max_size=7),
    st.sampled_from(ROOTS), st.sampled_from(ROOTS),
)  # fmt: skip
def test_checking_garbage_raises_nothing_but_proof_errors(
    first: int, size: int, proof: list[bytes], one: bytes, other: bytes
) -> None:
    for check in (
        lambda: tree.verify_inclusion(one, first, size, proof, other),
        lambda: tree.verify_consistency(first, size, one, other, proof),
    ):
        try:
            check()
        except ProofError:
            continue


@given(leaf_lists, st.integers(0, 70))
def test_a_tree_can_go_on_from_its_peaks(leaves: list[bytes], cut: int) -> None:
    cut = min(cut, len(leaves))
    node = tree.nodes(leaves)
    resumed = Tree(cut, [node(level, index) for level, index in tree.peaks(cut)])
    for leaf in leaves[cut:]:
        resumed.append(leaf)
    assert (resumed.size, resumed.root()) == (len(leaves), tree.root(leaves))


def test_peaks_that_do_not_fit_the_size_are_refused() -> None:
    with pytest.raises(ValueError, match="peaks"):
        Tree(3, [ZERO])
