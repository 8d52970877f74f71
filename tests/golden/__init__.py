"""Transcripts: commands in, events and state out."""
