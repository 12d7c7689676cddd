"""BYTES IN, SPANS OUT. Stepping over rows, finding candidates, validating and rewriting values.

May import: nothing of ours. The one room that is compiled where a compiler is found; the plain files are the truth and
run everywhere, and every test runs on both.
Never here: rules, decisions, protocols' state, IO.
"""
