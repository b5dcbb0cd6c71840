"""Launch: start a node's process in the background and wait until it says that it is up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import msgspec

from shoal.api.faults import make_error
from shoal.api.schema import Status
from shoal.core.decoders import get_json_decoder
from shoal.core.errors import Unavailable
from shoal.node.order import LaunchOrder, LaunchReport

END_TIMEOUT_S = 6.0  # a node that is told to stop does so within 5 s


def launch(order: LaunchOrder) -> Status:
    """Start a node in a session of its own and return its status once it accepts sessions.

    Raises: what kept the node from starting. Interrupting ends the node that is being started.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "shoal.node.main"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it has a log file
        start_new_session=True,
        cwd="/",
        env=_make_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended already; what it said is read below
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.close()
        line = process.stdout.readline()
    except KeyboardInterrupt:
        _end(process)
        raise
    process.stdout.close()
    if not line:
        code = process.wait()
        raise Unavailable(
            "The node did not start",
            cause=f"its process ended with code {code} before it was up",
            next_step=f"see {os.path.join(order.home, 'log', 'shoal.log')}",
            code="not_started",
        )
    report = get_json_decoder(LaunchReport).decode(line)
    if report.error is not None:
        process.wait()
        raise make_error(report.error, report.fault)
    assert report.status is not None
    process.returncode = 0  # it lives on without us: no warning when this object goes
    return report.status


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _make_environment() -> dict[str, str]:
    """Return our environment; relative entries of PYTHONPATH become absolute, the node runs in `/`."""
    environment = dict(os.environ)
    if "PYTHONPATH" in environment:
        entries = [os.path.abspath(p) for p in environment["PYTHONPATH"].split(os.pathsep) if p]
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    return environment
