"""Diagnosis: what only a running node can find out about itself."""

from __future__ import annotations

import asyncio
import os

from shoal.api.schema import Check, Reach, Report
from shoal.core.units import count_of, format_duration, format_rate, format_size
from shoal.node.parts import Parts
from shoal.transport.interfaces import list_interface_addresses
from shoal.transport.reach.standing import UNDIALLED

LAG_WARN_S = 0.25  # security.md, D26
LAG_PROBE_S = 0.05
DENIERS_SHOWN = 3  # names in a line
CLOCK_SKEW_WARN_S = 60.0  # security.md, D23


async def diagnose(parts: Parts) -> Report:
    """Look at sessions, services, the loop and what was observed. Takes LAG_PROBE_S."""
    checks = [
        _check_sessions(parts),
        _check_clock(parts),
        _check_listening(parts),
        _check_reach(parts),
        _check_ipv6(parts),
        *_check_mapping(parts),
        *_check_relay(parts),
        _check_services(parts),
        _check_lanes(parts),
        _check_limits(parts),
        await _check_lag(),
        _check_descriptors(),
        _check_observed(parts),
    ]
    return Report(
        checks=checks,
        stages=parts.swarm.stage_seconds(),
        lane_buffer_bytes=parts.lanes.buffer_bytes,
        lane_buffer_limit_bytes=parts.lanes.memory_bytes,
    )


def _check_sessions(parts: Parts) -> Check:
    network = parts.network
    if network.is_out or network.is_blocked:
        return Check(
            "sessions",
            "fail",
            "this device opens none: it is no member, or blocked",
            "see the notice in: shoal status",
        )
    expected = len(network.active_members()) - 1
    have = len(parts.transport.sessions())
    text = f"{have} of {expected} members are connected"
    denial = describe_denial(parts)
    if denial is not None:
        return Check("sessions", "warn", f"{text}; {denial}", "ask at one of them: shoal members")
    if expected and not have:
        return Check("sessions", "warn", text, "see why: shoal ping NAME")
    return Check("sessions", "ok", text)


def describe_denial(parts: Parts) -> str | None:
    """Return who says that this device is no member, where it has no session at all; else None.

    A device that was removed while it was away is told so by nobody: those who know refuse it at its hello.
    One that was just admitted may meet only such as have not heard of it yet.
    """
    if parts.transport.sessions():
        return None
    members = parts.network.state.members
    deniers = [p.peer_id for p in parts.overlay.peers_status() if p.denies_us]
    names = sorted(members[x].name for x in deniers if x in members)
    if not names:
        return None
    more = f" and {len(names) - DENIERS_SHOWN} more" if len(names) > DENIERS_SHOWN else ""
    word = "does" if len(names) == 1 else "do"
    return (
        f"{', '.join(names[:DENIERS_SHOWN])}{more} {word} not know this device as a member: it was removed "
        "while it was away, or was just admitted and they have not heard of it"
    )


def _check_clock(parts: Parts) -> Check:
    """Compare with the clocks of connected peers: most of them agree that this one is wrong, or one is."""
    members = parts.network.state.members
    skews = [
        (session.clock_skew_s, members[session.peer_id].name)
        for session in parts.transport.sessions()
        if session.clock_skew_s is not None and session.peer_id in members
    ]
    if not skews:
        return Check("clocks", "ok", "no peer has told the time yet")
    off = sorted((x for x in skews if abs(x[0]) > CLOCK_SKEW_WARN_S), key=lambda x: -abs(x[0]))
    if not off:
        return Check("clocks", "ok", f"agrees with {count_of(len(skews), 'peer')}")
    skew, name = off[0]
    text = f"{format_duration(abs(skew))} {'behind' if skew > 0 else 'ahead of'} the clock of {name}"
    if len(off) == len(skews) > 1:
        text += f", and {len(off) - 1} more {'differs' if len(off) == 2 else 'differ'}"
    step = "set the right time on the machine that is wrong; nothing but dates and expiry depends on it"
    return Check("clocks", "warn", text, step)


def _check_listening(parts: Parts) -> Check:
    addresses = parts.transport.listen_addresses
    if not addresses:
        return Check(
            "listening", "fail", "nowhere", "see what uses the port, or set another: config set listen"
        )
    return Check("listening", "ok", ", ".join(map(str, addresses)))


def describe_reach(parts: Parts) -> Reach:
    """Return how this node can be reached, and what to change where that is badly."""
    found = parts.reach.prober.standing()
    port = next((a.port for a in parts.transport.listen_addresses if not a.is_loopback), 0)
    mapper = parts.mapper
    step = ""
    if port and found.state in ("nat", "symmetric"):
        router = f"in the router forward TCP port {port} to this machine"
        step = f"{router}, or try: shoal up --upnp" if mapper is None else router
    elif port and found.state == "blocked":
        step = f"allow TCP port {port} for incoming connections in this machine's firewall"
    return Reach(
        state=found.state,
        asked=found.witnesses,
        reached_by=found.reached_by,
        observed=list(found.observed),
        mapped=str(mapper.address) if mapper is not None and mapper.address is not None else None,
        next_step=step,
    )


_REACH_WORDS = {
    "public": "others can dial this device",
    "local": "others in this network can dial this device; nobody outside of it was asked",
    "nat": "behind a NAT: reached by hole punching where it keeps ports, or over a relay",
    "symmetric": "behind a symmetric NAT: reached only by who can be dialled, and over a relay",
    "blocked": "no NAT, but a firewall keeps others out",
    "unknown": "no peer on another machine has been asked yet",
}


