"""Exports to the formats that other runtimes serve."""
