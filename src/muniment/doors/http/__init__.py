"""http: a way in. See `muniment.doors`."""
