"""Whether a process still runs."""

from __future__ import annotations

import os
import subprocess
import sys

from shoal.core.processes import is_alive


def test_a_process_runs_until_it_is_dead_even_if_nobody_has_waited_for_it() -> None:
    assert is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(process.pid)
    assert not is_alive(process.pid)
