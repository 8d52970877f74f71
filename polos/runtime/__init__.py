"""The shell: puts core, store and replay together and performs effects."""
