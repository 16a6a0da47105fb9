"""Ports with a mistake put into them, to prove that parity finds every one and says where it is."""
