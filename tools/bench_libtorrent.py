"""Bench libtorrent: the rival's two ends as processes of their own, told what to do by JSON lines.

TCP only (uTP off, which is far slower on loopback), no encryption, v2 torrents, no DHT, LSD, UPnP, NAT-PMP;
queues and buffers as libtorrent's own high-performance preset has them, since its defaults are slower here.

    seed   {"make": path, "torrent": path}      -> {"port"}        hashes the file, then seeds it
    get    {"torrent": path, "into": path, "peer": port}  -> {"done"}   when every file is complete on disk
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

POLL_S = 0.002
TIMEOUT_S = 300.0


def make_session(port: int) -> Any:
    """Return a session that speaks plain TCP on loopback."""
    settings = lt.high_performance_seed()
    settings.update(
        {
            "listen_interfaces": f"127.0.0.1:{port}",
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "allow_multiple_connections_per_ip": True,
            "out_enc_policy": int(lt.enc_policy.pe_disabled),
            "in_enc_policy": int(lt.enc_policy.pe_disabled),
            "alert_mask": int(lt.alert.category_t.storage_notification),
        }
    )
    return lt.session(settings)


def seed(session: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Make a v2 torrent of one file and seed it."""
    path = Path(command["make"])
    torrent = lt.create_torrent(lt.list_files(str(path)), 0, lt.create_torrent.v2_only)
    lt.set_piece_hashes(torrent, str(path.parent))
    Path(command["torrent"]).write_bytes(lt.bencode(torrent.generate()))
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(command["torrent"])
    parameters.save_path = str(path.parent)
    handle = session.add_torrent(parameters)
    wait_seeding(handle)
    return {"port": session.listen_port()}


def get(session: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Fetch a torrent from one peer; answers when all of it is verified and written."""
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(command["torrent"])
    parameters.save_path = command["into"]
    handle = session.add_torrent(parameters)
    handle.connect_peer(("127.0.0.1", command["peer"]))
    wait_seeding(handle)
    wait_flushed(session, handle)
    session.remove_torrent(handle)  # closes its files; what was fetched stays
    return {"done": True}


def wait_seeding(handle: Any) -> None:
    """Wait until a torrent has all its pieces. Raises: TimeoutError."""
    limit = time.monotonic() + TIMEOUT_S
    while not handle.status().is_seeding:
        if time.monotonic() > limit:
            raise TimeoutError(f"libtorrent did not finish: {handle.status().state}")
        time.sleep(POLL_S)


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
    session = make_session(int(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = seed(session, command) if "make" in command else get(session, command)
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
