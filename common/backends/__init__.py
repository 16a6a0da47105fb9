"""Backends: protocol, registry, Python environments and processes."""
