"""Core: words everyone uses. Imports nothing of Shoal's."""
