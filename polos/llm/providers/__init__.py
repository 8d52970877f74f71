"""
Those who serve models, one module each, so that each SDK has one door.

Nothing is imported here: a provider's module is found by `get_provider` when it is asked for, and loads its SDK at
the first call.
"""
