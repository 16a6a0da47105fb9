"""The parts of rosetta that need no framework: catalog, reference, weights, harness, command line."""

__version__ = "0.1.0"
