"""Benchmarks of the execution paths."""
