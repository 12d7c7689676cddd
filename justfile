# `just` lists the recipes; `just check` is what CI runs.
set shell := ["bash", "-euo", "pipefail", "-c"]

default:
    @just --list

# formatting, lint, types, rooms, and every test that needs no server
check: lint types rooms test

lint:
    ruff check .
    ruff format --check .

types:
    mypy

rooms:
    lint-imports

# everything that needs no server
test *args:
    pytest -q -m "not live" {{args}}

# real clients against real servers
live *args:
    pytest -q -m live {{args}}

# CPU per query and per GB, against direct and PgBouncer in the same run
bench *args:
    python -m bench {{args}}

# tape transcripts from real clients again
tape *args:
    python -m tests.transcripts.tape {{args}}
