"""EVIDENCE FORMAT. Canonical JSON, Merkle tree, tiles, signed notes, commitments, SSH signatures.

May import: `model`, and a library of primitives.
Never here: IO, keys' storage, a clock, a protocol.
"""
