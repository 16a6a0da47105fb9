"""Package data: handwritten digits in IDX files, described in README.md."""
