"""The numbered invariants, with generated programs and histories."""
