"""Keystore: this device's secret keys on disk, and the seal of secret values in the database.

    HOME/keys/           0700
    HOME/keys/device.key 0600  seed of the device keys
    HOME/keys/store.key  0600  key that seals values in the database

A key file:

offset  size  field
0       8     "shoalkey"
8       1     version, 1
9       1     kind: 1 device, 2 store
10      2     length, big endian
12      n     secret
12+n    16    checksum: derive_key("shoal v1 key file", bytes 0 .. 12+n)

Nothing is opened through a symbolic link, and nothing that others may read or that another user owns is used.
A sealed value: 1 byte version, 24 bytes random nonce, XChaCha20-Poly1305 ciphertext and tag, with the version
as associated data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TypeAlias

import nacl.bindings
from nacl.exceptions import CryptoError

from shoal.core.errors import ConfigFault, LocalMisuse, Refused, StorageFault
from shoal.identity.keys import SEED_BYTES, DeviceKeys
from shoal.identity.secrets import Context, derive

Path: TypeAlias = "str | bytes | os.PathLike[str]"

DIRECTORY = "keys"
DEVICE_FILE = "device.key"
STORE_FILE = "store.key"
STORE_KEY_BYTES = 32
SEAL_OVERHEAD_BYTES = 1 + 24 + 16

_MAGIC = b"shoalkey"
_VERSION = 1
_HEADER_BYTES = 12
_CHECKSUM_BYTES = 16
_KINDS = {DEVICE_FILE: (1, SEED_BYTES), STORE_FILE: (2, STORE_KEY_BYTES)}
_SEAL_VERSION = b"\x01"
_NONCE_BYTES = 24


@dataclass(frozen=True)
class Keystore:
    """The opened keys of one home. Inert: nothing is read after `load`."""

    device: DeviceKeys
    _store_key: bytes = field(repr=False)

    @classmethod
    def create(cls, home: Path) -> Keystore:
        """Make the keys of a new device in an existing home directory; durable when it returns.

        What a crash in between left behind is made anew: the device key, written last, is what counts.
        Raises: Refused if there is a device key already; ConfigFault as `load`; StorageFault.
        """
        directory = _open_directory(home, create=True)
        try:
            if _exists(directory, DEVICE_FILE):
                raise Refused(
                    "No new device key was made",
                    cause=f"{_show(home)} has one already",
                    next_step="use another home for another network",
                    code="exists",
                )
            device, store_key = DeviceKeys.generate(), os.urandom(STORE_KEY_BYTES)
            _write(directory, STORE_FILE, store_key)
            _write(directory, DEVICE_FILE, device.to_seed())
        finally:
            os.close(directory)
        return cls(device, store_key)

    @classmethod
    def load(cls, home: Path) -> Keystore:
        """Read the keys of a home.

        Raises: ConfigFault if they are missing, open to others, another user's or behind a symbolic link;
        StorageFault if they are damaged or cannot be read.
        """
        directory = _open_directory(home, create=False)
        try:
            seed = _read(home, directory, DEVICE_FILE)
            store_key = _read(home, directory, STORE_FILE)
        finally:
            os.close(directory)
        return cls(DeviceKeys.from_seed(seed), store_key)

    def seal_value(self, value: bytes) -> bytes:
        """Seal a secret for the database."""
        nonce = os.urandom(_NONCE_BYTES)
        return (
            _SEAL_VERSION
            + nonce
            + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
                value, _SEAL_VERSION, nonce, self._store_key
            )
        )

    def open_value(self, sealed: bytes) -> bytes:
        """Return what `seal_value` sealed. Raises: StorageFault if it is damaged or of another home."""
        version, nonce, text = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if version != _SEAL_VERSION or len(sealed) < SEAL_OVERHEAD_BYTES:
            raise StorageFault(
                "A stored secret cannot be read",
                cause="it has another format",
                next_step="restore the home from a backup, or upgrade shoal",
                code="corrupt",
            )
        try:
            opened: bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                text, _SEAL_VERSION, nonce, self._store_key
            )
        except CryptoError as error:
            raise StorageFault(
                "A stored secret cannot be read",
                cause=f"it is damaged, or {STORE_FILE} is of another home",
                next_step="restore the home from a backup",
                code="corrupt",
            ) from error
        return opened


def exists(home: Path) -> bool:
    """Tell whether a home has a device key. Looks at names only; `load` checks."""
    return os.path.lexists(os.path.join(os.fsencode(home), DIRECTORY.encode(), DEVICE_FILE.encode()))


def check_private(path: Path, found: os.stat_result) -> None:
    """Raises: ConfigFault unless a file or directory is this user's and closed to all others."""
    if found.st_uid != os.geteuid():
        raise ConfigFault(
            f"{_show(path)} is not used",
            cause=f"it belongs to user {found.st_uid}, this process runs as {os.geteuid()}",
            next_step="run shoal as the user who owns it, or use another home",
            code="owner",
        )
    if found.st_mode & 0o077:
        wanted = "700" if stat.S_ISDIR(found.st_mode) else "600"
        raise ConfigFault(
            f"{_show(path)} has open permissions",
            cause=f"its mode is {stat.S_IMODE(found.st_mode):o}: other users can reach the keys in it",
            next_step=f"chmod {wanted} {_show(path)}",
            code="permissions",
        )


