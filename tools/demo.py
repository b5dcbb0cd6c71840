"""Demo: the first network's story on real processes, five nodes on loopback with a home each.

ada makes the network and shares this machine's Python standard library and a 512 MiB file. ben gets both;
then cem, dot and eli get them at once, from ada, ben and each other. ben is killed with SIGKILL meanwhile;
eli is killed, restarted, and resumes. Everything is compared byte by byte. Last, dot is removed in the middle
of a get and gets nothing more. Exit 0 only if all was verified.

    make demo                     the story, about a minute
    make demo ARGS=--keep         leaves the network running and says how to use it
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from shoal.api.client import Client, connect
from shoal.api.schema import Transfer
from shoal.core.units import GIB, MIB, format_size
from shoal.testing.processes import CommandFailed, Device
from shoal.testing.trees import copy_standard_library, find_difference, write_random_file
from tools.demo_view import Board, Outcome, Row, print_outcomes

NAMES = ("ada", "ben", "cem", "dot", "eli")
BIG_BYTES = 512 * MIB
NEEDED_BYTES = 6 * GIB
STEP_TIMEOUT_S = 300.0
POLL_S = 0.1
AFTER_REMOVAL_S = 2.0  # a removed device must have received its last byte by then (security.md section 2)


class DemoFailed(Exception):
    """Something that the story promises did not happen."""


class Story:
    """The five devices, what they share, and what came of each get."""

    def __init__(self, root: Path, console: Console) -> None:
        self.root = root
        self.console = console
        self.devices = {name: Device(root / name, name) for name in NAMES}
        self.names: dict[str, str] = {}  # peer id -> name
        self.links: dict[str, str] = {}  # what -> link
        self.sources: dict[str, Path] = {}
        self.outcomes: list[Outcome] = []
        self.held_bytes: dict[tuple[str, str], int] = {}  # what a killed getter had already
        self.clients: dict[str, Client] = {}

    def client(self, name: str) -> Client:
        """Return a connection to a device's daemon; made once."""
        if name not in self.clients:
            self.clients[name] = connect(str(self.devices[name].home))
        return self.clients[name]

    def say(self, text: str) -> None:
        """Print a line of the story."""
        self.console.print(f"[bold cyan]»[/] {text}")

    def start(self) -> None:
        """Make the network, admit four devices by tickets."""
        ada = self.devices["ada"]
        status = ada.up()
        self.names[status["peer_id"]] = "ada"
        self.say(f"ada made the network [dim]{status['network_id'][:20]}…[/]")
        for name in NAMES[1:]:
            ticket = ada.run("invite")["ticket"]
            joined = self.devices[name].join(ticket)
            self.names[joined["peer_id"]] = name
        for device in self.devices.values():
            device.wait_peers(len(NAMES) - 1)
        self.say(f"{', '.join(NAMES[1:])} joined with a ticket each, all connected")

    def share(self) -> None:
        """Share real files from ada; the links are there at once."""
        data = self.root / "data"
        data.mkdir()
        self.say("copying the standard library, writing 512 MiB of random bytes")
        library, big, later = data / "stdlib", data / "big.bin", data / "later.bin"
        files = copy_standard_library(library)
        write_random_file(big, BIG_BYTES)
        write_random_file(later, BIG_BYTES)
        for what, path in (("stdlib", library), ("big.bin", big), ("later.bin", later)):
            began = time.monotonic()
            self.links[what] = self.devices["ada"].run("share", str(path))["link"]
            self.sources[what] = path
            self.say(f"ada shares {what}: a link after {time.monotonic() - began:.1f} s")
        for path in self.sources.values():
            done = self.devices["ada"].run("share", str(path), "--wait", timeout_s=STEP_TIMEOUT_S)
            if not done["complete"]:
                raise DemoFailed(f"the share of {path.name} did not complete")
        self.say(f"all hashed; {files} files in stdlib")

    def get(self, name: str, what: str) -> subprocess.Popen[str]:
        """Start a get of one share on one device."""
        return self.devices[name].popen("get", self.links[what], str(self.root / name))

    def watch(
        self, gets: dict[tuple[str, str], subprocess.Popen[str]], act: Callable[[dict[str, float]], None]
    ) -> None:
        """Show progress until every get has ended; `act` sees the progress of big.bin by device."""
        limit = time.monotonic() + STEP_TIMEOUT_S
        with Board(self.console) as board:
            board.rows = [Row(name, what) for name, what in gets]
            while any(process.poll() is None for process in gets.values()):
                if time.monotonic() > limit:
                    raise DemoFailed(f"the transfers did not end within {STEP_TIMEOUT_S:.0f} s")
                for row in board.rows:
                    self._update(row)
                board.show()
                act({row.device: row.done_bytes / BIG_BYTES for row in board.rows if row.what == "big.bin"})
                time.sleep(POLL_S)

    def find_transfer(self, name: str, what: str) -> Transfer | None:
        """Return a device's transfer of one share; None while its daemon does not answer."""
        share_id = self.share_ids.get(what)
        if self.devices[name].pid is None:
            return None
        return next((t for t in self.client(name).transfers() if t.share_id == share_id), None)

    @property
    def share_ids(self) -> dict[str, str]:
        """What is shared by ada, by name."""
        if not hasattr(self, "_share_ids"):
            rows = self.devices["ada"].run("shares")["shares"]
            by_link = {row["link"]: row["share_id"] for row in rows}
            self._share_ids = {what: by_link[link] for what, link in self.links.items()}
        return self._share_ids

    def finish(self, name: str, what: str, process: subprocess.Popen[str]) -> None:
        """Take the result of a get, keep it for the table, compare what arrived byte by byte."""
        stdout, stderr = process.communicate(timeout=STEP_TIMEOUT_S)
        if process.returncode != 0:
            raise DemoFailed(f"{name} did not get {what}: {stdout}{stderr}")
        result = json.loads(stdout)
        difference = find_difference(self.sources[what], self.root / name / what)
        if difference is not None:
            raise DemoFailed(f"{name} has something else than ada: {difference}")
        saved = max(0, self.held_bytes.get((name, what), 0) - result["refetched_bytes"])
        self.outcomes.append(
            Outcome(
                name,
                what,
                result["files"],
                result["bytes"],
                result["seconds"],
                result["refetched_bytes"],
                saved,
                {self.names.get(peer, peer): given for peer, given in result["providers"].items()},
            )
        )

    def _update(self, row: Row) -> None:
        transfer = self.find_transfer(row.device, row.what)
        if transfer is None:
            row.state, row.rate_bytes_s = "down" if self.devices[row.device].pid is None else row.state, 0.0
            return
        row.total_bytes = transfer.bytes or row.total_bytes
        row.done_bytes = transfer.done_bytes
        row.rate_bytes_s = transfer.rate_bytes_s or 0.0
        row.state = transfer.state
        row.providers = {self.names.get(peer, peer): given for peer, given in transfer.providers.items()}


