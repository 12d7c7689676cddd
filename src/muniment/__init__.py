"""Muniment: a gateway that lets machines in, and proves what they did."""

__version__ = "0.1.0"
