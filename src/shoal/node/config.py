"""Config: every setting of a node, and where each value came from.

Flags come before the environment (SHOAL_<KEY>), that before HOME/config.toml, that before the default. A key
that is not known is a fault: a typing error must not pass as a setting.
"""

from __future__ import annotations

import difflib
import getpass
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shoal.core.errors import ConfigFault, LocalMisuse
from shoal.core.units import parse_size
from shoal.node.limit_settings import LimitSettings, ScheduleEntry, check_limits, check_schedule
from shoal.node.order import Flags
from shoal.node.relay_settings import check_relay, describe_relay
from shoal.overlay.substrate.service import MESH_MEMBERS
from shoal.storage.home import resolve_path, write_private_file
from shoal.transport.address import Address
from shoal.transport.reach.relay_machine import RelayLimits
from shoal.wire.limits import NAME_BYTES

DEFAULT_PORT = 7411  # unassigned at IANA in 2026; if another node has it, a default picks a free one
LISTEN_LIMIT = 8  # as many addresses as a peer record holds
MESH_LIMIT = 256  # sessions of a node beyond which a full mesh costs more than it gives; wild guess
LOG_LEVELS = ("debug", "info", "warning", "error")
FILE_LIMIT_BYTES = 64 * 1024

Plain = str | bool | int | list[str]
Value = Plain | LimitSettings | tuple[ScheduleEntry, ...] | RelayLimits


@dataclass(frozen=True)
class NodeConfig:
    """Settings of one node. `origins` says for each key: default, file, environment or flag."""

    home: str
    listen: list[str] = field(default_factory=lambda: [f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}"])
    name: str = "device"
    user: str = ""
    lan: bool = True
    interfaces: list[str] = field(default_factory=list)
    log_level: str = "info"
    store_quota: str = ""
    mesh_members: int = MESH_MEMBERS
    relay: bool = False
    upnp: bool = False
    limits: LimitSettings = field(default_factory=LimitSettings)
    schedule: tuple[ScheduleEntry, ...] = ()
    relay_limits: RelayLimits = field(default_factory=RelayLimits)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The file, whether it is there or not."""
        return find_config_path(self.home)

    @property
    def listen_addresses(self) -> list[Address]:
        """`listen`, parsed; it was checked when it was read."""
        return [Address.parse(text) for text in self.listen]

    @property
    def store_quota_bytes(self) -> int | None:
        """What pins may take in the store; None: as much as the disk has."""
        return parse_size(self.store_quota) if self.store_quota else None

    def settings(self) -> dict[str, Plain]:
        """Return every key with its value, in the order of the documentation; tables in words."""
        found: dict[str, Plain] = {key: getattr(self, key) for key in _CHECKS}
        found["limits"] = self.limits.describe()
        found["schedule"] = [
            f"{entry.describe()}: {', '.join(entry.rates.describe())}" for entry in self.schedule
        ]
        found["relay_limits"] = describe_relay(self.relay_limits)
        return found


def find_config_path(home: str) -> str:
    """Return where a home's settings are."""
    return os.path.join(resolve_path(home), "config.toml")


def load_config(
    home: str, flags: Flags | None = None, environment: Mapping[str, str] | None = None
) -> NodeConfig:
    """Read all settings. Raises: ConfigFault that names file, key and allowed values."""
    environment = os.environ if environment is None else environment
    values: dict[str, Value] = dict(_defaults())
    origins = dict.fromkeys(values, "default")
    path = find_config_path(home)
    for key, raw in _read_file(path).items():
        where = f"in {path}"
        values[key] = _TABLES[key](raw, where) if key in _TABLES else _check(key, raw, where)
        origins[key] = "file"
    for key in _CHECKS:
        variable = f"SHOAL_{key.upper()}"
        if environment.get(variable):
            values[key] = _check(key, _from_text(key, environment[variable]), f"in the variable {variable}")
            origins[key] = "environment"
    for key in ("listen", "name", "lan", "relay", "upnp"):
        given = getattr(flags, key) if flags is not None else None
        if given is not None:
            given = list(given) if isinstance(given, tuple) else given
            values[key] = _check(key, given, "on the command line")
            origins[key] = "flag"
    return NodeConfig(home=resolve_path(home), origins=origins, **values)  # type: ignore[arg-type]


def store_setting(home: str, key: str, text: str) -> Plain:
    """Write one setting into the file, leaving its other lines as they are; return its value.

    Raises: ConfigFault for an unknown key or a bad value, or a value that spans lines in the file.
    """
    path = find_config_path(home)
    if not os.path.isdir(os.path.dirname(path)):
        raise ConfigFault(
            f"{key} was not stored",
            cause=f"there is no home in {os.path.dirname(path)}",
            next_step="make one with `shoal up` or `shoal join`, or name another with --home",
            code="no_home",
        )
    if key in _TABLES:
        raise ConfigFault(
            f"{key} was not stored",
            cause="it is a table of the file",
            next_step=f"edit {path}, or set limits with: shoal limits",
            code="table",
        )
    if key not in _CHECKS:
        raise _unknown(key, "on the command line")
    value = _check(key, _from_text(key, text), "on the command line")
    _read_file(path)  # a file that cannot be read is not written either
    line = f"{key} = {_to_toml(value)}"
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        lines = []
    # what follows the first header belongs to a table
    end = next((i for i, old in enumerate(lines) if _TABLE_HEADER.match(old)), len(lines))
    places = [i for i, old in enumerate(lines[:end]) if re.match(rf"\s*{key}\s*=", old)]
    if places:
        lines[places[0]] = line
    else:
        lines.insert(end, line)
    content = "\n".join(lines) + "\n"
    try:
        tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFault(
            f"{key} was not stored",
            cause=f"its value in {path} spans several lines",
            next_step=f"edit the file: {line}",
        ) from error
    write_private_file(path, content.encode())
    return value


def _defaults() -> dict[str, Value]:
    host = socket.gethostname().split(".")[0]
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user{os.getuid()}"
    return {
        "listen": [f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}"],
        "name": _trim(host) or "device",
        "user": _trim(user) or "user",
        "lan": True,
        "interfaces": [],
        "log_level": "info",
        "store_quota": "",
        "mesh_members": MESH_MEMBERS,
        "relay": False,
        "upnp": False,
        "limits": LimitSettings(),
        "schedule": (),
        "relay_limits": RelayLimits(),
    }


def _trim(text: str) -> str:
    kept = "".join(c for c in text if c.isprintable())
    return kept.encode()[:NAME_BYTES].decode("utf-8", "ignore").strip()


def _read_file(path: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}  # what is wrong with the home is said by who opens it
    except OSError as error:
        raise ConfigFault(
            "The settings were not read",
            cause=f"{path}: {error.strerror}",
            next_step="make it readable for you",
        ) from error
    try:
        if len(data) > FILE_LIMIT_BYTES:
            raise ValueError(f"it is larger than {FILE_LIMIT_BYTES} bytes")
        found = tomllib.loads(data.decode("utf-8"))
    except ValueError as error:  # TOML and UTF-8 errors are ValueErrors
        raise ConfigFault(
            f"The settings in {path} cannot be used",
            cause=str(error),
            next_step="correct that line, or move the file away",
            code="bad_file",
        ) from error
    for key in found:
        if key not in _CHECKS and key not in _TABLES:
            raise _unknown(key, f"in {path}")
    return found


def _unknown(key: str, where: str) -> ConfigFault:
    like = difflib.get_close_matches(key, (*_CHECKS, *_TABLES), 1)
    return ConfigFault(
        f"There is no setting {key!r}",
        cause=f"{where}, nothing is called so" + (f"; like it: {like[0]}" if like else ""),
        next_step=f"settings are: {', '.join((*_CHECKS, *_TABLES))}",
        code="unknown_setting",
    )


def _from_text(key: str, text: str) -> object:
    """Turn the text of a variable or a command line into what TOML would have given."""
    if _CHECKS[key] is _check_bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
            text.strip().lower(), text
        )
    if _CHECKS[key] in (_check_listen, _check_texts):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _to_toml(value: Plain) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_to_toml, value)) + "]"
    # TOML's basic strings are escaped like JSON's; names hold no control characters
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check(key: str, value: object, where: str) -> Plain:
    try:
        return _CHECKS[key](value)
    except _Unfit as error:
        raise ConfigFault(
            f"The setting {key!r} cannot be used",
            cause=f"{where} it is {value!r}",
            next_step=f"allowed is {error}",
            code="bad_setting",
        ) from error


