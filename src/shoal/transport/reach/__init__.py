"""Reach: how peers meet whom no dial brings together: relays, hole punching, and knowing about it."""
