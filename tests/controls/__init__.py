"""Broken engines on purpose, each of which the suite must catch."""
