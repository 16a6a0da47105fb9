"""Benchmarks of every way to run a network."""