class _Unfit(Exception):
    """A value that is not allowed; says what is."""


def _check_listen(value: object) -> Plain:
    allowed = f"HOST:PORT, at most {LISTEN_LIMIT}, e.g. 0.0.0.0:{DEFAULT_PORT} or [::]:0"
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not 0 < len(value) <= LISTEN_LIMIT:
        raise _Unfit(allowed)
    try:
        return [str(Address.parse(_expand(item))) for item in value]
    except LocalMisuse as error:
        raise _Unfit(allowed) from error


def _expand(item: object) -> str:
    """Forgive `:PORT` for all IPv4 addresses."""
    if not isinstance(item, str):
        raise _Unfit("a list of texts")
    return f"0.0.0.0{item}" if item.startswith(":") else item


def _check_name(value: object) -> Plain:
    fits = isinstance(value, str) and value.isprintable() and value.strip() == value
    if not fits or not isinstance(value, str) or not 0 < len(value.encode()) <= NAME_BYTES:
        raise _Unfit(f"a text of 1 to {NAME_BYTES} bytes without control characters")
    return value


def _check_bool(value: object) -> Plain:
    if not isinstance(value, bool):
        raise _Unfit("true or false")
    return value


def _check_texts(value: object) -> Plain:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Unfit('a list of texts, e.g. ["eth0"]')
    return list(value)


def _check_level(value: object) -> Plain:
    if value not in LOG_LEVELS or not isinstance(value, str):
        raise _Unfit("one of " + ", ".join(LOG_LEVELS))
    return value


def _check_quota(value: object) -> Plain:
    allowed = 'a size such as "50 GB" or "200 GiB", or "" for no bound'
    if not isinstance(value, str):
        raise _Unfit(allowed)
    try:
        if value:
            parse_size(value)
    except LocalMisuse as error:
        raise _Unfit(allowed) from error
    return value


def _check_mesh(value: object) -> Plain:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:4])  # of a variable or a command line
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= MESH_LIMIT:
        raise _Unfit(f"a number of members from 2 to {MESH_LIMIT}")
    return value


_TABLE_HEADER = re.compile(r"\s*\[\[?\s*[A-Za-z]")  # a list's lines begin with a quote
_TABLES: dict[str, Callable[[object, str], Value]] = {
    "limits": check_limits,
    "schedule": check_schedule,
    "relay_limits": check_relay,
}
_CHECKS: dict[str, Callable[[object], Plain]] = {
    "listen": _check_listen,
    "name": _check_name,
    "user": _check_name,
    "lan": _check_bool,
    "interfaces": _check_texts,
    "log_level": _check_level,
    "store_quota": _check_quota,
    "mesh_members": _check_mesh,
    "relay": _check_bool,
    "upnp": _check_bool,
}
PLAIN_KEYS = tuple(_CHECKS)  # what is one line of the file
