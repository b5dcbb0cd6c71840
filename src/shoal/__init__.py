"""Shoal: one private peer-to-peer server network out of the machines a group of people already has."""

from shoal.version import __version__

__all__ = ["__version__"]
