"""Scenario: what a run does to a network and what has to hold, read from TOML. See docs/sim.md."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.core.errors import ConfigFault

SCENARIO_BYTES = 65_536
FAULTS = 64
NODES = 100_000
SHOWN = 60  # characters of a wrong value or key in a message

FAULT_KINDS = ("clog", "crash", "cut", "flap", "jump", "kill", "one_way", "restart", "stall")
LIAR_KINDS = ("beacons", "eclipse", "forge", "hops", "mixed", "rejoin", "relay", "silent", "storm")
VALUES = (
    "broken",
    "bytes_s",
    "bytes_s_p99",
    "circuit_s_p99",
    "delivered",
    "delivered_min",
    "full",
    "late_p99_s",
    "late_s",
    "liar_links",
    "parts",
    "parts_max",
    "payload_copies",
    "relayed",
    "symmetric",
    "unreached",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a share of the nodes, once or again and again."""

    kind: str
    at_s: float
    share: float = 0.5
    for_s: float = 60.0
    every_s: float = 0.0  # again after this long; 0: once
    times: int = 1


@dataclass(frozen=True, slots=True)
class Bound:
    """What a value has to be."""

    name: str
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario. Times count from the moment at which the network has settled."""

    nodes: int
    minutes: float
    settle_minutes: float = 5.0
    latency: str = "sites"
    loss: float | None = None  # of a way; None: each node's line has its own
    up_mbit_s: float = 0.0  # 0: no limit
    down_mbit_s: float = 0.0
    behind_nat: float = 0.0  # of the nodes: nobody can dial them
    relays: float = 0.0  # of the nodes, among those that can be dialled
    relay_streams: int = 64  # of each, at once; the defaults of RelayLimits
    relay_mib_s: float = 10.0  # of each, both directions; 0: no limit
    relay_day_gib: float = 20.0  # likewise
    broadcasts_per_minute: float = 2.0
    payload_bytes: int = 200
    diurnal: float = 0.0  # how far the load swings about its mean in a day
    median_h: float = 0.0  # of a session; 0: nobody leaves
    p80_h: float = 8.0
    permanent: float = 0.1  # of those who leave: a newcomer takes the place
    away_minutes: float = 20.0  # on average, until one who left is back
    churn_diurnal: float = 0.0  # how far both swing in a day: shorter there and longer away, and the reverse
    liars: float = 0.0
    liar_kind: str = "mixed"
    faults: tuple[Fault, ...] = ()
    bounds: tuple[Bound, ...] = ()


@dataclass(frozen=True, slots=True)
class _Key:
    kind: type
    low: float = 0.0
    high: float = 1e9
    words: tuple[str, ...] = ()
    target: str = ""  # field of Scenario, if it has another name

    @property
    def allowed(self) -> str:
        if self.words:
            return " | ".join(self.words)
        noun = "a whole number" if self.kind is int else "a number"
        return f"{noun}, {self.low:g} to {self.high:g}"


_TOP = {
    "nodes": _Key(int, 2, NODES),
    "minutes": _Key(float, 0.1, 100_000),
    "settle_minutes": _Key(float, 0, 10_000),
}
_TABLES: dict[str, dict[str, _Key]] = {
    "network": {
        "latency": _Key(str, words=("sites", "steady")),
        "loss": _Key(float, 0, 1),
        "up_mbit_s": _Key(float, 0, 1e6),
        "down_mbit_s": _Key(float, 0, 1e6),
        "behind_nat": _Key(float, 0, 0.95),
        "relays": _Key(float, 0, 1),
        "relay_streams": _Key(int, 1, 65_536),
        "relay_mib_s": _Key(float, 0, 1e6),
        "relay_day_gib": _Key(float, 0, 1e6),
    },
    "load": {
        "broadcasts_per_minute": _Key(float, 0, 6000),
        "payload_bytes": _Key(int, 1, 16_000),
        "diurnal": _Key(float, 0, 1),
    },
    "churn": {
        "median_h": _Key(float, 0, 10_000),
        "p80_h": _Key(float, 0, 100_000),
        "permanent": _Key(float, 0, 1),
        "away_minutes": _Key(float, 0.1, 100_000),
        "diurnal": _Key(float, 0, 0.95, target="churn_diurnal"),
    },
    "liars": {
        "share": _Key(float, 0, 0.9, target="liars"),
        "kind": _Key(str, words=LIAR_KINDS, target="liar_kind"),
    },
}
_FAULT = {
    "kind": _Key(str, words=FAULT_KINDS),
    "at_s": _Key(float),
    "share": _Key(float, 0, 1),
    "for_s": _Key(float),
    "every_s": _Key(float),
    "times": _Key(int, 1, 10_000),
}
_BOUND = {"min": _Key(float, -1e12, 1e12), "max": _Key(float, -1e12, 1e12)}


def read_scenario(path: str) -> Scenario:
    """Read a file. Raises: ConfigFault."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(SCENARIO_BYTES + 1)
    except OSError as error:
        raise ConfigFault(
            f"{path}: the scenario cannot be read", cause=error.strerror or "", next_step="check the path"
        ) from error
    if len(data) > SCENARIO_BYTES:
        raise ConfigFault(f"{path}: over {SCENARIO_BYTES} bytes", next_step="make the scenario shorter")
    try:
        text = data.decode("utf-8")
        found = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigFault(f"{path}: not UTF-8", cause=str(error), next_step="save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigFault(f"{path}: not TOML", cause=str(error), next_step="see docs/sim.md") from error
    return _Reader(path, text).read(found)


@dataclass
class _Reader:
    path: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)

    def read(self, found: dict[str, Any]) -> Scenario:
        for key, value in found.items():
            if key in _TOP:
                self._take(key, value, _TOP[key], "", 0)
            elif key in _TABLES:
                self._read_table(key, value)
            elif key == "fault":
                self._read_faults(value)
            elif key == "bounds":
                self._read_bounds(value)
            else:
                self._refuse(key, "", 0, "nothing has this name", [*_TOP, *_TABLES, "fault", "bounds"])
        for key in ("nodes", "minutes"):
            if key not in self.fields:
                raise ConfigFault(f"{self.path}: {key} is missing", next_step=f"allowed: {_TOP[key].allowed}")
        if not self.fields.get("bounds"):
            raise ConfigFault(
                f"{self.path}: bounds are missing: a run without them shows nothing",
                next_step="add [bounds]; values: " + ", ".join(VALUES),
            )
        if self.fields.get("liar_kind") == "relay" and not self.fields.get("relays"):
            self._refuse("kind", "liars", 0, "there are no relays", ["network.relays above 0"])
        return Scenario(**self.fields)

    def _read_table(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            self._refuse(name, "", 0, "not a table", [f"[{name}]"])
        for key, item in value.items():
            if key not in _TABLES[name]:
                self._refuse(key, name, 0, "nothing has this name", list(_TABLES[name]))
            self._take(key, item, _TABLES[name][key], name, 0)

    def _read_faults(self, value: Any) -> None:
        if not isinstance(value, list) or len(value) > FAULTS:
            self._refuse("fault", "", 0, "not a list of tables", [f"up to {FAULTS} times [[fault]]"])
        faults = []
        for place, item in enumerate(value):
            if not isinstance(item, dict):
                self._refuse("fault", "", 0, "not a list of tables", [f"up to {FAULTS} times [[fault]]"])
            known: dict[str, Any] = {}
            for key, one in item.items():
                if key not in _FAULT:
                    self._refuse(key, "fault", place, "nothing has this name", list(_FAULT))
                known[key] = self._check(key, one, _FAULT[key], "fault", place)
            for key in ("kind", "at_s"):
                if key not in known:
                    self._refuse(key, "fault", place, "missing", [_FAULT[key].allowed])
            faults.append(Fault(**known))
        self.fields["faults"] = tuple(faults)

    def _read_bounds(self, value: Any) -> None:
        if not isinstance(value, dict):
            self._refuse("bounds", "", 0, "not a table", ["[bounds]"])
        bounds = []
        for name, item in value.items():
            if name not in VALUES:
                self._refuse(name, "bounds", 0, "no value has this name", list(VALUES))
            if not isinstance(item, dict) or not item or not set(item) <= set(_BOUND):
                self._refuse(name, "bounds", 0, "not a bound", ["{ min = number, max = number }"])
            ends = {key: self._check(name, one, _BOUND[key], "bounds", 0) for key, one in item.items()}
            if len(ends) == 2 and ends["min"] > ends["max"]:
                self._refuse(name, "bounds", 0, "min is above max", ["min up to max"])
            bounds.append(Bound(name, ends.get("min"), ends.get("max")))
        self.fields["bounds"] = tuple(bounds)

    def _take(self, key: str, value: Any, rule: _Key, table: str, place: int) -> None:
        self.fields[rule.target or key] = self._check(key, value, rule, table, place)

    def _check(self, key: str, value: Any, rule: _Key, table: str, place: int) -> Any:
        if rule.words:
            good = value in rule.words
        else:
            good = (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and (rule.kind is float or isinstance(value, int))
                and rule.low <= value <= rule.high
            )
        if not good:
            shown = repr(value) if len(repr(value)) <= SHOWN else repr(value)[:SHOWN] + "..."
            self._refuse(key, table, place, f"{shown} is not allowed", [rule.allowed])
        return float(value) if rule.kind is float else value

    def _refuse(self, key: str, table: str, place: int, why: str, allowed: list[str]) -> None:
        word = key if key.isprintable() and len(key) <= SHOWN else ascii(key)[:SHOWN]
        name = f"{table}.{word}" if table else word
        line = _find_line(self.text, table, place, key)
        raise ConfigFault(
            f"{self.path}, line {line}: {name}: {why}", next_step="allowed: " + ", ".join(allowed)
        )


def _find_line(text: str, table: str, place: int, key: str) -> int:
    """Return the line that has a key, or its table's; 1 if none can be told."""
    current, count, best = "", -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([\w.]+)\s*\]\]?", line)
        if header:
            current = header[1]
            count += current == table
            if current == table and count == place:
                best = number
            if current in (f"{table}.{key}", "" if table else key):
                return number
            continue
        found = re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]", line)
        if found and current == table and (table != "fault" or count == place):
            return number
        if table and not current and re.match(rf"\s*{table}\s*[=.]", line):
            best = number  # load = { rate = 2 }
    return best


def write_scenario(scenario: Scenario) -> str:
    """Return a scenario as TOML, without bounds' neighbours that have their default."""
    default = Scenario(scenario.nodes, scenario.minutes)
    lines = [f"nodes = {scenario.nodes}", f"minutes = {scenario.minutes:g}"]
    if scenario.settle_minutes != default.settle_minutes:
        lines.append(f"settle_minutes = {scenario.settle_minutes:g}")
    for table, keys in _TABLES.items():
        body = []
        for key, rule in keys.items():
            value = getattr(scenario, rule.target or key)
            if value != getattr(default, rule.target or key):
                body.append(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value:g}")
        if body:
            lines += ["", f"[{table}]", *body]
    for fault in scenario.faults:
        lines += ["", "[[fault]]", f'kind = "{fault.kind}"']
        lines += [f"{key} = {getattr(fault, key):g}" for key in _FAULT if key != "kind"]
    lines += ["", "[bounds]"]
    for bound in scenario.bounds:
        ends = {"min": bound.low, "max": bound.high}
        body = [f"{key} = {end:g}" for key, end in ends.items() if end is not None]
        lines.append(f"{bound.name} = {{ {', '.join(body)} }}")
    return "\n".join(lines) + "\n"
