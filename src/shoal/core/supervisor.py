"""Supervisor: the one place where tasks are started, watched, restarted and ended.

Every long-running task of a node is a *service* here, with a restart policy; every short one is a *job*.
This module has one of the two broad handlers of the project: what a service raises is logged and answered
by its policy, never lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any

from shoal.core.errors import Unavailable

log = logging.getLogger("shoal.supervisor")

JOB_LIMIT = 4096  # short tasks at once; beyond it `spawn` refuses
PEER_JOB_LIMIT = 3072  # of them started by what peers ask: the rest is kept for what this node has to do
BACKOFF_FIRST_S = 0.2
BACKOFF_LAST_S = 30.0
BACKOFF_RESET_S = 60.0  # a service that ran this long starts over with the first pause
CLOSE_TIMEOUT_S = 4.0  # `close` gives up waiting then; SIGTERM has to end a node within 5 s


class Restart(Enum):
    """What to do when a service ends by an error."""

    ALWAYS = "always"  # start it again after a pause that doubles
    FATAL = "fatal"  # the node cannot do without it: stop the node


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Frozen snapshot for people."""

    name: str
    running: bool
    restarts: int
    last_error: str


class _Service:
    def __init__(self, name: str, run: Callable[[], Awaitable[None]], restart: Restart) -> None:
        self.name = name
        self.run = run
        self.restart = restart
        self.restarts = 0
        self.last_error = ""
        self.task: asyncio.Task[None] | None = None


class Supervisor:
    """Owns all tasks of a node.

    Expects to be used as `async with Supervisor() as supervisor`. Leaving cancels everything and waits at
    most CLOSE_TIMEOUT_S. `failed` is set to the error of a FATAL service; the node waits for it.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._services: dict[str, _Service] = {}
        self._jobs: set[asyncio.Task[Any]] = set()
        self._peer_jobs: set[asyncio.Task[Any]] = set()
        self._random = rng or random.Random()  # noqa: S311 - jitter, not secrecy
        self._closing = False
        self.failed: asyncio.Future[BaseException] | None = None

    async def __aenter__(self) -> Supervisor:
        self.failed = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self, name: str, run: Callable[[], Awaitable[None]], restart: Restart = Restart.ALWAYS) -> None:
        """Run a service until it returns or the supervisor closes. `run` is called again on each restart.

        Raises: Unavailable while closing: nobody would end it.
        """
        if self._closing:
            raise Unavailable(f"{name} was not started", cause="the node is stopping", code="shutdown")
        service = _Service(name, run, restart)
        self._services[name] = service
        service.task = asyncio.create_task(self._keep(service), name=name)

    def spawn(self, name: str, job: Coroutine[Any, Any, Any], *, for_peer: bool = False) -> asyncio.Task[Any]:
        """Run a short task; its error is logged. `for_peer`: a peer asked for it.

        Raises: Unavailable beyond JOB_LIMIT, for peers beyond PEER_JOB_LIMIT, or while closing.
        """
        full = len(self._jobs) >= JOB_LIMIT or (for_peer and len(self._peer_jobs) >= PEER_JOB_LIMIT)
        if self._closing or full:
            job.close()
            raise Unavailable("The node has too much to do", cause=f"{len(self._jobs)} tasks are running")
        task = asyncio.create_task(job, name=name)
        self._jobs.add(task)
        if for_peer:
            self._peer_jobs.add(task)
        task.add_done_callback(self._on_job_done)
        return task

    def status(self) -> list[ServiceStatus]:
        """Return what every service is doing."""
        return [
            ServiceStatus(s.name, s.task is not None and not s.task.done(), s.restarts, s.last_error)
            for s in self._services.values()
        ]

    async def close(self) -> None:
        """Cancel everything, newest first, and wait at most CLOSE_TIMEOUT_S; idempotent."""
        self._closing = True
        tasks = [s.task for s in reversed(list(self._services.values())) if s.task is not None]
        tasks += list(self._jobs)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            for task in pending:
                log.error("%s did not stop within %s s", task.get_name(), CLOSE_TIMEOUT_S)

    async def _keep(self, service: _Service) -> None:
        pause = BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await service.run()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if self._closing or task is None or task.cancelling():
                    raise
                log.error("service %s failed", service.name, exc_info=error)
                cause = "what it waited for was cancelled"  # and not the service itself
                self._note_failure(service, Unavailable(f"{service.name} ended", cause=cause))
            except Exception as error:  # the supervisor is where everything unexpected ends
                log.error("service %s failed", service.name, exc_info=error)
                self._note_failure(service, error)
            else:
                return
            if service.restart is Restart.FATAL:
                return
            if loop.time() - started > BACKOFF_RESET_S:
                pause = BACKOFF_FIRST_S
            await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
            pause = min(pause * 2, BACKOFF_LAST_S)
            service.restarts += 1

    def _note_failure(self, service: _Service, error: Exception) -> None:
        service.last_error = f"{type(error).__name__}: {error}"
        if service.restart is Restart.FATAL and self.failed is not None and not self.failed.done():
            self.failed.set_result(error)

    def _on_job_done(self, task: asyncio.Task[Any]) -> None:
        self._jobs.discard(task)
        self._peer_jobs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s failed", task.get_name(), exc_info=error)
