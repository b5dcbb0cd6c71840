"""Tree watch: notices that something below some paths changed, not what; whoever is told looks for himself.

The system's own notices (inotify, FSEvents) through watchfiles, which drops in Rust what nobody needs: 10,000
small writes cost 0.2-0.9 s of CPU here, 2.3 s as Python objects of watchdog, which also makes two for every
file that is only read. A name that is not UTF-8 is an error there: it counts as a change, and the watch
begins anew.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from watchfiles import Change, watch

log = logging.getLogger("shoal.storage")

STEP_MS: Final = 100  # how often the system's notices are collected
TURN_MS: Final = 300  # how often the thread looks up
RETRY_S: Final = 30.0  # before a watch that could not be set up is tried again, sooner if its folders changed
CLOSE_TIMEOUT_S: Final = 1.5


class TreeWatch:
    """Watches folders with all that is in them, and single files. Inert until `start`; `close` ends it.

    `on_change()` is called by threads of its own, at most every STEP_MS each, and once when a watch stands
    (what changed before went unseen). `on_state(why)` says why something is not noticed now, or "" once all
    is.
    """

    def __init__(
        self, paths: Sequence[bytes], on_change: Callable[[], None], on_state: Callable[[str], None]
    ) -> None:
        self._on_change = on_change
        self._on_state = on_state
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._faults: dict[bool, str] = {}
        folders = [path for path in paths if os.path.isdir(path)]
        files = [path for path in paths if path not in folders]
        self._threads = [
            threading.Thread(target=self._run, args=(group, recursive), name="shoal-watch", daemon=True)
            for group, recursive in ((folders, True), (files, False))
            if group
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop; idempotent, at most CLOSE_TIMEOUT_S. Nobody is called afterwards."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(CLOSE_TIMEOUT_S)

    def _run(self, paths: list[bytes], recursive: bool) -> None:
        forgive = False  # folders that may not be read; the library then also passes over a limit in silence
        while not self._stop.is_set():
            try:
                self._watch_once(paths, recursive, forgive)
            except PermissionError as error:
                if not forgive:
                    forgive = True
                    continue
                self._set_state(recursive, _explain(error))
                self._pause(paths)
            except (OSError, RuntimeError, ValueError) as error:  # that is what the library raises
                if "Unable to decode path" in str(error):
                    self._tell()
                    continue
                log.info("watching %r failed: %s", paths[:3], error)
                self._set_state(recursive, _explain(error))
                self._pause(paths)

    def _watch_once(self, paths: list[bytes], recursive: bool, forgive: bool) -> None:
        """Watch until another folder has one of our names. Raises: OSError, RuntimeError, ValueError."""
        names = {os.path.basename(os.fsdecode(path)) for path in paths}
        watched = [os.path.realpath(path) for path in paths]
        if not recursive:  # programs replace a file when they save it: its folder has to be watched
            watched = sorted({os.path.dirname(path) for path in watched})
        marks = _mark(watched)
        if None in marks:  # the library may say nothing
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

        def is_ours(change: Change, path: str) -> bool:
            return os.path.basename(path) in names

        stands = False
        for changes in watch(
            *map(os.fsdecode, watched),
            watch_filter=None if recursive else is_ours,
            debounce=STEP_MS,
            step=STEP_MS,
            stop_event=self._stop,
            rust_timeout=TURN_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=recursive,
            ignore_permission_denied=forgive,
        ):
            if not stands:
                self._set_state(recursive, "")
            if changes or not stands:
                self._tell()
            stands = True
            if _mark(watched) != marks:
                self._tell()
                return

    def _pause(self, paths: list[bytes]) -> None:
        marks = _mark(paths)
        for _ in range(int(RETRY_S * 1000 / TURN_MS)):
            if self._stop.wait(TURN_MS / 1000) or _mark(paths) != marks:
                return

    def _tell(self) -> None:
        if not self._stop.is_set():
            self._on_change()

    def _set_state(self, group: bool, why: str) -> None:
        with self._lock:
            self._faults[group] = why
            text = "; ".join(sorted({why for why in self._faults.values() if why}))
        if not self._stop.is_set():
            self._on_state(text)


def _mark(paths: Sequence[bytes]) -> list[tuple[int, int] | None]:
    """Return which folder has each path's name now."""
    marks: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            info = os.stat(path)
        except OSError:
            marks.append(None)
        else:
            marks.append((info.st_dev, info.st_ino))
    return marks


def _explain(error: Exception) -> str:
    text = str(error)
    if "limit" in text:
        return "the system allows no more watches (Linux: raise fs.inotify.max_user_watches)"
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, UnicodeError):
        return "its path is not UTF-8"
    return text[:200]
