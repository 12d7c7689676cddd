"""cli: a way in. See `muniment.doors`."""
