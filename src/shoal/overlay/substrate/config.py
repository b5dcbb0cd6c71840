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
    refill_s: float = 10.0  # between tries to fill a place that nobody has taken; wild guess
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
    eager_only: bool = False  # flood, for comparison: nobody is pruned


@dataclass(frozen=True, slots=True)
class SubstrateConfig:
    """All of it."""

    views: ViewsConfig = field(default_factory=ViewsConfig)
    broadcast: BroadcastConfig = field(default_factory=BroadcastConfig)
