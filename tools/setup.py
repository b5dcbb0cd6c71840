"""Setup: makes the virtual environment that every `make` word uses, from the hashed lock file.

Runs on a bare python3 (3.11 or newer) with no third-party package. Safe to run again after an interruption.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "dev.lock"


def main(target: str) -> int:
    """Create `target`, install the pinned dependencies and the project itself (editable)."""
    if sys.version_info < (3, 11):
        print(
            f"Shoal needs Python 3.11 or newer; this is {sys.version.split()[0]}.\n"
            "Name a newer one: make PYTHON=python3.12 demo",
            file=sys.stderr,
        )
        return 3
    directory = ROOT / target
    print(f"Setting up {target} (once; a minute or two)", file=sys.stderr)
    try:
        venv.EnvBuilder(with_pip=True, upgrade_deps=False, clear=not _usable(directory)).create(directory)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Could not create {target}: {error}\nOn Debian: apt install python3-venv", file=sys.stderr)
        return 3
    pip = [str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    steps = [
        [*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)],
        [*pip, "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
    ]
    for step in steps:
        done = subprocess.run(step, check=False)
        if done.returncode != 0:
            print(
                "The package index did not give what the lock file names; see the lines above.",
                file=sys.stderr,
            )
            return done.returncode
    return 0


def _usable(directory: Path) -> bool:
    """Say whether an earlier environment there has the same Python as this one."""
    config = directory / "pyvenv.cfg"
    return config.exists() and f"version = {sys.version.split()[0]}" in config.read_text()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else ".venv"))
