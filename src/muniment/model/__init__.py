"""NOUNS. Frozen data that every room speaks of: identities, targets, exchanges, verdicts, effects, entries.

May import: the standard library's pure parts, `scan` types.
Never here: IO, a clock, randomness, a protocol's bytes, a decision.
"""
