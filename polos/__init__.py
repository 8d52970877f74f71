"""An embedded durable-execution engine: workflows in plain async Python that survive a crash."""

__version__ = "0.1.0"
