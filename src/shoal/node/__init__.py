"""Node: the composition root. Config, wiring, lifecycle, and the process around them."""