def one_peer(story: Story) -> None:
    """ben gets both shares from ada alone."""
    story.say("ben gets both from ada")
    gets = {("ben", what): story.get("ben", what) for what in ("stdlib", "big.bin")}
    story.watch(gets, lambda progress: None)
    for (name, what), process in gets.items():
        story.finish(name, what, process)
    story.say("ben has both, compared byte by byte")


def three_peers(story: Story) -> None:
    """cem, dot and eli get both at once; ben dies for good, eli dies and comes back."""
    story.say("cem, dot, eli get both at once, from ada, ben and each other")
    gets = {
        (name, what): story.get(name, what)
        for what in ("big.bin", "stdlib")
        for name in ("cem", "dot", "eli")
    }
    happened: list[str] = []

    def act(progress: dict[str, float]) -> None:
        if not happened and max(progress.values()) > 0.15:
            story.devices["ben"].kill()
            happened.append("ben")
            story.say("ben, one of two complete providers, was killed with SIGKILL")
        elif happened == ["ben"] and progress["eli"] > 0.35:
            for what in ("big.bin", "stdlib"):
                held = story.find_transfer("eli", what)
                story.held_bytes["eli", what] = held.done_bytes if held is not None else 0
            story.devices["eli"].kill()
            happened.append("eli")
            for what in ("big.bin", "stdlib"):
                gets[("eli", what)].communicate(timeout=STEP_TIMEOUT_S)
            story.devices["eli"].up()
            story.say("eli was killed in the middle, started again, and goes on by itself")
            for what in ("big.bin", "stdlib"):
                gets[("eli", what)] = story.get("eli", what)

    story.watch(gets, act)
    if happened != ["ben", "eli"]:
        raise DemoFailed(f"the transfers were over before the kills: {happened or 'none'} happened")
    for (name, what), process in gets.items():
        story.finish(name, what, process)
    story.say("cem, dot and eli have both, compared byte by byte")


