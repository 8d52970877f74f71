"""One suite of behaviour, every implementation of a protocol."""
