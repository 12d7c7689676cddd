"""LANGUAGES. One folder each: frames (bytes), meaning (what it asks for), login (straight-line), conversation.

May import: `model`, `scan`. Protocols do not know each other; `sql` is shared by the SQL ones.
Never here: sockets, clocks, files, rules, evidence. A conversation takes bytes and rulings and returns effects.
"""
