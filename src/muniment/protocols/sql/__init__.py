"""SQL text to Action parts, with the database's own parser.

Pure, but native code that hostile text can crash: it is called in a helper process.

May import: `model`, `scan`.
Never here: names resolved by guess; what cannot be read with certainty is `complete=False`.
"""
