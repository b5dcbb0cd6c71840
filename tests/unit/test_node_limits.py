"""Limits: the tables of the settings, which limit is in force in which minute, and orders that are kept."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.core.errors import ConfigFault, LocalMisuse
from shoal.core.supervisor import Supervisor
from shoal.core.units import MIB, NO_LIMIT
from shoal.identity.ids import format_peer_id
from shoal.node.config import load_config, store_setting
from shoal.node.limit_rules import InForce, LimitRules, Order, Source
from shoal.node.limit_settings import DAY_MINUTES, LimitSettings, Rates, ScheduleEntry, check_rate
from shoal.node.limiter import Limiter
from shoal.storage.database import Database
from shoal.storage.values import Values
from shoal.testing.clock import ManualClock

MB = 1_000_000
BERT, CARL = b"b" * 32, b"c" * 32
FILE = """
name = "anna"

[limits]
upload = "10 MB/s"
download = 2_000_000
memory = "64 MiB"

[limits.peers]
bert = { upload = "1 MiB/s" }

[[schedule]]
days = ["mon-fri"]
from = "08:00"
to = "18:00"
upload = "1 MB/s"

[[schedule]]
days = ["fri", "sat"]
from = "22:00"
to = "06:00"
upload = "unlimited"
download = "unlimited"
"""


def at(day: int, hour: int, minute: int = 0) -> int:
    return day * DAY_MINUTES + hour * 60 + minute


@pytest.fixture
def rules(tmp_path: Path) -> LimitRules:
    (tmp_path / "config.toml").write_text(FILE)
    config = load_config(str(tmp_path), environment={})
    return LimitRules(config.limits, config.schedule)


def test_tables_are_read_and_shown(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(FILE)
    config = load_config(str(tmp_path), environment={})
    assert config.limits == LimitSettings(Rates(10 * MB, 2 * MB), {"bert": Rates(MIB, None)}, 64 * MIB)
    assert config.schedule[0] == ScheduleEntry(frozenset(range(5)), 480, 1080, Rates(MB, None))
    assert config.settings()["limits"] == [
        "upload 10 MB/s",
        "download 2 MB/s",
        "memory 64.0 MiB",
        "bert: upload 1 MiB/s",
    ]
    assert config.settings()["schedule"] == [
        "mon-fri 08:00-18:00: upload 1 MB/s",
        "fri, sat 22:00-06:00: upload unlimited, download unlimited",
    ]
    assert config.origins["limits"] == "file"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("limits = 3", "limits"),
        ("[limits]\nuplaod = '1 MB/s'", "limits.uplaod"),
        ("[limits]\nupload = 'fast'", "limits.upload"),
        ("[limits]\nupload = 0", "limits.upload"),
        ("[limits]\nupload = true", "limits.upload"),
        ("[limits]\ndownload = '9 kB/s'", "limits.download"),
        ("[limits]\nmemory = '1 MiB'", "limits.memory"),
        ("[limits]\nmemory = '1 MB/s'", "limits.memory"),
        ("[limits.peers]\nbert = '1 MB/s'", "limits.peers.bert"),
        ("[limits.peers]\nbert = {down = 1}", "limits.peers.bert.down"),
        ("[schedule]\nfrom = '08:00'", "schedule"),
        ("[[schedule]]\nto = '08:00'\nupload = '1 MB/s'", "schedule 1.from"),
        ("[[schedule]]\nfrom = '08:00'\nupload = '1 MB/s'", "schedule 1.to"),
        ("[[schedule]]\nfrom = '8'\nto = '09:00'\nupload = '1 MB/s'", "schedule 1.from"),
        ("[[schedule]]\nfrom = '24:00'\nto = '09:00'\nupload = '1 MB/s'", "schedule 1.from"),
        ("[[schedule]]\nfrom = '08:00'\nto = '24:01'\nupload = '1 MB/s'", "schedule 1.to"),
        ("[[schedule]]\nfrom = '08:00'\nto = '09:00'", "schedule 1.upload"),
        ("[[schedule]]\ndays = []\nfrom = '08:00'\nto = '09:00'\nupload = 100000", "schedule 1.days"),
        ("[[schedule]]\ndays = 'someday'\nfrom = '08:00'\nto = '09:00'\nupload = 100000", "schedule 1.days"),
        ("[[schedule]]\nday = 'mon'\nfrom = '08:00'\nto = '09:00'\nupload = 100000", "schedule 1.day"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_is_allowed(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigFault) as caught:
        load_config(str(tmp_path), environment={})
    assert repr(key) in caught.value.message
    assert "config.toml" in caught.value.cause
    assert caught.value.next_step


def test_settings_before_the_tables_are_stored_before_them(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(FILE)
    store_setting(str(tmp_path), "lan", "no")
    store_setting(str(tmp_path), "name", "berta")
    config = load_config(str(tmp_path), environment={})
    assert (config.lan, config.name, len(config.schedule)) == (False, "berta", 2)
    with pytest.raises(ConfigFault) as caught:
        store_setting(str(tmp_path), "limits", "1 MB/s")
    assert "shoal limits" in caught.value.next_step


@pytest.mark.parametrize(
    ("minute", "upload", "source"),
    [
        (at(0, 7, 59), 10 * MB, Source.CONFIG),
        (at(0, 8), MB, Source.SCHEDULE),
        (at(4, 17, 59), MB, Source.SCHEDULE),
        (at(4, 18), 10 * MB, Source.CONFIG),
        (at(4, 22), NO_LIMIT, Source.SCHEDULE),
        (at(5, 5, 59), NO_LIMIT, Source.SCHEDULE),
        (at(5, 6), 10 * MB, Source.CONFIG),
        (at(5, 23), NO_LIMIT, Source.SCHEDULE),
        (at(6, 3), NO_LIMIT, Source.SCHEDULE),
        (at(6, 12), 10 * MB, Source.CONFIG),
    ],
)
def test_the_schedule_crosses_midnight(rules: LimitRules, minute: int, upload: int, source: Source) -> None:
    found = rules.find_total("upload", Order(), minute)
    assert (found.rate_bytes_s, found.source) == (upload, source)
    download = rules.find_total("download", Order(), minute)
    assert download.rate_bytes_s == (NO_LIMIT if upload == NO_LIMIT else 2 * MB)


def test_sunday_night_is_monday_morning_too() -> None:
    entry = ScheduleEntry(frozenset({6}), 23 * 60, 60, Rates(MB))
    assert entry.holds(at(6, 23))
    assert entry.holds(at(0, 0, 59))
    assert not entry.holds(at(0, 1))
    whole = replace(entry, start=0, end=DAY_MINUTES)
    assert [whole.holds(at(day, 12)) for day in (5, 6, 0)] == [False, True, False]


def test_orders_come_first_each_direction_on_its_own(rules: LimitRules) -> None:
    order = Order(upload=5 * MB)
    assert rules.find_total("upload", order, at(0, 9)).source is Source.COMMAND
    assert rules.find_total("download", order, at(0, 9)).source is Source.CONFIG
    assert rules.find_peer("upload", Order(), ["bert"]).rate_bytes_s == MIB
    assert rules.find_peer("download", Order(), ["bert"]) == InForce(
        NO_LIMIT, Source.DEFAULT, "nothing is set"
    )
    assert rules.find_peer("upload", Order(NO_LIMIT), ["bert"]).rate_bytes_s == NO_LIMIT
    assert LimitRules(LimitSettings(), ()).find_total("upload", Order(), 0).source is Source.DEFAULT


@pytest.mark.parametrize(
    ("now", "then"),
    [(at(0, 0), at(0, 8)), (at(0, 8), at(0, 18)), (at(4, 18), at(4, 22)), (at(6, 6), at(7, 8))],
)
def test_the_next_change_is_known(rules: LimitRules, now: int, then: int) -> None:
    assert rules.find_change(now) == then - now
    assert LimitRules(LimitSettings(), ()).find_change(now) is None


def test_every_minute_agrees_with_the_next_change() -> None:
    rng = random.Random(7)
    for _ in range(20):
        schedule = [
            ScheduleEntry(
                frozenset(rng.sample(range(7), rng.randrange(1, 7))),
                rng.randrange(DAY_MINUTES),
                rng.randrange(1, DAY_MINUTES + 1),
                Rates(*rng.choice([(MB, None), (None, MB), (2 * MB, MB)])),
            )
            for _ in range(rng.randrange(1, 4))
        ]
        rules = LimitRules(LimitSettings(), schedule)
        minute = rng.randrange(7 * DAY_MINUTES)
        ahead = rules.find_change(minute) or 7 * DAY_MINUTES
        said = [
            [rules.find_total(d, Order(), m % (7 * DAY_MINUTES)).rate_bytes_s for d in ("upload", "download")]
            for m in range(minute, minute + ahead + 1)
        ]
        assert all(one == said[0] for one in said[:-1])
        assert said[-1] != said[0] or ahead == 7 * DAY_MINUTES


def test_a_rate_has_a_least() -> None:
    assert check_rate(NO_LIMIT) == NO_LIMIT
    with pytest.raises(LocalMisuse):
        check_rate(9_999)


class FakeThrottle:
    """Keeps what was set."""

    def __init__(self) -> None:
        self.limits: list[tuple[float | None, dict[bytes, float]]] = []

    def set_limits(self, total: float | None, peers: dict[bytes, float]) -> None:
        self.limits.append((total, peers))


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


async def test_orders_are_kept_and_the_clock_is_followed(
    utc: None, tmp_path: Path, rules: LimitRules
) -> None:
    database = Database(str(tmp_path / "shoal.db"))
    await database.open()
    clock = ManualClock(wall_s=1_800_230_400.0 + 9 * 3600)  # a Monday
    members: dict[bytes, Any] = {BERT: SimpleNamespace(name="bert"), CARL: SimpleNamespace(name="carl")}

    async def run(supervisor: Supervisor) -> tuple[Limiter, FakeThrottle, FakeThrottle]:
        swarm: Any = SimpleNamespace(uploads=FakeThrottle(), downloads=FakeThrottle())
        limiter = Limiter(rules, swarm, Values(database), lambda: members, clock, supervisor)
        await limiter.start()
        return limiter, swarm.uploads, swarm.downloads

    async with Supervisor() as supervisor:
        limiter, up, down = await run(supervisor)
        assert up.limits == [(MB, {BERT: MIB})]
        assert down.limits == [(2 * MB, {})]
        assert limiter.status().changes_at == "mon 18:00"
        await limiter.order({"upload": 3 * MB}, None)
        await limiter.order({"upload": NO_LIMIT}, BERT)
        await limiter.order({"download": 50_000}, CARL)
        assert up.limits[-1] == (3 * MB, {})
        assert down.limits[-1] == (2 * MB, {CARL: 50_000})
        assert limiter.status().peers[CARL]["download"].source is Source.COMMAND
    async with Supervisor() as supervisor:
        limiter, up, down = await run(supervisor)
        assert up.limits == [(3 * MB, {})]
        await limiter.order({"upload": None}, None)
        await limiter.order({"upload": None, "download": None}, BERT)
        await limiter.order({"download": None}, CARL)
        assert up.limits[-1] == (MB, {BERT: MIB})
        assert down.limits[-1] == (2 * MB, {})
        clock.advance(9 * 3600)
        limiter.look()
        assert up.limits[-1] == (10 * MB, {BERT: MIB})
        members.pop(BERT)
        limiter.look()
        assert up.limits[-1] == (10 * MB, {})
        assert limiter.status().unknown == ("bert",)
        members[BERT] = SimpleNamespace(name="other")
        by_id = LimitRules(LimitSettings(peers={format_peer_id(BERT)[:12]: Rates(None, MB)}), ())
        swarm: Any = SimpleNamespace(uploads=FakeThrottle(), downloads=FakeThrottle())
        named = Limiter(by_id, swarm, Values(database), lambda: members, clock, supervisor)
        await named.start()
        assert swarm.downloads.limits == [(None, {BERT: MB})]
    await database.close()
