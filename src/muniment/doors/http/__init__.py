"""http: a way in. See `muniment.doors`. Home of FastAPI and uvicorn."""
