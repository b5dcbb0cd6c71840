"""Supervisor: restarts, fatal services, jobs, and an end within its bound."""

import asyncio
import random

import pytest

from shoal.core import supervisor as module
from shoal.core.errors import Unavailable
from shoal.core.supervisor import Restart, Supervisor


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.001)


async def test_failing_service_is_started_again() -> None:
    runs = 0
    done = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("once more")
        done.set()

    async with Supervisor(random.Random(1)) as supervisor:
        supervisor.start("fragile", run)
        await asyncio.wait_for(done.wait(), 5)
        (status,) = supervisor.status()
        assert status.restarts == 2
        assert "once more" in status.last_error


async def test_a_service_that_waited_for_something_cancelled_is_started_again() -> None:
    """Only the supervisor ends a service by cancelling it; a cancelled future inside is a failure."""
    runs = 0
    done = asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            other.cancel()
            await other
        done.set()

    async with Supervisor(random.Random(1)) as supervisor:
        supervisor.start("fragile", run)
        await asyncio.wait_for(done.wait(), 5)
        assert supervisor.status()[0].restarts == 1


async def test_nothing_starts_after_the_end() -> None:
    async with Supervisor(random.Random(1)) as supervisor:
        pass
    with pytest.raises(Unavailable):
        supervisor.start("late", asyncio.Event().wait)  # type: ignore[arg-type]


async def test_fatal_service_is_reported_not_restarted() -> None:
    async def run() -> None:
        raise OSError("gone")

    async with Supervisor() as supervisor:
        supervisor.start("listener", run, Restart.FATAL)
        assert supervisor.failed is not None
        error = await asyncio.wait_for(asyncio.shield(supervisor.failed), 5)
        assert isinstance(error, OSError)


async def test_close_cancels_services_and_jobs() -> None:
    ended: list[str] = []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    supervisor = Supervisor()
    async with supervisor:
        supervisor.start("service", lambda: forever("service"))
        supervisor.spawn("job", forever("job"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert sorted(ended) == ["job", "service"]
    with pytest.raises(Unavailable):
        supervisor.spawn("late", forever("late"))


async def test_jobs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOB_LIMIT", 2)

    async def forever() -> None:
        await asyncio.Event().wait()

    async with Supervisor() as supervisor:
        supervisor.spawn("a", forever())
        supervisor.spawn("b", forever())
        with pytest.raises(Unavailable):
            supervisor.spawn("c", forever())


async def test_peers_cannot_use_up_the_places_for_our_own_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEER_JOB_LIMIT", 1)

    async def forever() -> None:
        await asyncio.Event().wait()

    async with Supervisor() as supervisor:
        asked = supervisor.spawn("request", forever(), for_peer=True)
        with pytest.raises(Unavailable):
            supervisor.spawn("request", forever(), for_peer=True)
        supervisor.spawn("removal", forever())
        asked.cancel()
        await asyncio.wait({asked})
        await asyncio.sleep(0)
        supervisor.spawn("request", forever(), for_peer=True)
