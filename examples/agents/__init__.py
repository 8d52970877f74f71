"""Agents whose model is played from a script, so that they need neither network nor key."""
