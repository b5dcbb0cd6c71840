"""NATs: machines behind routers of their own, on a pretended internet of network namespaces.

    with Internet(public=1, nats=[Nat.PORT, Nat.SYMMETRIC]) as net:
        subprocess.run([*net.public(0), "some", "program"])   # 198.51.100.1
        subprocess.run([*net.inner(1), "some", "program"])     # 10.2.0.2 behind 198.51.100.102

The routers are Linux with nftables: `masquerade` keeps the source port wherever it is free, so one port of
an inner machine has one mapping whatever it talks to (RFC 4787's endpoint-independent mapping, as long as
nobody else uses the port), and only who was talked to gets in (address- and port-dependent filtering); with
`fully-random` every connection gets another port, as in a symmetric NAT. Like home routers they drop what
comes unasked. Needs root, `ip` and `nft`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from enum import Enum
from types import TracebackType

from shoal.core.undo import undone_on_failure
from shoal.testing import namespaces
from shoal.testing.namespaces import Bridge

LAN = "lan0"


class Nat(Enum):
    """What a router does to connections from inside."""

    PORT = "masquerade"
    SYMMETRIC = "masquerade fully-random"
    NONE = "none"  # a router without NAT and without a firewall: the inner machine has a public address


def find_obstacle() -> str | None:
    """Return why there can be no such internet here, or None."""
    if shutil.which("nft") is None:
        return "the nft command (nftables) is not installed"
    return namespaces.find_obstacle()


class Internet:
    """`public` machines with public addresses, and one machine behind a router for each of `nats`."""

    def __init__(self, public: int, nats: Sequence[Nat]) -> None:
        self._public = public
        self._nats = list(nats)
        self.bridge = Bridge(public + 2 * len(nats))

    def __enter__(self) -> Internet:
        self.bridge.__enter__()
        with undone_on_failure(lambda: self.bridge.__exit__(None, None, None)):
            for machine in range(self._public):
                self.bridge.set_address(machine, f"{self.public_ip(machine)}/24")
            for site, nat in enumerate(self._nats):
                self._add_site(site, nat)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bridge.__exit__(kind, error, trace)

    def add_ipv6(self) -> None:
        """Give everybody public IPv6 addresses too. Routers do not translate them, but drop the unasked."""
        sites = range(len(self._nats))
        outside = [*range(self._public), *map(self._router, sites)]
        for machine in range(self._public):
            self.bridge.set_address(machine, f"2001:db8::{machine + 1}/64")
        for site in sites:
            router, inner = self._router(site), self._inner(site)
            self.bridge.set_address(router, f"2001:db8::{site + 101}/64")
            self.bridge.set_address(router, f"2001:db8:{site + 1}::1/64", LAN)
            self.bridge.set_address(inner, f"2001:db8:{site + 1}::2/64", LAN)
            self.bridge.run(inner, "ip", "-6", "route", "add", "default", "via", f"2001:db8:{site + 1}::1")
            self.bridge.run(router, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
            self._nft(
                router,
                "add table ip6 home\n"
                "add chain ip6 home through { type filter hook forward priority 0; policy accept; }\n"
                "add rule ip6 home through iifname eth0 ct state new drop\n"
                "add rule ip6 home through iifname eth0 ct state invalid drop\n",
            )
        for site in sites:
            for other in outside:
                if other != self._router(site):
                    way = ("via", f"2001:db8::{site + 101}")
                    self.bridge.run(other, "ip", "-6", "route", "add", f"2001:db8:{site + 1}::/64", *way)

    def public_ip(self, machine: int) -> str:
        """Return the address of a public machine."""
        return f"198.51.100.{machine + 1}"

    def router_ip(self, site: int) -> str:
        """Return the address of a site's router on the internet."""
        return f"198.51.100.{101 + site}"

    def inner_ipv6(self, site: int) -> str:
        """Return the IPv6 address of the machine behind a router, after `add_ipv6`."""
        return f"2001:db8:{site + 1}::2"

    def public(self, machine: int) -> list[str]:
        """Return the words before a command that make it run on a public machine."""
        return self.bridge.prefix(machine)

    def inner(self, site: int) -> list[str]:
        """Return the words before a command that make it run behind a router."""
        return self.bridge.prefix(self._inner(site))

    def cut(self, site: int, *others: str) -> None:
        """Let a site's router drop, without a word, everything from and to some addresses."""
        rules = ""
        for other in others:
            family = "ip6" if ":" in other else "ip"
            rules += f"add rule inet cut through {family} saddr {other} drop\n"
            rules += f"add rule inet cut through {family} daddr {other} drop\n"
        self._nft(
            self._router(site),
            "add table inet cut\n"
            "add chain inet cut through { type filter hook forward priority -10; policy accept; }\n" + rules,
        )

    def heal(self, site: int) -> None:
        """End what `cut` did."""
        self._nft(self._router(site), "delete table inet cut\n")

    def forward(self, site: int, port: int) -> None:
        """Let a site's router lead a port of its own to the machine behind it, as its owner would."""
        self._nft(
            self._router(site),
            "add chain ip home arriving { type nat hook prerouting priority -100; }\n"
            f"add rule ip home arriving iifname eth0 tcp dport {port} dnat to 10.{site + 1}.0.2\n"
            "insert rule ip home through ct status dnat accept\n",
        )

    def _router(self, site: int) -> int:
        return self._public + 2 * site

    def _inner(self, site: int) -> int:
        return self._public + 2 * site + 1

    def _add_site(self, site: int, nat: Nat) -> None:
        router, inner, bridge = self._router(site), self._inner(site), self.bridge
        lan = f"10.{site + 1}.0"
        bridge.set_plugged(inner, False)
        bridge.add_cable(router, inner, LAN)
        bridge.set_address(router, f"{self.router_ip(site)}/24")
        bridge.set_address(router, f"{lan}.1/24", LAN)
        bridge.set_address(inner, f"{lan}.2/24", LAN)
        bridge.run(inner, "ip", "route", "add", "default", "via", f"{lan}.1")
        bridge.run(router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        if nat is Nat.NONE:
            for other in [*range(self._public), *(self._router(s) for s in range(site))]:
                bridge.run(other, "ip", "route", "add", f"{lan}.0/24", "via", self.router_ip(site))
            return
        self._nft(
            router,
            "add table ip home\n"
            "add chain ip home leaving { type nat hook postrouting priority 100; }\n"
            f"add rule ip home leaving oifname eth0 {nat.value}\n"
            "add chain ip home inbound { type filter hook input priority 0; policy accept; }\n"
            "add rule ip home inbound iifname eth0 ct state new drop\n"
            "add chain ip home through { type filter hook forward priority 0; policy accept; }\n"
            "add rule ip home through iifname eth0 ct state new drop\n"
            "add rule ip home through iifname eth0 ct state invalid drop\n",
        )

    def _nft(self, machine: int, rules: str) -> None:
        self.bridge.run(machine, "sh", "-c", 'printf %s "$0" | nft -f -', rules)