def _check_reach(parts: Parts) -> Check:
    reach = describe_reach(parts)
    text = _REACH_WORDS[reach.state]
    if reach.asked:
        text += f" ({reach.reached_by} of {count_of(reach.asked, 'peer')} got through)"
    if reach.observed and reach.state != "public":
        text += f"; they see {', '.join(reach.observed[:3])}"
    relayed = sum(session.relay is not None for session in parts.transport.sessions())
    if relayed:
        text += f"; {relayed} of {len(parts.transport.sessions())} sessions are relayed"
    step = reach.next_step
    if reach.state in UNDIALLED and not parts.overlay.find_relays():
        text += "; there is no session with a relay: invites work in this network only"
        step += "; or run shoal up --relay on a member that others can dial"
    return Check("reachable", "warn" if step else "ok", text, step)


def _check_ipv6(parts: Parts) -> Check:
    """Say whether others could come over IPv6; whether a firewall lets them only `reachable` can tell."""
    sixes = [a.ip for a in list_interface_addresses() if a.literal.version == 6 and a.literal.is_global]
    listens = any(a.ip is not None and a.ip.version == 6 for a in parts.transport.listen_addresses)
    if not sixes:
        return Check("ipv6", "ok", "this machine has no public IPv6 address: others come over IPv4")
    if not listens:
        port = next((a.port for a in parts.transport.listen_addresses), 0)
        step = f"shoal config set listen 0.0.0.0:{port},[::]:{port}"
        return Check("ipv6", "warn", f"this machine has {sixes[0]}, but the node listens on IPv4 only", step)
    return Check("ipv6", "ok", f"others can try {sixes[0]}")


def _check_mapping(parts: Parts) -> list[Check]:
    mapper = parts.mapper
    if mapper is None:
        return []
    if mapper.address is not None:
        return [Check("port mapping", "ok", f"the router leads {mapper.address} here, by {mapper.protocol}")]
    if not mapper.error:
        return [Check("port mapping", "ok", "the router is being asked")]
    step = "switch UPnP, NAT-PMP or PCP on in the router, or forward the port there by hand"
    if "another NAT" in mapper.error:
        step = "ask the provider for a public address, or let the outer router forward the port too"
    return [Check("port mapping", "warn", mapper.error, step)]


def _check_relay(parts: Parts) -> list[Check]:
    relay = parts.reach.relay
    if relay is None:
        return []
    status = relay.status()
    day = status.limits.day_bytes
    moved = format_size(status.day_bytes) + (f" of {format_size(day)}" if day is not None else "") + " today"
    text = f"{status.streams} of {status.limits.streams} streams, {moved}, {status.refused} refused"
    text += f", {status.guests} of {status.limits.guests} newcomers"
    if parts.reach.prober.standing().state in ("nat", "symmetric", "blocked"):
        return [Check("relay", "warn", text, "others cannot dial this device: see `reachable`")]
    return [Check("relay", "ok", text)]


def _check_services(parts: Parts) -> Check:
    failing = [x for x in parts.base.supervisor.status() if x.last_error]
    if failing:
        text = "; ".join(
            f"{x.name} failed {count_of(x.restarts, 'time')}, last: {x.last_error}" for x in failing
        )
        return Check("services", "warn", text, "see the log file in the home's folder log")
    return Check("services", "ok", f"{len(parts.base.supervisor.status())} run")


def _check_lanes(parts: Parts) -> Check:
    lanes = parts.lanes
    text = (
        f"{lanes.lane_count} open, with {format_size(lanes.buffer_bytes)} of buffers "
        f"of at most {format_size(lanes.memory_bytes)}"
    )
    if parts.base.observe.counts.get("lane_memory"):
        step = "if that was in the way, allow more: memory in [limits] of config.toml"
        return Check("lanes", "warn", text + "; some had to wait for memory", step)
    return Check("lanes", "ok", text)


def _check_limits(parts: Parts) -> Check:
    status = parts.limiter.status()
    text = ", ".join(f"{d} {format_rate(x.rate_bytes_s)} ({x.source.value})" for d, x in status.total.items())
    if status.unknown:
        step = "correct the name in [limits.peers] of config.toml, or wait until it has joined"
        return Check("limits", "warn", f"{text}; no member is named {', '.join(status.unknown)}", step)
    return Check("limits", "ok", text)


async def _check_lag() -> Check:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(LAG_PROBE_S)
    lag = loop.time() - before - LAG_PROBE_S
    if lag > LAG_WARN_S:
        return Check("loop", "warn", f"late by {lag:.2f} s", "this machine is busy; sessions may break")
    return Check("loop", "ok", f"late by {max(lag, 0) * 1000:.0f} ms")


def _check_descriptors() -> Check:
    for directory in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(directory):
            return Check("descriptors", "ok", f"{len(os.listdir(directory))} open")
    return Check("descriptors", "ok", "not counted on this system")


def _check_observed(parts: Parts) -> Check:
    counts = sorted(parts.base.observe.counts.items(), key=lambda item: -item[1])
    if not counts:
        return Check("observed", "ok", "nothing unusual")
    return Check("observed", "ok", ", ".join(f"{rule} {count}" for rule, count in counts[:6]))
