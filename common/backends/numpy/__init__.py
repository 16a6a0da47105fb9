"""The NumPy reference as a backend."""
