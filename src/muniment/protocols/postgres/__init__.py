"""PostgreSQL's protocol 3.0: frames, meaning, login and conversation, each over the one before.

May import: `model`, `scan`, `protocols.sql`.
Never here: a byte forwarded that was not understood, a success turned into an error after release.
"""
