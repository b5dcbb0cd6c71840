"""Syncthing: two instances that know only each other's loopback address; a new folder for each round.

Before the clock the sender has scanned, both are connected and the receiver has the whole index, with a
pattern that ignores everything. The clock starts when that pattern is taken away and ends when the receiver
says that it needs nothing more and is idle.
"""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from shoal.core.undo import undone_on_failure
from tools.bench.contenders.contender import (
    Contender,
    clean_environment,
    free_port,
    need_program,
    wait_until,
)

FOLDER = "bench"
CALL_TIMEOUT_S = 60.0
EVENTS_S = 5
# nothing beyond this machine is asked or told, and nothing slows a transfer down
OPTIONS: dict[str, Any] = {
    "globalAnnounceEnabled": False,
    "localAnnounceEnabled": False,
    "relaysEnabled": False,
    "natEnabled": False,
    "urAccepted": -1,
    "crashReportingEnabled": False,
    "autoUpgradeIntervalH": 0,
    "startBrowser": False,
    "stunKeepaliveStartS": 0,
    "reconnectionIntervalS": 1,
    "progressUpdateIntervalS": -1,
    "setLowPriority": False,
    "limitBandwidthInLan": False,
}
FOLDER_SETTINGS: dict[str, Any] = {
    "rescanIntervalS": 0,
    "fsWatcherEnabled": False,
    "disableFsync": True,  # everybody's clock ends with one syncfs
    "weakHashThresholdPct": 101,
    "minDiskFree": {"value": 0, "unit": ""},
}


class Instance:
    """One Syncthing with a home of its own, driven through its REST interface."""

    def __init__(self, program: str, home: Path, environment: dict[str, str]) -> None:
        self._program, self._home, self._environment = program, home, environment
        self.port, self._gui = free_port(), free_port()
        done = subprocess.run(
            [program, "generate", "--home", home, "--no-default-folder"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        self._path = home / "config.xml"
        tree = ElementTree.parse(self._path)
        gui = tree.getroot().find("gui")
        device = tree.getroot().find("device")
        options = tree.getroot().find("options")
        assert gui is not None
        assert device is not None
        assert options is not None
        self.device = device.attrib["id"]
        self._key = gui.findtext("apikey") or ""
        _set(gui, "address", f"127.0.0.1:{self._gui}")
        _set(options, "listenAddress", f"tcp://127.0.0.1:{self.port}")
        for name, value in OPTIONS.items():
            _set(options, name, str(value).lower())
        tree.write(self._path)
        self.said = done.stdout

    def start(self) -> int:
        """Start it and wait until it answers; returns its process."""
        with (self._home / "log").open("wb") as log:
            process = subprocess.Popen(
                [self._program, "serve", "--home", self._home, "--no-browser", "--no-upgrade"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, "Syncthing's REST interface", 60.0)
        return process.pid

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the REST interface."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._gui}/rest/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self._key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def add_device(self, other: Instance) -> None:
        """Make another instance known at its loopback address."""
        settings = {"addresses": [f"tcp://127.0.0.1:{other.port}"], "compression": "never"}
        self.call("PUT", f"config/devices/{other.device}", {"deviceID": other.device, **settings})

    def add_folder(self, kind: str, path: Path, other: Instance) -> None:
        """Keep a folder together with another instance."""
        devices = [{"deviceID": self.device}, {"deviceID": other.device}]
        facts = {"id": FOLDER, "path": str(path), "type": kind, "devices": devices}
        self.call("PUT", f"config/folders/{FOLDER}", facts | FOLDER_SETTINGS)

    def status(self) -> dict[str, Any]:
        """Return the state of the folder; empty while there is none."""
        try:
            found: dict[str, Any] = self.call("GET", f"db/status?folder={FOLDER}")
        except urllib.error.HTTPError:
            return {}
        return found

    def newest_event(self) -> int:
        """Return the number of the last change of a folder's state."""
        events = self.call("GET", "events?events=StateChanged&since=0&limit=1&timeout=1")
        return int(events[-1]["id"]) if events else 0

    def wait_done(self, since: int) -> None:
        """Wait, without polling, until a change of state says idle and nothing is needed any more."""
        while True:
            for event in self.call("GET", f"events?events=StateChanged&since={since}&timeout={EVENTS_S}"):
                since = int(event["id"])
                if event["data"]["to"] == "idle" and not _needs(self.status()):
                    return

    def _answers(self) -> bool:
        try:
            self.call("GET", "system/ping")
        except OSError:
            return False
        return True


class Syncthing(Contender):
    """A sending and a receiving instance."""

    name = "syncthing"
    how = "loopback address only, no rate limits, no fsync of its own, usual priority, metadata uncompressed"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        program = need_program("syncthing", "syncthing")
        environment = clean_environment(root, STNODEFAULTFOLDER="1")
        homes = root / "a", root / "b"
        self._one, self._two = (Instance(program, home, environment) for home in homes)
        self._total_bytes = 0
        with undone_on_failure(self.close):
            self.sender.pids.append(self._one.start())
            self.receiver.pids.append(self._two.start())
            self._one.add_device(self._two)
            self._two.add_device(self._one)
            wait_until(self._connected, "two Syncthings on loopback", 60.0)

    def offer(self, source: Path) -> None:
        self._one.add_folder("sendonly", source.parent, self._two)
        wait_until(lambda: _idle_with_bytes(self._one.status()), "Syncthing's first scan")
        self._total_bytes = int(self._one.status()["globalBytes"])

    def prepare(self, into: Path) -> None:
        (into / ".stignore").write_text("*\n")
        self._two.add_folder("receiveonly", into, self._one)

        def has_index() -> bool:
            status = self._two.status()
            return status.get("state") == "idle" and int(status["globalBytes"]) == self._total_bytes

        wait_until(has_index, "Syncthing's index exchange", 120.0)

    def fetch(self, into: Path) -> None:
        since = self._two.newest_event()
        self._two.call("POST", f"db/ignores?folder={FOLDER}", {"ignore": []})
        self._two.wait_done(since)

    def forget(self, into: Path) -> None:
        self._two.call("DELETE", f"config/folders/{FOLDER}")
        wait_until(lambda: not self._two.status(), "Syncthing to forget the folder", 60.0)

    def _connected(self) -> bool:
        found = self._two.call("GET", "system/connections")["connections"]
        return bool(found.get(self._one.device, {}).get("connected"))


def _needs(status: dict[str, Any]) -> bool:
    return int(status["needBytes"]) + int(status["needFiles"]) + int(status["needDirectories"]) > 0


def _idle_with_bytes(status: dict[str, Any]) -> bool:
    return status.get("state") == "idle" and int(status["globalBytes"]) > 0


def _set(parent: ElementTree.Element, name: str, text: str) -> None:
    """Set a setting, once."""
    for old in parent.findall(name):
        parent.remove(old)
    ElementTree.SubElement(parent, name).text = text
