"""Parity checks: errors of every framework against the reference, tolerances, diagnosis and reports."""
