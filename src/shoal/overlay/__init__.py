"""Overlay: who is here and who has what; machines without sockets, and their driver."""
