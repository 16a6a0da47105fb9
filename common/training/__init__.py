"""Training without a framework: data, optimizers as definitions, the loop, checkpoints, curves."""
