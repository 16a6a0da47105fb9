"""Mutation testing of parity: put mistakes into the ports and check that parity finds and locates each one."""