def _open_directory(home: Path, *, create: bool) -> int:
    """Return a descriptor of HOME/keys, checked. Raises: ConfigFault, StorageFault."""
    path = os.path.join(os.fsencode(home), DIRECTORY.encode())
    try:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
                _sync_directory(os.fsencode(home))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _missing(home) from error
    except OSError as error:
        raise _fault("The keys cannot be reached", path, error) from error
    try:
        check_private(path, os.fstat(descriptor))
    except ConfigFault:
        os.close(descriptor)
        raise
    return descriptor


def _read(home: Path, directory: int, name: str) -> bytes:
    path = os.path.join(os.fsencode(home), DIRECTORY.encode(), name.encode())
    kind, size_bytes = _KINDS[name]
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory
        )
    except FileNotFoundError as error:
        raise _missing(home) from error
    except OSError as error:
        raise _fault("A key cannot be read", path, error) from error
    try:
        found = os.fstat(descriptor)
        check_private(path, found)
        data = os.read(descriptor, 4096) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise _fault("A key cannot be read", path, error) from error
    finally:
        os.close(descriptor)
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if data != _pack(kind, body[_HEADER_BYTES:]) or len(body) != _HEADER_BYTES + size_bytes:
        is_newer = body[:8] == _MAGIC and body[8:9] != bytes([_VERSION]) and checksum == _checksum(body)
        raise StorageFault(
            f"{_show(path)} cannot be used",
            cause="it was written by another release" if is_newer else "it is damaged",
            next_step="upgrade shoal" if is_newer else "restore the home from a backup, or join anew",
            code="corrupt",
        )
    return body[_HEADER_BYTES:]


def _write(directory: int, name: str, secret: bytes) -> None:
    """Write a key file whole or not at all; durable when it returns. Replaces an old one."""
    kind, size_bytes = _KINDS[name]
    if len(secret) != size_bytes:
        raise LocalMisuse(f"{name} holds {size_bytes} bytes, not {len(secret)}")
    temporary = name + ".new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask was
            file.write(_pack(kind, secret))
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except OSError as error:
        raise _fault("A key could not be written", name, error) from error


def _pack(kind: int, secret: bytes) -> bytes:
    body = _MAGIC + bytes([_VERSION, kind]) + (len(secret) & 0xFFFF).to_bytes(2, "big") + secret
    return body + _checksum(body)


def _checksum(body: bytes) -> bytes:
    return derive(Context.KEY_FILE, body, _CHECKSUM_BYTES)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _sync_directory(path: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(home: Path) -> ConfigFault:
    return ConfigFault(
        f"{_show(home)} has no device key",
        cause=f"{DIRECTORY}/{DEVICE_FILE} or {DIRECTORY}/{STORE_FILE} is missing",
        next_step="run shoal up or shoal join; if it had a network, restore the home from a backup",
        code="no_keys",
    )


def _fault(message: str, path: Path, error: OSError) -> ConfigFault | StorageFault:
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:  # what O_NOFOLLOW answers, by system and kind
        return ConfigFault(
            f"{_show(path)} is not used",
            cause="it is a symbolic link, or not what its name says",
            next_step="put the keys themselves there",
            code="symbolic_link",
        )
    return StorageFault(
        message,
        cause=f"{_show(path)}: {error.strerror or error}",
        next_step="check the disk and the permissions of the home",
        code="keys",
    )


def _show(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
