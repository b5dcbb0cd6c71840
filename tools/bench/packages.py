"""Packages: the rivals from where people get them, a locked environment of their own and Debian.

`make bench` makes .venv-bench; Debian's packages are installed only when asked for (`--install`), and no
installed service is started: the bench runs its own instances on loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.bench.contenders.contender import RIVALS_PYTHON, ROOT, Absent, need_program

LOCK = ROOT / "requirements" / "bench.lock"
DEBIAN = {
    "syncthing": "syncthing",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}
POLICY = Path("/usr/sbin/policy-rc.d")  # Debian's way to say that nothing is started
REFUSE_ALL = "#!/bin/sh\nexit 101\n"


def make_environment(say: Callable[[str], None]) -> None:
    """Make .venv-bench from the lock if it is older; without an index the rivals in it are skipped."""
    directory = RIVALS_PYTHON.parent.parent
    ready = directory / ".ready"
    if ready.exists() and ready.stat().st_mtime >= LOCK.stat().st_mtime:
        return
    say("setting up .venv-bench (once)")
    try:
        venv.EnvBuilder(with_pip=True, clear=True).create(directory)
        words = ["install", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
        pip = [str(RIVALS_PYTHON), "-m", "pip", "--disable-pip-version-check", "-qq"]
        subprocess.run([*pip, *words], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"libtorrent and magic-wormhole cannot be had: {error}")
        return
    ready.touch()


def install_debian(say: Callable[[str], None]) -> None:
    """Install what is missing of Debian's packages; a word instead where that cannot be done."""
    missing = [package for program, package in DEBIAN.items() if not _has(program)]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say(f"missing: {' '.join(missing)}; only root with apt-get can install them")
        return
    say(f"installing {' '.join(missing)}")
    apt = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", *missing]
    with _no_service_starts():
        done = subprocess.run(
            apt, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdout=sys.stderr, check=False
        )
    if done.returncode != 0:
        say("apt-get could not install them")
    elif "openssh-server" in missing and shutil.which("systemctl"):
        subprocess.run(["systemctl", "--quiet", "disable", "ssh"], check=False)


def _has(program: str) -> bool:
    try:
        need_program(program, "")
    except Absent:
        return False
    return True


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep packages from starting what they install; a policy that is there already stays."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(REFUSE_ALL)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
