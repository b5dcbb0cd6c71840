"""Membership: the log in motion. Synchronisation, invites, join, removal, secrets of spaces."""
