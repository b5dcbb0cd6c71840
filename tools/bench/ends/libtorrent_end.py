"""Libtorrent end: one end of the rival as a process of its own, told what to do by JSON lines.

TCP only (uTP off, which is far slower on loopback), no encryption, no DHT, LSD, UPnP, NAT-PMP; queues and
buffers as libtorrent's own high-performance preset has them, since its defaults are slower here. Runs in
.venv-bench, without anything of Shoal.

    {"do": "make", "path", "torrent", "version"}  -> {}       hashes a file or folder
    {"do": "seed", "path", "torrent", "version"}  -> {"port"}   hashes it, then seeds it
    {"do": "add", "torrent", "into", "peer"}      -> {}       when the seed is connected, nothing asked for
    {"do": "get"}                                 -> {}       when every file is verified and written
    {"do": "remove"}                              -> {}       forgets what it got; the files stay
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libtorrent as lt

POLL_S = 0.002
TIMEOUT_S = 600.0


def make_session() -> Any:
    """Return a session that speaks plain TCP on loopback."""
    settings = lt.high_performance_seed()
    settings.update(
        {
            "listen_interfaces": "127.0.0.1:0",
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "smooth_connects": False,
            "close_redundant_connections": False,
            "allow_multiple_connections_per_ip": True,
            "out_enc_policy": int(lt.enc_policy.pe_disabled),
            "in_enc_policy": int(lt.enc_policy.pe_disabled),
            "alert_mask": int(lt.alert.category_t.storage_notification),
        }
    )
    return lt.session(settings)


def make(command: dict[str, Any]) -> None:
    """Make a torrent, version 1 or 2, of a file or folder."""
    path = Path(command["path"])
    kind = lt.create_torrent.v1_only if command["version"] == 1 else lt.create_torrent.v2_only
    torrent = lt.create_torrent(lt.list_files(str(path)), 0, kind)
    lt.set_piece_hashes(torrent, str(path.parent))
    Path(command["torrent"]).write_bytes(lt.bencode(torrent.generate()))


def add(session: Any, torrent: str, folder: Path, flags: Any = 0) -> Any:
    """Add a torrent whose files are, or shall be, in `folder`, with flags besides the usual ones."""
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = str(folder)
    parameters.flags |= flags
    return session.add_torrent(parameters)


def seed(session: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Make a torrent and seed it."""
    make(command)
    wait_seeding(add(session, command["torrent"], Path(command["path"]).parent))
    return {"port": session.listen_port()}


def prepare(session: Any, command: dict[str, Any]) -> None:
    """Add a torrent in upload mode and connect to its seed: libtorrent connects only once a second."""
    handle = add(session, command["torrent"], Path(command["into"]), lt.torrent_flags.upload_mode)
    wait_until(lambda: handle.status().state == lt.torrent_status.states.downloading, "checking")
    handle.connect_peer(("127.0.0.1", command["peer"]))
    wait_until(lambda: any(peer.flags & peer.seed for peer in handle.get_peer_info()), "connecting")


def get(session: Any) -> None:
    """Fetch what was added; returns when all of it is verified and written."""
    (handle,) = session.get_torrents()
    handle.unset_flags(lt.torrent_flags.upload_mode)
    wait_seeding(handle)
    wait_flushed(session, handle)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition. Raises: TimeoutError."""
    limit = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"libtorrent: {what} took too long")
        time.sleep(POLL_S)


def wait_seeding(handle: Any) -> None:
    """Wait until a torrent has all its pieces. Raises: TimeoutError."""
    wait_until(lambda: bool(handle.status().is_seeding), "the torrent")


def wait_flushed(session: Any, handle: Any) -> None:
    """Wait until what was verified is also written. Raises: TimeoutError."""
    limit = time.monotonic() + TIMEOUT_S
    handle.flush_cache()
    while not any(isinstance(alert, lt.cache_flushed_alert) for alert in session.pop_alerts()):
        if time.monotonic() > limit:
            raise TimeoutError("libtorrent did not write all it had verified")
        session.wait_for_alert(10)


def main() -> int:
    """Serve commands from standard input until it ends."""
    session = make_session()
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        if command["do"] == "make":
            make(command)
        elif command["do"] == "seed":
            answer = seed(session, command)
        elif command["do"] == "add":
            prepare(session, command)
        elif command["do"] == "get":
            get(session)
        else:
            for handle in session.get_torrents():
                session.remove_torrent(handle)
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
