"""Training without a framework: data, optimisers as definitions, the loop, checkpoints, curves."""
