"""wire: a way in. See `muniment.doors`."""
