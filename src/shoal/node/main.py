"""Main: the process around a node: its loop, signals, limits and log.

Started by the launcher with an order on standard input (node/order.py), or run inside the foreground command.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import logging.handlers
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

import msgspec
import uvloop

from shoal.api.faults import find_fault, make_body
from shoal.api.schema import Status
from shoal.core.decoders import get_json_decoder
from shoal.core.errors import ExitCode, LocalMisuse, ShoalError, StorageFault
from shoal.core.free_memory import bound_free_memory, settle_memory
from shoal.core.units import MIB
from shoal.node.config import NodeConfig, load_config
from shoal.node.node import Node
from shoal.node.order import ORDER_LIMIT_BYTES, LaunchOrder, LaunchReport
from shoal.storage.home import Home

log = logging.getLogger("shoal.node")

STOP_LIMIT_S = 4.9  # SIGTERM ends a node within 5 s, whatever hangs
LOG_BYTES = 5 * MIB  # two files of it
OPEN_FILES = 65_536  # wanted; sessions, lanes and files of shares each take one

OnUp = Callable[[Status], None]
OnStopping = Callable[[], None]
OnNotice = Callable[[str], None]


def main() -> int:
    """Run a node in the background as the order on standard input says; report on standard output once."""
    report = sys.stdout
    sys.excepthook = _Unforeseen(report)
    try:
        order = _read_order()
        code = run(order, lambda status: _answer(report, LaunchReport(status=status)))
    except ShoalError as error:
        _answer(report, LaunchReport(error=make_body(error), fault=find_fault(error)))
        return error.exit_code
    except OSError as error:
        fault = StorageFault(
            "The node did not start", cause=str(error), next_step="check the home's disk and permissions"
        )
        _answer(report, LaunchReport(error=make_body(fault), fault=find_fault(fault)))
        return fault.exit_code
    return code


def _be_silent() -> None:
    pass


def run(
    order: LaunchOrder, on_up: OnUp, on_stopping: OnStopping = _be_silent, on_notice: OnNotice | None = None
) -> ExitCode:
    """Run a node until it is told to stop. `on_up` gets its status once it accepts sessions; `on_stopping` is
    called when it has been told; `on_notice` with each notice that its status has from then on.

    Raises: what kept it from starting.
    """
    os.umask(0o077)
    _set_limits()
    bound_free_memory()
    config = load_config(order.home, order.flags)
    with Home.open(config.home, create=True) as home:
        crash_file = _open_log(home.log_dir, config.log_level)
        try:
            return uvloop.run(_run_node(order, config, home, on_up, on_stopping, on_notice, crash_file))
        finally:
            for handler in logging.getLogger().handlers:
                handler.flush()


def run_in_foreground(
    order: LaunchOrder, on_up: OnUp, on_stopping: OnStopping, on_notice: OnNotice
) -> ExitCode:
    """Run a node inside a command."""
    return run(order, on_up, on_stopping, on_notice)


async def _run_node(
    order: LaunchOrder,
    config: NodeConfig,
    home: Home,
    on_up: OnUp,
    on_stopping: OnStopping,
    on_notice: OnNotice | None,
    crash_file: TextIO,
) -> ExitCode:
    stop = _Stop(crash_file, on_stopping)
    is_up = False
    try:
        async with Node(config, home=home, ticket=order.ticket, code=order.code, at=order.at) as node:
            status = await node.status()
            log.info("up: %s, process %s, listening on %s", status.name, status.pid, ", ".join(status.listen))
            on_up(status)
            is_up = True
            settle_memory()
            if on_notice is not None:
                node.watch_notices(on_notice, status.notice or None)
            await node.wait_stopped()
            stop.begin()
    except asyncio.CancelledError:
        if not stop.signalled:
            raise
        log.info("stopped by a signal")
    return ExitCode.OK if is_up else ExitCode.INTERRUPTED


class _Stop:
    """Turns the first SIGINT or SIGTERM into an orderly end with a limit, and a second one into an end."""

    def __init__(self, crash_file: TextIO, on_stopping: OnStopping) -> None:
        self.signalled = False
        self._crash_file = crash_file
        self._on_stopping = on_stopping
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        with contextlib.suppress(ValueError):
            loop.add_signal_handler(signal.SIGHUP, self._on_signal)

    def begin(self) -> None:
        """Start the clock: what still runs after the limit is written to the log's crash file and ended."""
        faulthandler.dump_traceback_later(STOP_LIMIT_S, exit=True, file=self._crash_file)
        with contextlib.suppress(OSError):  # the terminal may be gone, which is why it stops
            self._on_stopping()

    def _on_signal(self) -> None:
        if self.signalled:
            os._exit(ExitCode.INTERRUPTED)  # nothing acknowledged is lost by it
        self.signalled = True
        self._task.cancel()
        self.begin()


class _Unforeseen:
    """The interpreter's last hook of a node in the background: it logs the end and tells the launcher."""

    def __init__(self, report: TextIO) -> None:
        self._report = report

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("the node ended by a mistake in it", exc_info=(kind, error, trace))
        fault = ShoalError(
            "The node ended unexpectedly",
            cause=f"{kind.__name__}: {error}",
            next_step="please report it with the log file in the home's folder log",
            code="internal",
        )
        _answer(self._report, LaunchReport(error=make_body(fault), fault=find_fault(fault)))


def _read_order() -> LaunchOrder:
    line = sys.stdin.buffer.readline(ORDER_LIMIT_BYTES)
    sys.stdin.close()
    try:
        return get_json_decoder(LaunchOrder).decode(line)
    except msgspec.DecodeError as error:
        raise LocalMisuse(
            "No node was started",
            cause="this process takes its order on standard input",
            next_step="use the command: shoal up --detach",
        ) from error


def _answer(stream: TextIO, report: LaunchReport) -> None:
    """Tell the launcher, which may be gone, and let go of its pipe."""
    with contextlib.suppress(OSError):
        stream.write(msgspec.json.encode(report).decode() + "\n")
        stream.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    if null > 2:
        os.close(null)


def _set_limits() -> None:
    """No core files, they would hold keys; as many open files as the system lets us have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_log(directory: str, level: str) -> TextIO:
    """Send our log to two rotating files; return the file for tracebacks of what hangs."""
    handler = logging.handlers.RotatingFileHandler(
        os.path.join(directory, "shoal.log"), maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("shoal").setLevel(level.upper())
    crash_file = open(os.path.join(directory, "crash.log"), "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    faulthandler.enable(crash_file)
    return crash_file


if __name__ == "__main__":
    sys.exit(main())
