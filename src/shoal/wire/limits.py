"""Limits: of everything that comes in from a peer. What protects one module only stands in that module."""

from __future__ import annotations

from shoal.core.units import KIB, MIB

# security.md section 3, unless a line says otherwise
MESSAGE_BYTES = 64 * KIB  # payload of one control message
GOSSIP_BYTES = 16 * KIB  # payload of one message that is passed on
ENTRY_BYTES = 64 * KIB  # one signed entry, header and signature included
LIST_ITEMS = 4096
PATH_BYTES = 4 * KIB  # a path inside a share
NAME_BYTES = 64  # a device's or a user's name, UTF-8

LANE_RECORD_PLAINTEXT_BYTES = MIB + 4 * KIB  # formats.md, Lane
LANE_BYTES = 64 * 1024 * MIB
LANE_RECORDS = 2**32

REQUESTS_IN_FLIGHT = 64  # a peer, all services
BUFFER_BYTES = 16 * MIB  # a peer, queued to be sent

MEMBERS = 10_000
ADMINS = 64
OPERATIONS = 4096  # membership operations above a checkpoint
