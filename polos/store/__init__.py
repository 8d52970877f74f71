"""Durability: bytes and their order, without knowing what they mean."""
