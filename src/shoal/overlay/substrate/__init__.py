"""Substrate: what keeps a network of any size together: views, broadcast, failure detection, healing."""
