"""Deployment: execution paths, benchmarks, exported artifacts and recommendations."""
