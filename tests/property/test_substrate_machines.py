"""Substrate machines: no order of messages, however false, breaks what must hold of a node."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.substrate_world import ME, peer

from shoal.core.chance import Chance
from shoal.overlay.substrate import messages as m
from shoal.overlay.substrate.config import LIVE, SubstrateConfig
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.steps import (
    Broadcast,
    Cancel,
    Connect,
    Disconnect,
    Input,
    Received,
    Send,
    SessionDown,
    SetTimer,
    Started,
    Timer,
    Token,
)
from shoal.sim.checks import find_broken

PEERS = st.one_of(st.integers(0, 12).map(peer), st.just(ME))
IDENTIFIERS = st.integers(0, 6).map(lambda number: number.to_bytes(16, "big"))
HOPS = st.integers(0, 16)
WORDS = st.lists(st.tuples(IDENTIFIERS, st.integers(0, 64)), min_size=1, max_size=64)
EPOCHS = st.one_of(st.integers(0, 2), st.sampled_from([2**31, 2**32 - 1]))
LEADERS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda number: number.to_bytes(8, "big")), st.floats(0, 1)),
    max_size=16,
    unique_by=lambda x: x[0],
)
INCARNATIONS = st.one_of(st.integers(0, 2), st.integers(0, 2**32 - 1), st.just(2**32 - 1))
UPDATES = st.lists(st.builds(m.Update, PEERS, st.integers(1, 3), INCARNATIONS, PEERS), max_size=8)
NUMBERS = st.integers(0, 40)

MESSAGES = st.one_of(
    st.just(m.Join()),
    st.builds(m.ForwardJoin, PEERS, HOPS),
    st.builds(m.Neighbour, st.booleans()),
    st.builds(m.NeighbourAnswer, st.booleans()),
    st.builds(m.Part, st.booleans()),
    st.builds(m.Shuffle, PEERS, HOPS, st.lists(PEERS, max_size=16)),
    st.builds(m.ShuffleAnswer, st.lists(PEERS, max_size=16)),
    st.builds(m.Gossip, IDENTIFIERS, st.integers(0, 64), st.just(1), st.just(b"")),
    WORDS.map(lambda words: m.IHave([word[0] for word in words], [word[1] for word in words])),
    WORDS.map(lambda words: m.Cached([word[0] for word in words], [word[1] for word in words])),
    st.builds(m.Graft, st.one_of(IDENTIFIERS, st.just(b"")), HOPS),
    st.just(m.Prune()),
    st.builds(m.PartProbe, st.lists(IDENTIFIERS, min_size=1, max_size=16)),
    st.builds(m.PartAnswer, st.lists(IDENTIFIERS, min_size=1, max_size=16)),
    st.builds(m.Bridge, st.booleans()),
    st.builds(
        lambda epoch, pairs: m.SizePush(epoch, [p[0] for p in pairs], [p[1] for p in pairs]), EPOCHS, LEADERS
    ),
    st.builds(
        lambda epoch, sign, pairs: m.SizePull(epoch, [p[0] for p in pairs], [sign * p[1] for p in pairs]),
        EPOCHS,
        st.sampled_from([-1, 1]),
        LEADERS,
    ),
    st.builds(m.Probe, NUMBERS, UPDATES),
    st.builds(m.ProbeAnswer, NUMBERS, UPDATES),
    st.builds(m.ProbeFor, NUMBERS, PEERS, UPDATES),
    st.builds(m.ProbeSilence, NUMBERS),
)
EVENTS = st.one_of(
    st.builds(Received, PEERS.filter(lambda one: one != ME), MESSAGES),
    st.builds(
        SessionDown, PEERS, st.sampled_from(["reset", "idle", "unreachable", "evicted", "left", "banned"])
    ),
    st.builds(Broadcast, IDENTIFIERS, st.just(1), st.just(b"")),
    st.none(),  # the next timer
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([SubstrateConfig(), LIVE]),
    st.lists(st.tuples(EVENTS, st.floats(0, 30)), min_size=1, max_size=80),
)
def test_what_must_hold_holds(config: SubstrateConfig, events: list[tuple[Input | None, float]]) -> None:
    machine = SubstrateMachine(ME, config, Chance(1))
    machine.tell_members(13, lambda: peer(7))
    now, timers, linked = 0.0, dict[Token, float](), set[bytes]()
    for event, wait_s in [(Started((peer(1), ME, peer(2))), 0.0), *events]:
        now += wait_s
        if event is None:
            if not timers:
                continue
            token = min(timers, key=lambda one: (timers[one], repr(one)))
            now = max(now, timers.pop(token))
            event = Timer(token)
        for effect in machine.step(now, event):
            match effect:
                case SetTimer(at, token):
                    assert at >= now - 1e-9
                    timers[token] = at
                case Cancel(token):
                    timers.pop(token, None)
                case Connect(other):
                    assert other != ME
                    linked.add(other)
                case Disconnect(other, _):
                    linked.remove(other)
                case Send(_, message):
                    m.check(message)  # what breaks a limit is its sender's fault, whoever made it send that
                case _:
                    pass
        assert find_broken(ME, config, machine) == []
        assert linked == set(machine.views.active)
