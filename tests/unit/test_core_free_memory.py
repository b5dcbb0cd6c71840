"""Free memory: what long work leaves is collected; what was there before is not looked at again."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from shoal.core.free_memory import KEPT_FREE_BYTES, return_memory, settle_memory


class Knot:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("no_collections")
def test_cycles_that_work_leaves_are_freed() -> None:
    gone = weakref.ref(Knot())
    assert gone() is not None
    return_memory()
    assert gone() is None


@pytest.mark.usefixtures("no_collections")
def test_what_is_there_to_stay_is_not_looked_at_again() -> None:
    garbage = weakref.ref(Knot())
    settle_memory()
    assert garbage() is None  # it was collected first
    assert gc.get_freeze_count() > 0
    kept = Knot()
    gone = weakref.ref(kept)
    gc.freeze()
    del kept
    return_memory()
    assert gone() is not None


LARGE_BUFFERS_IN_THREADS = """
import threading
from shoal.core.free_memory import KEPT_FREE_BYTES, bound_free_memory, return_memory

def held():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty:"))

def work():
    for _ in range(4):
        bytearray(3 * KEPT_FREE_BYTES)[::4096] = bytes(3 * KEPT_FREE_BYTES // 4096)

bound_free_memory()
before = held()
for _ in range(3):
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
return_memory()
print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
def test_large_buffers_of_threads_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE_BUFFERS_IN_THREADS],
        capture_output=True,
        text=True,
        check=True,
        timeout=30.0,
    )
    assert int(done.stdout) < KEPT_FREE_BYTES
