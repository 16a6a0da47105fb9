"""The framework-free half of rosetta: catalogue, reference, weights, harness, command."""
