"""DECISIONS. Pure functions from documents, actions and values to rules, verdicts and masked values.

May import: `model`, `scan`, and a parser of documents.
Never here: IO, a clock (`now_us` is a parameter), a protocol, the evidence format.
"""
