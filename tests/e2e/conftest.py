"""Fixtures of the end-to-end tests: devices as real processes, each in a directory of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shoal.testing.processes import CommandFailed, Device

MakeDevice = Callable[..., Device]
MakeNetwork = Callable[..., list[Device]]


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_ends_commands() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored, and each command would inherit that."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until a condition holds. Raises: TimeoutError."""
    limit = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.1)


def code_of(failed: pytest.ExceptionInfo[CommandFailed]) -> tuple[int, str]:
    """Return exit code and code word of a failed command, after looking at the error itself."""
    error = failed.value.error
    assert set(error) == {"code", "message", "cause", "next_step"}
    assert error["message"]
    assert error["cause"]
    assert error["next_step"]
    assert "Traceback" not in failed.value.stderr
    return failed.value.code, error["code"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[MakeDevice]:
    """Make devices by name; whatever still runs at the end is ended by its process id."""
    with ExitStack() as stack:

        def make(name: str, listen: str = "127.0.0.1:0") -> Device:
            return stack.enter_context(Device(tmp_path / name, name, listen=listen))

        yield make


@pytest.fixture
def network(device: MakeDevice) -> MakeNetwork:
    """Make a running network of devices by name; the first one owns it. All are connected on return."""

    def make(*names: str) -> list[Device]:
        devices = [device(name) for name in names]
        devices[0].up()
        for joiner in devices[1:]:
            joiner.join(devices[0].run("invite")["ticket"])
        for each in devices:
            each.wait_peers(len(devices) - 1)
        return devices

    return make
