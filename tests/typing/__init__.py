"""What type checkers must say about the public names; checked, not run."""
