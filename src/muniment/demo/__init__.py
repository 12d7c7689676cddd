"""DEMO. The first ten minutes: an embedded PostgreSQL, a made-up issuer, and a walk through everything.

May import: everything. Nothing imports it but the program's `demo` command, and `serve` never starts any of it.
Never here: anything that a real deployment needs.
"""
