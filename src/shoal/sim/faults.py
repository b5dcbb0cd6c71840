"""Faults: what happens to a share of the nodes in a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.core.chance import Chance
from shoal.sim.kernel import SECOND_US
from shoal.sim.scenario import Fault

if TYPE_CHECKING:
    from shoal.sim.world import World

CHOICE = 14  # stream of chance


class FaultPlan:
    """All faults of one scenario, and which are going on.

    crash: machines are gone for good; kill: processes are, and machines answer for them; restart: processes
    end and are back after for_s; cut, one_way, flap: the network falls into two; clog: sessions pass nothing;
    stall: nodes neither send nor receive; jump: clocks go forward by for_s.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = Chance(world.seed, 2**32, CHOICE)
        self._sick_until_us: dict[int, int] = {}  # node -> until when
        self._side: bytearray | None = None
        self._last_us = -1  # end of the last fault; what is still to come does not count
        self._going = 0

    def plan(self) -> None:
        """Plan all of them."""
        kernel = self._world.network.kernel
        for fault in self._world.scenario.faults:
            for time in range(fault.times):
                at_us = kernel.now_us + int((fault.at_s + time * fault.every_s) * SECOND_US)
                if at_us < self._world.end_us:
                    kernel.plan(at_us, self._begin, fault)

    def is_sick(self, index: int) -> bool:
        """Whether a node stalls now."""
        return self._sick_until_us.get(index, -1) > self._world.network.kernel.now_us

    def is_beside(self, one: int, other: int) -> bool:
        """Whether no cut is between two nodes now."""
        return self._side is None or self._side[one] == self._side[other]

    def is_quiet(self, for_s: float) -> bool:
        """Whether nothing has gone on for some seconds."""
        now_us = self._world.network.kernel.now_us
        return not self._going and (self._last_us < 0 or now_us - self._last_us >= for_s * SECOND_US)

    def _begin(self, fault: Fault, second: None) -> None:
        world = self._world
        kernel = world.network.kernel
        self._going += 1
        here = world.find_honest()
        chosen = self._chance.sample(here, int(fault.share * len(here)))
        end_us = kernel.now_us + int(fault.for_s * SECOND_US)
        lasts = fault.kind in ("clog", "cut", "flap", "one_way", "restart", "stall")
        if fault.kind in ("crash", "kill", "restart"):
            for index in chosen:
                world.leave(index, "idle" if fault.kind == "crash" else "reset")
        elif fault.kind in ("cut", "flap", "one_way"):
            self._cut(chosen, fault.kind == "one_way")
        elif fault.kind == "stall":
            for index in chosen:
                world.network.stall(index, end_us)
                self._sick_until_us[index] = end_us
        elif fault.kind == "jump":
            for index in chosen:
                world.network.jump(index, int(fault.for_s * SECOND_US))
        else:
            self._clog(chosen, end_us)
        kernel.plan(end_us if lasts else kernel.now_us, self._end, fault, chosen)

    def _cut(self, chosen: list[int], one_way: bool) -> None:
        side = bytearray(self._world.count)
        for index in chosen:
            side[index] = 1
        self._side = side
        self._world.network.cut(side, one_way)

    def _clog(self, chosen: list[int], end_us: int) -> None:
        """Clog one link of each chosen node."""
        network = self._world.network
        for index in chosen:
            active = network.nodes[index].machine.views.active
            if active:
                network.clog(index, network.number[self._chance.pick(active)], end_us)

    def _end(self, fault: Fault, chosen: list[int]) -> None:
        world = self._world
        self._going -= 1
        self._last_us = world.network.kernel.now_us
        if fault.kind in ("cut", "flap", "one_way"):
            self._side = None
            world.network.heal()
        elif fault.kind == "restart":
            for index in chosen:
                world.come(index)
