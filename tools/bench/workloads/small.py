"""Small: 5,000 files of 10 KiB in 50 folders, from one provider to one getter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tools.bench.race import run_race
from tools.bench.settings import Settings

FILES_A_FOLDER = 100


def run(settings: Settings) -> dict[str, Any]:
    """Let everybody fetch them."""
    source = settings.place / "offered" / "small"
    write_small_files(source, settings.files, settings.file_bytes)
    facts = {"bytes": settings.files * settings.file_bytes, "files": settings.files}
    return run_race(settings, source, facts)


def write_small_files(target: Path, files: int, file_bytes: int) -> None:
    """Write files of random bytes, a hundred in a folder."""
    for number in range(files):
        folder = target / f"folder {number // FILES_A_FOLDER:04}"
        if number % FILES_A_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"file {number:06}").write_bytes(os.urandom(file_bytes))
