"""Rsync over ssh: an sshd with keys and a configuration of its own on loopback, one ssh connection kept open.

The connection is made before the clock (ControlMaster), as the others' sessions are; the clock is around
`rsync`, which starts its other end through it.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from pathlib import Path

from shoal.core.undo import undone_on_failure
from tools.bench.contenders.contender import (
    Contender,
    clean_environment,
    end_tree,
    free_port,
    need_program,
    wait_listening,
    wait_until,
)
from tools.bench.measuring import find_tree, read_processes

CIPHER = "aes128-gcm@openssh.com"  # the fastest of OpenSSH where the processor has AES
SETTLE_S = 10.0
SERVER = """\
ListenAddress 127.0.0.1:{port}
HostKey {root}/host_key
AuthorizedKeysFile {root}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Ciphers {cipher}
Compression no
"""
CLIENT = """\
Host sender
HostName 127.0.0.1
Port {port}
User {user}
IdentityFile {root}/user_key
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
GlobalKnownHostsFile /dev/null
LogLevel ERROR
ControlPath {control}/s
Ciphers {cipher}
Compression no
"""


class Rsync(Contender):
    """The receiver pulls; both rsyncs, both ends of ssh and their children are counted."""

    name = "rsync"
    how = f"over ssh with {CIPHER}, -a --whole-file, no compression; the connection is open before"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._rsync = need_program("rsync", "rsync")
        self._ssh = need_program("ssh", "openssh-client")
        server = need_program("sshd", "openssh-server")
        keygen = need_program("ssh-keygen", "openssh-client")
        for name in ("host_key", "user_key"):
            words = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(root / name)]
            subprocess.run(words, check=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root insists on it
        self._control = tempfile.TemporaryDirectory(prefix="bench-ssh-")  # a socket's path must be short
        port = free_port()
        facts = {
            "root": root,
            "port": port,
            "cipher": CIPHER,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "control": self._control.name,
        }
        (root / "sshd_config").write_text(SERVER.format(**facts))
        (root / "ssh_config").write_text(CLIENT.format(**facts))
        self._source = root
        with undone_on_failure(self.close):
            self._start(self.sender.pids, server, "-D", "-e", "-f", str(root / "sshd_config"))
            wait_listening(port, "sshd")
            self._start(self.receiver.pids, self._ssh, "-F", str(root / "ssh_config"), "-M", "-N", "sender")
            wait_until((Path(self._control.name) / "s").exists, "the ssh connection", 30.0)

    def offer(self, source: Path) -> None:
        self._source = source

    def fetch(self, into: Path) -> None:
        shell = f"{self._ssh} -F {self.root / 'ssh_config'}"
        words = [self._rsync, "-a", "--whole-file", "-e", shell, f"sender:{self._source}", f"{into}/"]
        process = subprocess.Popen(words, env=clean_environment(self.root))
        self.receiver.pids.append(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.receiver.pids.remove(process.pid)
        self.receiver.spent_s += used.ru_utime + used.ru_stime
        if process.returncode != 0:
            raise RuntimeError(f"rsync ended with {process.returncode}")

    def settle(self) -> None:
        """The sender's rsync has to end, so that its seconds are in its parent's."""

        def ended() -> bool:
            processes = read_processes()
            tree = {pid for root in self.sender.pids for pid in find_tree(root, processes)}
            return not any(_command(pid) == "rsync" for pid in tree)

        wait_until(ended, "the sender's rsync", SETTLE_S)

    def close(self) -> None:
        for end in (self.receiver, self.sender):
            for pid in end.pids:
                end_tree(pid)
            end.pids.clear()
        self._control.cleanup()

    def _start(self, pids: list[int], *words: str) -> None:
        with (self.root / "ssh.log").open("ab") as log:
            process = subprocess.Popen(
                words, env=clean_environment(self.root), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        pids.append(process.pid)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
