"""Kill rounds: the operations of the kill series, each with what must hold after its device died.

A round may find what earlier rounds left on the devices, never their shares, copies and pins.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shoal.api import operations as ops
from shoal.api.client import Client
from shoal.api.schema import Nothing, TransferRequest
from shoal.core.units import MIB
from shoal.storage.schema import MIGRATIONS, migrate
from shoal.storage.segment_format import FILE_HEADER_BYTES
from shoal.testing.kill_plan import Plan
from shoal.testing.kill_world import REFETCHED_A_KILL_BYTES, WAIT_S, KillWorld, SeriesFailed, Told, expect
from shoal.testing.trees import find_difference, write_seeded_tree

PART: Final = "folder [0-3]"  # what `only` selects, of the folders that write_seeded_tree makes
CHANGES: Final = 6  # of a watched tree, before and around the kill
LARGE_CHANGE_BYTES: Final = 7 * MIB  # of a tree whose follower is killed over it
FLIPS: Final = 12  # bytes that rot in each segment


class Round:
    """One round in a world: `run` carries the plan out and raises SeriesFailed if anything is not right."""

    def __init__(self, world: KillWorld, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.rng = plan.rng()
        self.told = Told()
        self.refetched_bytes = 0
        self.was_cut = False  # the kill came while the operation ran
        self.tree = world.directory / "trees" / "tree"

    def run(self) -> None:
        """Carry the plan out. Raises: SeriesFailed, ShoalError, CommandFailed, TimeoutError."""
        operations: dict[str, Callable[[], None]] = {
            "share": self._share,
            "copy": self._copy,
            "watch": self._follow,
            "follow": self._follow,
            "get": lambda: self._get(()),
            "only": lambda: self._get((PART,)),
            "pin": self._pin,
            "gc": self._gc,
            "scrub": self._scrub,
            "migrate": self._migrate,
        }
        write_seeded_tree(self.tree, self.rng, self.plan.tree_bytes)
        before = self.world.cut
        operations[self.plan.operation]()
        self.was_cut = self.was_cut or self.world.cut > before
        for name in self.world.devices:
            self.world.expect_sound(name)
        self.world.clean_up()

    def _share(self) -> None:
        """A link that was told is listed, its share completes by itself, and it is the same link for ever."""
        world, author = self.world, self.plan.author

        def act(client: Client) -> None:
            share = client.share(self.tree)
            self.told.note("link", share.link)
            client.wait_share(share)

        world.kill_during(self.plan, (author, act))
        client = world.client(author)
        told = self.told.find("link")
        if told is not None:
            expect(told in {share.link for share in client.shares()}, "a link was told, and is not listed")
            world.wait(lambda: client.shares()[0].complete, "a told share is complete")
        link = client.share(self.tree, wait=True).link
        expect(told in (None, link), "sharing again gave another link")
        world.get_whole(self.plan.reader, link, self.tree)

    def _copy(self) -> None:
        """What `share --copy` acknowledged is there without the files."""
        world, author = self.world, self.plan.author

        def act(client: Client) -> None:
            link = client.share(self.tree, wait=True).link
            client.pin(link)
            self.told.note("kept", link)

        world.kill_during(self.plan, (author, act))
        if self.told.find("kept") is not None:
            pin = world.client(author).pins()[-1]
            expect(pin.state == "complete" and pin.done == pin.chunks, f"the told copy is not whole: {pin}")
        else:
            act(world.client(author))
        moved = self.tree.with_name("moved away")
        self.tree.rename(moved)
        world.get_whole(self.plan.reader, str(self.told.find("kept")), self.tree, moved)

    def _get(self, only: tuple[str, ...]) -> None:
        """Two getters; who began goes on by itself, and little is fetched twice."""
        world, plan = self.world, self.plan
        if only:
            chosen = self.tree / "folder 0"  # some trees have nothing that is selected
            chosen.mkdir(exist_ok=True)
            (chosen / "file one more").write_bytes(self.rng.randbytes(MIB))
        link = world.client(plan.author).share(self.tree, wait=True).link
        names = (plan.keeper, plan.reader)

        def act(name: str) -> Callable[[Client], None]:
            def get(client: Client) -> None:
                started = client.start_get(link, world.dest(name), wait_s=WAIT_S, only=only)
                self.told.note(name, started.id)
                client.wait_transfer(started)

            return get

        getters = [world.client(name) for name in names]

        def is_fetching() -> bool:
            transfers = [transfer for getter in getters for transfer in getter.transfers()]
            return any(transfer.state not in ("done", "cancelled", "failed") for transfer in transfers)

        world.kill_during(plan, *((name, act(name)) for name in names), is_busy=is_fetching)
        for name in names:
            client, dest = world.client(name), world.dest(name)
            told = self.told.find(name)
            if told is None:
                started = client.start_get(link, dest, wait_s=WAIT_S, only=only)
            else:
                started = client.call(ops.TRANSFER, TransferRequest(id=told))
            result = client.wait_transfer(started)
            self.refetched_bytes += result.refetched_bytes
            expect(
                result.refetched_bytes <= REFETCHED_A_KILL_BYTES,
                f"{name} fetched {result.refetched_bytes} bytes again after one kill",
            )
            self._expect_got(dest, only=bool(only))

    def _expect_got(self, dest: Path, *, only: bool) -> None:
        world = self.world
        world.expect_names(dest, {self.tree.name})
        if not only:
            world.expect_same(self.tree, dest / self.tree.name)
            return
        chosen = {name for name in os.listdir(self.tree) if name in {f"folder {n}" for n in range(4)}}
        world.expect_names(dest / self.tree.name, chosen)
        for name in chosen:
            world.expect_same(self.tree / name, dest / self.tree.name / name)

    def _follow(self) -> None:
        """A watched tree changes meanwhile; the follower ends with what is there, and never goes back."""
        world, plan = self.world, self.plan
        author, keeper = world.client(plan.author), world.client(plan.keeper)
        dest = world.dest(plan.keeper)
        told = author.share(self.tree, watch=True, wait=True)
        keeper.follow(told.link, dest)
        copy = dest / self.tree.name
        world.wait(lambda: find_difference(self.tree, copy) is None, "the follower has the first version")
        seen: list[int] = []
        rng = random.Random(self.rng.random())  # noqa: S311 - test data
        is_follow = plan.operation == "follow"  # else it is the watch that is killed over

        def change(client: Client) -> None:
            for _ in range(CHANGES):
                _change_tree(self.tree, rng)
                time.sleep(plan.delay_s / CHANGES)
                seen.append(max(share.version for share in client.shares()))

        def is_fetching() -> bool:
            return keeper.follows()[0].state == "fetching"

        if is_follow:
            author.limits(upload=plan.upload)
            (self.tree / "large change").write_bytes(rng.randbytes(LARGE_CHANGE_BYTES))
            world.wait(is_fetching, "the follower fetches another version")
        world.kill_during(plan, (plan.author, change), is_busy=is_fetching if is_follow else None)
        _change_tree(self.tree, self.rng)
        version = max(share.version for share in world.client(plan.author).shares())
        newest = max(seen, default=1)
        expect(version >= newest, f"version {newest} was told, now it is {version}")
        follow = world.client(plan.keeper).follows()
        expect(len(follow) == 1, "the follow is not listed any more")
        try:
            world.wait(lambda: find_difference(self.tree, copy) is None, "the copy is what the author has")
        except SeriesFailed as error:
            shares, follows = world.client(plan.author).shares(), world.client(plan.keeper).follows()
            raise SeriesFailed(f"{error}: {find_difference(self.tree, copy)}; {shares} {follows}") from error
        world.wait(
            lambda: world.client(plan.keeper).follows()[0].state == "current", "the follower says `current`"
        )
        names = {self.tree.name, ".shoal-versions"}
        world.expect_names(dest, names & set(os.listdir(dest)) | {self.tree.name})

    def _pin(self) -> None:
        """A pin that was told goes on by itself; its chunks are there without anybody else."""
        world, plan = self.world, self.plan
        link = world.client(plan.author).share(self.tree, wait=True).link

        def act(client: Client) -> None:
            pin = client.start_pin(link, wait_s=WAIT_S)
            self.told.note("pin", str(pin.number))
            client.wait_pin(pin)

        keeper = world.client(plan.keeper)
        world.kill_during(
            plan, (plan.keeper, act), is_busy=lambda: any(pin.state == "fetching" for pin in keeper.pins())
        )
        client = world.client(plan.keeper)
        if (told := self.told.find("pin")) is not None:
            expect(told in {str(pin.number) for pin in client.pins()}, "a pin was told, and is not listed")
            world.wait(lambda: client.pins()[-1].state == "complete", "a told pin is complete")
        self._expect_kept(link)

    def _expect_kept(self, link: str) -> None:
        """The keeper has all of it: the author shares it no longer, and the reader gets the tree."""
        world, plan = self.world, self.plan
        client = world.client(plan.keeper)
        pin = client.pin(link, wait_s=WAIT_S)
        chunks = client.call(ops.STORE, Nothing()).chunks
        expect(pin.done == pin.chunks, f"the pin is not whole: {pin}")
        expect(chunks <= pin.chunks, f"{chunks} chunks are kept for a pin of {pin.chunks}")
        author = world.client(plan.author)
        for share in author.shares():
            author.unshare(share.share_id)
        moved = self.tree.with_name("moved away")
        self.tree.rename(moved)
        world.get_whole(plan.reader, link, self.tree, moved)

    def _gc(self) -> None:
        """Half of what is kept is let go of; the other half survives its collection."""
        world, plan = self.world, self.plan
        author, keeper = world.client(plan.author), world.client(plan.keeper)
        link = author.share(self.tree, wait=True).link
        keeper.pin(link)
        for folder in sorted(self.tree.glob("folder *"))[::2]:
            shutil.rmtree(folder)
        (self.tree / "one more").write_bytes(self.rng.randbytes(MIB))
        author.share(self.tree, wait=True)
        expect(keeper.pin(link, wait_s=WAIT_S).version == 2, "the second version was not kept")
        world.kill_during(plan, (plan.keeper, lambda client: _ignore(client.wait_store_work("gc"))))
        world.client(plan.keeper).wait_store_work("gc")
        self._expect_kept(link)

    def _scrub(self) -> None:
        """What rots is found and fetched again, also if the node dies over it."""
        world, plan = self.world, self.plan
        link = world.client(plan.author).share(self.tree, wait=True).link
        world.client(plan.keeper).pin(link)
        for segment in sorted((world.devices[plan.keeper].home / "store").glob("*.seg")):
            flip_bytes(segment, self.rng, FLIPS, FILE_HEADER_BYTES)

        def is_whole(client: Client) -> bool:
            return client.call(ops.STORE, Nothing()).lost == 0 and client.pins()[-1].state == "complete"

        def heal(client: Client) -> None:
            client.wait_store_work("verify")
            while not is_whole(client):
                time.sleep(0.02)

        world.kill_during(plan, (plan.keeper, heal))
        world.client(plan.keeper).wait_store_work("verify")  # finds what the first one was killed before
        world.wait(lambda: is_whole(world.client(plan.keeper)), "all that rotted was fetched again")
        self._expect_kept(link)

    def _migrate(self) -> None:
        """A home of an older release opens whole, also if the first start with the new one is killed."""
        world, plan = self.world, self.plan
        link = world.client(plan.keeper).share(self.tree, wait=True).link
        world.kill(*plan.victims)
        for name in plan.victims:
            make_older(world.devices[name].home / "shoal.db", self.rng.randrange(1, len(MIGRATIONS)))
        starting = [world.devices[n].popen("up", "--listen", "127.0.0.1:0", "--no-lan") for n in plan.victims]
        time.sleep(plan.delay_s)
        for process in starting:
            process.kill()
            said, _ = process.communicate()
            self.was_cut = self.was_cut or not said  # it prints its status once it is up
        world.kills += 1
        world.up(*plan.victims)
        world.wait_connected()
        expect(
            link in {share.link for share in world.client(plan.keeper).shares()}, "a share of before is gone"
        )
        world.get_whole(plan.reader, link, self.tree)


def make_older(path: Path, version: int) -> None:
    """Turn a closed database into what a release with `version` migrations would have made of it."""
    older = path.with_suffix(".older")
    connection = sqlite3.connect(older, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        migrate(connection, str(older), MIGRATIONS[:version])
        connection.execute("ATTACH ? AS new", (str(path),))
        tables = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"DELETE FROM main.{table}")  # noqa: S608 - names out of our own schema
            connection.execute(
                f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}"  # noqa: S608
            )
    finally:
        connection.close()
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    older.rename(path)


def flip_bytes(path: Path, rng: random.Random, count: int, first: int = 0) -> None:
    """Change `count` bytes of a file somewhere from offset `first` on."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(count if size > first else 0):
            place = rng.randrange(first, size)
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ (1 << rng.randrange(8))]))


def _change_tree(tree: Path, rng: random.Random) -> None:
    """One change: a new file, an appended one, one deleted, one renamed."""
    files = sorted(path for path in tree.glob("folder */file *") if path.is_file())
    kind = rng.choice(("new", "append", "delete", "rename"))
    if kind == "new" or len(files) < 4:
        folder = tree / f"folder {rng.randrange(8)}"
        folder.mkdir(exist_ok=True)
        (folder / f"file new {rng.randrange(10**6)}").write_bytes(rng.randbytes(rng.randrange(200_000)))
    elif kind == "append":
        with rng.choice(files).open("ab") as file:
            file.write(rng.randbytes(50_000))
    elif kind == "delete":
        rng.choice(files).unlink()
    else:
        chosen = rng.choice(files)
        chosen.rename(chosen.with_name(f"file moved {rng.randrange(10**6)}"))


def _ignore(_: object) -> None:
    """Drop a value: an action returns nothing."""
