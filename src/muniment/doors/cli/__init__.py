"""cli: a way in. See `muniment.doors`. Home of typer and rich, and of httpx as a client of the API."""
