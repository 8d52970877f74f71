"""Agents: durable loops of a model and its tools, written as ordinary workflows."""
