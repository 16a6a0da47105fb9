"""Recommendation of an execution path from benchmark results."""
