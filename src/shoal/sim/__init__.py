"""Sim: the node's own machines on a virtual clock. Runs in a process of its own, never inside a node."""
