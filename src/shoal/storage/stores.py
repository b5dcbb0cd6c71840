"""Stores: all tables of a node in one typed place, for the composition root and for tests."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.storage.database import Database
from shoal.storage.entries import Entries
from shoal.storage.invites import Invites
from shoal.storage.objects import Objects
from shoal.storage.peers import Peers
from shoal.storage.pins import Pins
from shoal.storage.sealer import Sealer
from shoal.storage.secrets_store import SecretsStore
from shoal.storage.shares import Shares
from shoal.storage.transfers import Transfers
from shoal.storage.values import Values


@dataclass(frozen=True, slots=True)
class Stores:
    """What survives a crash, table by table. The database is opened and closed by who made it."""

    database: Database
    values: Values
    entries: Entries
    secrets: SecretsStore
    invites: Invites
    peers: Peers
    objects: Objects
    shares: Shares
    transfers: Transfers
    pins: Pins


def make_stores(database: Database, sealer: Sealer) -> Stores:
    """Return the stores over a database; `sealer` is the device's keystore."""
    return Stores(
        database=database,
        values=Values(database),
        entries=Entries(database),
        secrets=SecretsStore(database, sealer),
        invites=Invites(database, sealer),
        peers=Peers(database),
        objects=Objects(database),
        shares=Shares(database, sealer),
        transfers=Transfers(database, sealer),
        pins=Pins(database, sealer),
    )
