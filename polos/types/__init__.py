"""Public data types."""
