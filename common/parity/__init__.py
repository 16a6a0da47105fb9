"""Parity: run every network in every framework, and say how far each is from the reference, and where first."""
