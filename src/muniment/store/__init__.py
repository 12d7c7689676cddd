"""DURABLE THINGS. The only SQL and the only files: database, journal, log, recordings, keys.

May import: `model`, `proof`, `judge`, `protocols`, `scan`.
Never here: a decision about people or permissions.
"""
