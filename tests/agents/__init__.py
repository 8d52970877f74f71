"""Agents: the loop, its tools, hooks and guardrails, on models that are scripted."""
