"""The test suite; README.md beside this file says which folder holds what."""
