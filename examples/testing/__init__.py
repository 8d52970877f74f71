"""Workflows with a planted bug each, mended ones, and what a crash sweep says of both."""
