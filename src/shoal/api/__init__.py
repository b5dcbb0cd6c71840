"""API: everything that can be asked of a node, and HTTP over it."""
