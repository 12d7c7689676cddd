"""USE CASES. What a person or a client can want: to be let in, to be judged, to approve, to see, to prove.

May import: `store` and everything under it.
Never here: a wire format, an HTTP status, a terminal. The gate keeps the order; nowhere else does.
"""
