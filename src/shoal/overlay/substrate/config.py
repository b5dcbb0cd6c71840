"""Config: the constants of the substrate, and where each comes from. See docs/overlay/ for why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ViewsConfig:
    """HyParView (Leitao, Pereira, Rodrigues 2007), section 5.1: 10,000 nodes, fan-out 4."""

    active: int = 5  # fan-out + 1
    passive: int = 30
    active_walk: int = 6  # hops of a newcomer's walk until somebody takes it into its active view
    passive_walk: int = 3  # hops to go at which it is put into a passive view
    shuffle_active: int = 3  # of the active view in one shuffle
    shuffle_passive: int = 4  # of the passive view
    shuffle_s: float = 60.0  # overlay.md
    refill_s: float = 10.0  # between rounds of filling places that nobody has taken; wild guess
    tries: int = 4  # wishes more in a round when the first are denied; the paper asks the whole passive view
    urgent_below: float = 0.5  # of the active view: wishes are urgent; 0: without neighbours only (the paper)
    reserved: int = 1  # places beside the active ones, for links to another part of the network; merge.py
    evict_s: float = (
        0.0  # between two links that give way to who was not wished for; 0: always, as in the paper
    )
    anchors: int = 0  # places for peers that chance alone has chosen, so that no liar can; views.py. 0: none
    answer_s: float = 5.0  # a peer that was asked to be a neighbour and says nothing; a dial's time-out


@dataclass(frozen=True, slots=True)
class BroadcastConfig:
    """Plumtree (Leitao, Pereira, Rodrigues 2007, "Epidemic Broadcast Trees")."""

    threshold: int = 7  # hops a lazy link must be shorter by to take an eager one's place; paper section 4.2
    graft_s: float = 0.080  # from the first word of a message to asking for it; overlay.md
    graft_again_s: float = 0.040  # until the next one who has it is asked; overlay.md
    cache_s: float = 30.0  # a message can be asked for this long
    ids_s: float = 90.0  # a message is known to have been here this long
    cache_messages: int = 4096
    cache_bytes: int = 4 * 2**20
    ids: int = 65_536
    missing: int = 4096  # messages that were heard of and have not come
    sources: int = 8  # of one missing message: the active view and some
    # words are cheap and unsigned: a neighbour is asked for so many broadcasts until some have come, from
    # anybody; who breaks more than so many such promises in a minute is not listened to for one. A list of 64
    # cost 64 questions before; 16 still mend a gap of a second at the rate that a session allows (15/s)
    owed: int = 16
    promise_s: float = 5.0  # two slow round trips; wild guess
    broken: int = 5  # security.md section 4, D19
    unheard_s: float = 60.0
    tellers: int = 256  # neighbours of whom that is remembered: no more than a mesh can have
    repair_s: float = 10.0  # between two lists of what is cached, to one neighbour: three before it is gone
    repair_ids: int = 64  # in one list, newest first
    under_way_s: float = 2.0  # a list that lacks something younger says nothing: it is on its way there
    eager_only: bool = False  # flood, for comparison: nobody is pruned


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2018, arXiv:1707.00788)."""

    period_s: float = 1.0  # between two probes; Lifeguard section V
    answer_s: float = 0.5  # to wait for an answer before others are asked; Lifeguard section V
    helpers: int = 3  # asked to probe in our place; SWIM section 5, k
    suspicion_min: float = 5.0  # x log10(members) periods; Lifeguard's alpha
    suspicion_max: float = 6.0  # x the smallest; Lifeguard's beta
    confirmations: int = 3  # independent suspicions until the smallest time-out; Lifeguard's K
    health_limit: int = 8  # Lifeguard's S
    silence_share: float = 0.8  # of the answer time after which a helper says that there is silence
    spread: float = 4.0  # x log10(members) times an update rides; memberlist's retransmit factor
    updates: int = 8  # on one message
    lifeguard: bool = True  # otherwise plain SWIM, for comparison


@dataclass(frozen=True, slots=True)
class MergeConfig:
    """How two parts of a split network find each other; overlay.md, "Re-merge"."""

    period_s: float = 60.0  # in which about sqrt(N) nodes ask somebody outside their view; overlay.md
    beacons: float = 2.0  # broadcast in a period by all of the network's nodes together; wild guess
    settled_s: float = 45.0  # a beacon that came later says nothing: word of a first bridge is not proof
    apart_s: float = 2.0  # between two that are kept: a flood of 32 takes longer than settled_s
    kept: int = 32  # newest beacons
    # of beacons that one neighbour brings, a second and at once: nobody signs them, so anybody could make the
    # whole network pass on as many as it sends. All nodes together send one in 30 s
    accepted_s: float = 0.1
    accepted_burst: float = 6.0
    senders: int = 64  # whose allowance is remembered, least recently heard of forgotten


@dataclass(frozen=True, slots=True)
class SizeConfig:
    """Averaging (Jelasity, Montresor, Babaoglu 2005, "Gossip-based aggregation in dynamic networks")."""

    cycle_s: float = 10.0
    cycles: int = (
        60  # of an epoch; over five fixed neighbours values mix slower than the paper's 0.3033 a cycle
    )
    leaders: float = 4.0  # of an epoch, on average; paper section 5, several make the estimate robust
    leaders_limit: int = 16


@dataclass(frozen=True, slots=True)
class SubstrateConfig:
    """All of it."""

    merge: MergeConfig = field(default_factory=MergeConfig)

    # twice Lifeguard's period: who is gone is noticed in 10 s, for 150 bytes a second
    detector: DetectorConfig = field(default_factory=lambda: DetectorConfig(period_s=2.0, answer_s=1.0))
    detects: bool = True
    size: SizeConfig = field(default_factory=SizeConfig)
    estimates: bool = True

    views: ViewsConfig = field(default_factory=ViewsConfig)
    broadcast: BroadcastConfig = field(default_factory=BroadcastConfig)


# what a node runs: the papers' rules and a bound for who pushes itself into a view
LIVE = SubstrateConfig(views=ViewsConfig(evict_s=10.0, anchors=3, urgent_below=0.0))
