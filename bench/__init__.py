"""Benchmarks: what a step costs in flushes, processor time and seconds, beside a floor measured with it."""
