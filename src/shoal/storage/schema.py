"""Schema: the tables, as a list of migrations; `user_version` counts those applied.

A migration is never edited once released: append another. Values that carry keys are sealed before they come
here (columns named `sealed_*`). Paths are bytes. Times are seconds since 1970, for display and expiry only.
"""

from __future__ import annotations

import sqlite3

from shoal.core.errors import ConfigFault
from shoal.storage.faults import ascii_path

APPLICATION_ID = 0x53484F41  # "SHOA": the file says what it is

_FIRST = """
CREATE TABLE named_values (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE entries (
    arrival INTEGER PRIMARY KEY,          -- order in which this node accepted them
    id BLOB NOT NULL UNIQUE,              -- 32
    log BLOB NOT NULL,                    -- 32; the network id for the membership log, a share id for a feed
    author BLOB NOT NULL,                 -- 32
    seq INTEGER NOT NULL,
    data BLOB NOT NULL                    -- as received, signature included
);
CREATE INDEX entries_by_seq ON entries (log, author, seq);

CREATE TABLE secrets (
    kind INTEGER NOT NULL,
    space BLOB NOT NULL,                  -- 32
    generation INTEGER NOT NULL,
    sealed_value BLOB NOT NULL,
    PRIMARY KEY (kind, space, generation)
) WITHOUT ROWID;

CREATE TABLE invites (
    id BLOB PRIMARY KEY,
    sealed_secret BLOB NOT NULL,
    role INTEGER NOT NULL,
    user TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    state TEXT NOT NULL,                  -- open, used, revoked; expired follows from expires_at
    used_by BLOB                          -- the joiner's key
) WITHOUT ROWID;

CREATE TABLE peers (
    peer_id BLOB PRIMARY KEY,
    record BLOB,                          -- the peer's own signed record, if one was received
    addresses BLOB NOT NULL,              -- MessagePack list of text, from tickets and discovery
    last_good TEXT,                       -- the address of the last session
    last_good_at REAL NOT NULL,
    failures INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE objects (
    id BLOB PRIMARY KEY,                  -- 32
    data BLOB NOT NULL                    -- a sealed object
);
CREATE TABLE object_holders (
    share_id BLOB NOT NULL,
    id BLOB NOT NULL REFERENCES objects (id),
    PRIMARY KEY (share_id, id)
) WITHOUT ROWID;
CREATE INDEX object_holders_by_id ON object_holders (id);

CREATE TABLE shares (
    share_id BLOB PRIMARY KEY,
    origin TEXT NOT NULL,                 -- own, fetched
    root_key BLOB NOT NULL,               -- hash of the sorted roots: one own share a set of paths
    sealed_link BLOB NOT NULL,
    roots BLOB NOT NULL,                  -- MessagePack list of bytes
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    content_id BLOB,
    files INTEGER,
    total_bytes INTEGER,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    error TEXT NOT NULL,
    details BLOB NOT NULL                 -- the app's own, MessagePack
) WITHOUT ROWID;
CREATE UNIQUE INDEX shares_by_root ON shares (origin, root_key) WHERE origin = 'own';

CREATE TABLE transfers (
    id BLOB PRIMARY KEY,                  -- 16, random
    target_key BLOB NOT NULL UNIQUE,      -- hash of (link, dest): the same get is the same transfer
    share_id BLOB NOT NULL,
    version INTEGER NOT NULL,
    sealed_link BLOB NOT NULL,
    dest BLOB NOT NULL,
    options BLOB NOT NULL,                -- the app's own, MessagePack
    state TEXT NOT NULL,
    total_bytes INTEGER,
    done_bytes INTEGER NOT NULL,
    fetched_bytes INTEGER NOT NULL,
    refetched_bytes INTEGER NOT NULL,
    reused_bytes INTEGER NOT NULL,
    providers BLOB NOT NULL,              -- MessagePack map of peer id to bytes
    resumed INTEGER NOT NULL,
    error TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE transfer_pages (
    transfer_id BLOB NOT NULL REFERENCES transfers (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,             -- of the share: ordinals mean another chunk in another version
    boot_id BLOB NOT NULL,                -- 16: the boot under which the bits were set
    page INTEGER NOT NULL,                -- ordinals page * 4096 ...
    bits BLOB NOT NULL,                   -- 512 bytes, ordinal i is bit i % 8 of byte i / 8
    PRIMARY KEY (transfer_id, version, boot_id, page)
) WITHOUT ROWID;
"""

_STORE = """
CREATE TABLE segments (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: its file's name
    state INTEGER NOT NULL,               -- 0 open, 1 closed: never appended to again
    end INTEGER NOT NULL,                 -- bytes of the file that are acknowledged
    live INTEGER NOT NULL                 -- bytes of records that somebody holds
);
CREATE TABLE chunks (
    key BLOB PRIMARY KEY,                 -- 16: the beginning of the sealed chunk's id
    place INTEGER NOT NULL,               -- segment << 32 | offset of its record; 0: lost
    size INTEGER NOT NULL,                -- sealed
    refs INTEGER NOT NULL                 -- how many rows of holds name it
) WITHOUT ROWID;
CREATE TABLE holds (
    holder INTEGER NOT NULL,              -- a pin's number
    ordinal INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (holder, ordinal)
) WITHOUT ROWID;
"""

_PINS = """
CREATE TABLE pins (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the holder of its chunks
    id BLOB NOT NULL,                     -- 32; what is kept: a share id
    kind TEXT NOT NULL,                   -- copy
    space BLOB NOT NULL,                  -- 32
    lease REAL,                           -- kept until then; NULL: until it is unpinned
    version INTEGER NOT NULL,             -- of the share; 0 until it is known
    state TEXT NOT NULL,
    sealed_link BLOB NOT NULL,
    name TEXT NOT NULL,
    chunks INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,          -- of the chunks' plaintext
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    error TEXT NOT NULL,
    feed BLOB NOT NULL                    -- MessagePack list of entries: it serves without any share
);
"""

_CODES = """
ALTER TABLE invites ADD COLUMN nameplate INTEGER NOT NULL DEFAULT 0;     -- of its typed code; 0: it has none
ALTER TABLE invites ADD COLUMN sealed_words BLOB;                        -- ASCII, joined by hyphens
ALTER TABLE invites ADD COLUMN code_failures INTEGER NOT NULL DEFAULT 0; -- counted before they are answered
ALTER TABLE invites ADD COLUMN code_peer BLOB;                           -- the only key that is answered now
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _STORE, _PINS, _CODES)


def migrate(connection: sqlite3.Connection, path: str, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Apply what is missing, each migration whole or not at all.

    Raises: ConfigFault for a file of a newer release or of another program, sqlite3.Error for the disk.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application != APPLICATION_ID and (tables or found or application):
        raise ConfigFault(
            "The database was not opened",
            cause=f"{ascii_path(path)} is a database of another program",
            next_step="choose another home with --home or SHOAL_HOME",
            code="foreign_database",
        )
    if found > len(migrations):
        raise ConfigFault(
            "The database was not opened",
            cause=f"{ascii_path(path)} has tables of version {found}, this release knows {len(migrations)}",
            next_step="upgrade shoal; an older release cannot read a newer home",
            code="newer_home",
        )
    for number in range(found, len(migrations)):
        connection.execute("BEGIN EXCLUSIVE")
        try:
            for statement in _statements(migrations[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={number + 1}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    """Cut a script into statements (executescript would commit what is open)."""
    statements: list[str] = []
    current = ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    if current.strip():
        statements.append(current)
    return statements
