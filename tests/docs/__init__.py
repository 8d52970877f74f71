"""Every example of the documentation, run."""
