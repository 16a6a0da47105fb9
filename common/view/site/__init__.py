"""Static website: a page per network with its source in every framework, idioms, pitfalls, parity and benchmarks."""
