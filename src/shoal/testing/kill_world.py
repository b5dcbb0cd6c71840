"""Kill world: three devices, what is killed while something goes on, what must hold on each afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from shoal.api import operations as ops
from shoal.api.client import Client, connect
from shoal.api.schema import Nothing
from shoal.core.errors import Unavailable
from shoal.core.units import MIB
from shoal.storage.schema import MIGRATIONS
from shoal.storage.segment_format import parse_segment_name
from shoal.testing.kill_plan import DEVICES, OTHER_UPLOAD, Plan
from shoal.testing.processes import Device
from shoal.testing.trees import find_difference

REFETCHED_A_KILL_BYTES: Final = 32 * MIB
SETTLE_TIMEOUT_S: Final = 60.0  # within which everything goes on after a restart
WAIT_S: Final = 60.0  # for providers that are being restarted


class SeriesFailed(Exception):
    """Something acknowledged was lost, wrong, or left behind."""


class KillWorld:
    """Three devices of one network in `directory`. `start` first, `close` last; not for several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.devices = {name: Device(directory / name, name) for name in DEVICES}
        self.kills = 0
        self.cut = 0  # actions that a kill interrupted: the others had ended before it
        self._clients: dict[str, Client] = {}

    def start(self) -> None:
        """Make the network. Raises: CommandFailed, TimeoutError."""
        first, *others = self.devices.values()
        first.up()
        with ThreadPoolExecutor(len(others)) as pool:
            for _ in pool.map(lambda device: device.join(first.run("invite")["ticket"]), others):
                pass
        for name in self.devices:
            self.client(name).limits(upload=OTHER_UPLOAD)
        self.wait_connected()

    def close(self) -> None:
        """End what still runs; idempotent."""
        for client in self._clients.values():
            client.close()
        for device in self.devices.values():
            device.kill()

    def client(self, name: str) -> Client:
        """Return a connection to a running device; another one after each restart."""
        if name not in self._clients:
            self._clients[name] = connect(self.devices[name].home)
        return self._clients[name]

    def kill(self, *names: str) -> None:
        """End devices with SIGKILL, all at once."""
        for name in names:
            self.devices[name].signal(signal.SIGKILL)
        for name in names:
            self.devices[name].kill()
            if name in self._clients:
                self._clients.pop(name).close()

    def up(self, *names: str) -> None:
        """Start devices side by side. Raises: CommandFailed if one does not come back."""
        with ThreadPoolExecutor(len(DEVICES)) as pool:
            for _ in pool.map(lambda name: self.devices[name].up(), names):
                pass

    def kill_during(
        self,
        plan: Plan,
        *actions: tuple[str, Callable[[Client], None]],
        is_busy: Callable[[], bool] | None = None,
    ) -> None:
        """Do things on devices, each in a thread; kill as planned; start again, and wait for the threads.

        An action notes itself what it was told: it ends with Unavailable when its device dies, which is
        nobody's fault. `is_busy` tells, just before the kill, whether that comes in the middle; else it does
        if an action ended so. Raises: what else an action raises, CommandFailed.
        """
        self.client(plan.author).limits(upload=plan.upload)
        cut, was_busy = self.cut, False
        with ThreadPoolExecutor(len(actions) + 1) as pool:
            running = [pool.submit(self._act, name, act) for name, act in actions]
            time.sleep(plan.delay_s)
            if is_busy is not None:
                was_busy = is_busy()
            self.kill(*plan.victims)
            self.kills += 1
            self.up(*plan.victims)
            for future in running:
                future.result(SETTLE_TIMEOUT_S)
        if is_busy is not None:
            self.cut = cut + was_busy
        self.client(plan.author).limits(upload=OTHER_UPLOAD)
        self.wait_connected()

    def _act(self, name: str, act: Callable[[Client], None]) -> None:
        try:
            with connect(self.devices[name].home) as client:
                act(client)
        except Unavailable as error:
            if error.code not in ("node_ended", "not_running"):
                raise
            self.cut += 1

    def wait_connected(self) -> None:
        """Wait until everybody has a session with everybody. Raises: TimeoutError."""
        for name in self.devices:
            self.wait(
                lambda name=name: self.client(name).status().peers >= len(DEVICES) - 1,  # type: ignore[misc]
                f"{name} has a session with everybody",
            )

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds. Raises: SeriesFailed."""
        limit = time.monotonic() + SETTLE_TIMEOUT_S
        while not condition():
            if time.monotonic() > limit:
                raise SeriesFailed(f"after {SETTLE_TIMEOUT_S:.0f} s it is still not so that {what}")
            time.sleep(0.05)

    def dest(self, name: str) -> Path:
        """Return the folder that a device fetches into; it is there."""
        found = self.directory / "got" / name
        found.mkdir(parents=True, exist_ok=True)
        return found

    def get_whole(self, name: str, link: str, tree: Path, shown: Path | None = None) -> None:
        """Fetch a share and compare it. `shown`: where the tree lies now if not at `tree` any more."""
        dest = self.dest(name)
        self.client(name).get(link, dest, wait_s=WAIT_S)
        self.expect_same(shown or tree, dest / tree.name)
        self.expect_names(dest, {tree.name})

    def expect_same(self, left: Path, right: Path) -> None:
        """Raises: SeriesFailed if two trees differ."""
        expect((found := find_difference(left, right)) is None, f"{found}")

    def expect_names(self, dest: Path, names: set[str]) -> None:
        """Raises: SeriesFailed if a destination holds anything else, such as part folders."""
        found = set(os.listdir(dest))
        expect(found == names, f"{dest} holds {sorted(found)}, not {sorted(names)}")

    def expect_sound(self, name: str) -> None:
        """Look at a device that has nothing to do: store, database, files of both."""
        work = self.client(name).wait_store_work("verify")
        counts = (work.lost, work.missing, work.repaired)
        expect(counts == (0, 0, 0), f"verify on {name}: lost, missing, repaired = {counts}")
        home = self.devices[name].home
        reading = sqlite3.connect(f"file:{home}/shoal.db?mode=ro", uri=True)
        try:
            found = reading.execute("PRAGMA quick_check").fetchone()[0]
            expect(found == "ok", f"the database of {name}: {found}")
            version = reading.execute("PRAGMA user_version").fetchone()[0]
            expect(version == len(MIGRATIONS), f"the database of {name} has version {version}")
            known = {row[0] for row in reading.execute("SELECT number FROM segments")}
        finally:
            reading.close()
        lying = set(map(parse_segment_name, os.listdir(home / "store")))
        expect(lying <= known, f"segments of {name} that nobody knows: {lying - known}")

    def clean_up(self) -> None:
        """Let go of everything that a round made; nothing of it may stay behind."""
        for name in self.devices:
            client = self.client(name)
            for follow in client.follows():
                client.unfollow(follow.share_id)
            for transfer in client.transfers():
                if transfer.state not in ("done", "cancelled"):
                    client.control_transfer(transfer.id, "cancel")
            for share in client.shares():
                client.unshare(share.share_id)
            for pin in client.pins():
                if pin.state != "ended":
                    client.unpin(pin.share_id)
            client.wait_store_work("gc")
            expect(not client.shares(), f"{name} still has shares")
            left = client.call(ops.STORE, Nothing()).live_bytes
            expect(left == 0, f"{name} still keeps {left} bytes")
        for folder in ("got", "trees"):
            shutil.rmtree(self.directory / folder, ignore_errors=True)


def expect(condition: bool, what: str) -> None:
    """Raises: SeriesFailed with `what` unless the condition holds."""
    if not condition:
        raise SeriesFailed(what)


class Told:
    """What an action was told before its device died. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}

    def note(self, key: str, value: str) -> None:
        """Remember an acknowledgement."""
        with self._lock:
            self._said[key] = value

    def find(self, key: str) -> str | None:
        """Return what was acknowledged, None if nothing was."""
        with self._lock:
            return self._said.get(key)
