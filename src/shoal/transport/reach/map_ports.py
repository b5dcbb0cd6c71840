"""Map ports: the short-lived process that asks a router, by UPnP-IGD, to open a port.

Run as `python -m shoal.transport.reach.map_ports`: one JSON order on standard input, one JSON answer on
standard output. It is a process of its own because the library is C that reads what any device of the
network answers, and blocks for seconds.
"""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any

DISCOVER_MS = 2000  # routers answer within one or two seconds
DESCRIPTION = "shoal"
ORDER_BYTES = 4096


def main() -> int:
    """Carry out one order; always answers with one line."""
    hook = _Faults()
    sys.excepthook = hook
    order = json.loads(sys.stdin.buffer.readline(ORDER_BYTES))
    answer = carry_out(order["action"], int(order["port"]), int(order["lease_s"]), hook)
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def carry_out(action: str, port: int, lease_s: int, faults: _Faults) -> dict[str, Any]:
    """Open (`map`, or `map any` where that port is taken) or close (`unmap`) a port on this network's router.

    Raises: what the library does: a bare Exception.
    """
    faults.about = "the library miniupnpc cannot be used"
    import miniupnpc

    faults.about, faults.code = "no router answered that opens ports by UPnP", "no_router"
    gateway = miniupnpc.UPnP()
    gateway.discoverdelay = DISCOVER_MS
    gateway.discover()
    gateway.selectigd()
    faults.about, faults.code = "the router refused", "refused"
    if action == "unmap":
        gateway.deleteportmapping(port, "TCP")
        return {"port": port}
    outside = gateway.externalipaddress()
    words = (port, "TCP", gateway.lanaddr, port, DESCRIPTION, "", lease_s)
    mapped = port
    if action == "map any":
        mapped = int(gateway.addanyportmapping(*words))
    else:
        gateway.addportmapping(*words)
    return {"ip": outside, "port": mapped}


class _Faults:
    """The interpreter's last hook: what the library raised becomes the answer."""

    def __init__(self) -> None:
        self.about = "the order was not understood"
        self.code = "upnp"

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        why = str(error)
        # the library says "Success" where nobody has answered
        text = self.about if why in ("", "Success") else f"{self.about}: {why}"
        sys.stdout.write(json.dumps({"error": text, "code": self.code}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
