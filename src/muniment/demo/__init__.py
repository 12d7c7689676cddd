"""DEMO. The first ten minutes: an embedded PostgreSQL, a made-up issuer, and a walk through everything.

May import: everything. Nothing imports it but the program's `demo` command, and `serve` never starts any of it.
Never here: anything that a real deployment needs.
"""

from __future__ import annotations


def run(*, check: bool) -> int:
    """`muniment demo [--check]`: walk every step, or leave everything up until Ctrl-C. Returns the exit code.

    0: with check, all held; without, it was ended. 1: something did not hold or did not come up.
    """
    # the issuer is a program of its own and needs none of this
    from muniment.demo import play

    return play.run(check=check)
