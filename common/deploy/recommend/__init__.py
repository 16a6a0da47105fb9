"""Recommendation of a backend from measurements."""
