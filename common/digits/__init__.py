"""Handwritten digits, as data; see README.md here."""
