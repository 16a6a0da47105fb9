"""The framework-free half of rosetta: catalog, reference, weights, harness, command."""

__version__ = "0.1.0"
