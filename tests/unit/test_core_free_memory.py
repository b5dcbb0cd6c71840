"""Free memory: what long work leaves is collected; what was there before is not looked at again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from shoal.core.free_memory import return_memory, settle_memory


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
