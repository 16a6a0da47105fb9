"""Backends: their interface, their environments and their worker processes."""
