"""Comparison of servers and micro-benchmarks of the engine; see README.md."""
