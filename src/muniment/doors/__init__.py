"""WAYS IN. wire, http and cli translate between a peer and the services; they decide nothing and do not know each
other.

May import: `services` and everything under it.
Never here: a permission check, a mask, SQL of our own store.
"""