def removal(story: Story) -> None:
    """dot is removed in the middle of a get, and receives nothing more."""
    story.say("dot starts to get later.bin, and ada removes dot in the middle")
    process = story.get("dot", "later.bin")
    dot = next(peer for peer, name in story.names.items() if name == "dot")
    limit = time.monotonic() + STEP_TIMEOUT_S
    while (found := story.find_transfer("dot", "later.bin")) is None or found.done_bytes < BIG_BYTES // 50:
        if time.monotonic() > limit or process.poll() is not None:
            raise DemoFailed("dot's get ended before it was removed")
        time.sleep(0.01)
    began = time.monotonic()
    confirmed = story.client("ada").remove(dot).confirmed
    took_s = time.monotonic() - began
    time.sleep(max(0.0, AFTER_REMOVAL_S - took_s))
    held = story.find_transfer("dot", "later.bin")
    time.sleep(AFTER_REMOVAL_S)
    later = story.find_transfer("dot", "later.bin")
    if held is None or later is None:
        raise DemoFailed("dot forgot its transfer")
    if (
        later.done_bytes != held.done_bytes
        or later.done_bytes >= BIG_BYTES
        or (story.root / "dot" / "later.bin").exists()
    ):
        raise DemoFailed("dot went on receiving after its removal")
    process.kill()
    process.communicate()
    who = ", ".join(sorted(story.names.get(peer, peer) for peer in confirmed))
    story.say(
        f"dot stopped at {format_size(later.done_bytes)} of {format_size(BIG_BYTES)}; "
        f"confirmed by {who} after {took_s:.1f} s"
    )
    states = {story.names[m["peer_id"]]: m["state"] for m in story.devices["cem"].run("members")["members"]}
    if states["dot"] != "removed":
        raise DemoFailed("cem does not know that dot was removed")


def tell_how_to_use(story: Story) -> None:
    """Say how to go on with a network that was kept running."""
    shoal = os.path.join(os.path.dirname(sys.executable), "shoal")
    story.console.print("\nThe network keeps running. Try:\n", highlight=False)
    for line in ("peers", "members", "transfers", "ping cem"):
        story.console.print(
            f"  SHOAL_HOME={story.devices['ada'].home} {shoal} {line}", highlight=False, soft_wrap=True
        )
    story.console.print("\nStop it and forget it:\n", highlight=False)
    for name, device in story.devices.items():
        if device.pid is not None:
            story.console.print(
                f"  SHOAL_HOME={device.home} {shoal} down   # {name}", highlight=False, soft_wrap=True
            )
    story.console.print(f"  rm -r {story.root}", highlight=False, soft_wrap=True)


def main() -> int:
    """Tell the story; 0 only if all of it came true."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave the network running")
    parser.add_argument(
        "--dir", help="where the homes and copies go (6 GiB); default: the temporary directory"
    )
    options = parser.parse_args()
    console = Console(highlight=False)
    where = options.dir or tempfile.gettempdir()
    if shutil.disk_usage(where).free < NEEDED_BYTES:
        console.print(
            f"The demo needs {format_size(NEEDED_BYTES)} in {where}; name another place: ARGS=--dir=PATH"
        )
        return 6
    root = Path(tempfile.mkdtemp(prefix="shoal-demo-", dir=where))
    story = Story(root, console)
    began = time.monotonic()
    kept = False
    with ExitStack() as stack:
        stack.callback(lambda: None if kept else shutil.rmtree(root, ignore_errors=True))
        for device in story.devices.values():
            stack.callback(lambda device=device: None if kept else device.kill())
        try:
            story.start()
            story.share()
            one_peer(story)
            three_peers(story)
            removal(story)
        except (DemoFailed, CommandFailed, TimeoutError) as error:
            console.print(f"[bold red]The demo failed:[/] {error}")
            for name, device in story.devices.items():
                _print_log(console, name, device)
            return 1
        console.print()
        print_outcomes(console, story.outcomes)
        console.print(f"\n[bold green]Everything was verified[/] in {time.monotonic() - began:.0f} s.")
        if options.keep:
            kept = True
            tell_how_to_use(story)
    return 0


def _print_log(console: Console, name: str, device: Device) -> None:
    for log in sorted((device.home / "log").glob("*.log")) if (device.home / "log").is_dir() else []:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        console.print(f"--- {name} {log.name}", *tail, sep="\n", markup=False)


if __name__ == "__main__":
    raise SystemExit(main())
