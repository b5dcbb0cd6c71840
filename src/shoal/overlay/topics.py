"""Topics: what is broadcast, by number; part of the format (spec/substrate.md). Beacons are topic 0."""

from __future__ import annotations

RECORD_TOPIC = 1  # a signed peer record
PROVISION_TOPIC = 2  # a page of the keys that a device provides
OPERATION_TOPIC = 3  # an operation of the membership log
OPERATION_WORD_TOPIC = 4  # the id of an operation that is too long to be broadcast
