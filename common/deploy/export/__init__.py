"""Export of networks to artifacts that other runtimes serve."""
