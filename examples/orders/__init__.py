"""Orders of a shop, processed while the process that does it is killed again and again: `make demo`."""
