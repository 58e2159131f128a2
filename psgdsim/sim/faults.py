"""Carry out faults: ranks crash and come back, compute slowly, and are cut off."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import simpy

from psgdsim import rng
from psgdsim.scenario.changes import Effect
from psgdsim.scenario.faults import Fault
from psgdsim.sim.changes import LinkConditions
from psgdsim.sim.gates import links_of

if TYPE_CHECKING:
    from psgdsim.sim.driver import Simulation

EVERYWHERE = -1
"""Instead of a rank: the fault concerns links."""


class Faults:
    """The faults of a run.

    Args:
        simulation: the run.
        faults: what goes wrong.
        gates: for each fault that cuts ranks off, by its number, the links that it stops.
        conditions: told of links that stop.
        source: the number of the first fault among the sources of effects on links.
    """

    def __init__(
        self,
        simulation: Simulation,
        faults: Sequence[Fault],
        gates: dict[int, tuple[int, ...]],
        conditions: LinkConditions,
        source: int,
    ) -> None:
        self._simulation, self._faults, self._conditions, self._source = simulation, faults, conditions, source
        self._env: simpy.Environment = simulation.env
        self._links = [gates.get(i) or links_of(simulation.bare, fault.links) for i, fault in enumerate(faults)]
        self._slowness: dict[int, dict[int, float]] = {}
        self._awaited: dict[int, Fault] = {}

    def start(self) -> None:
        """Begin to wait for all of them; those of time 0 happen at once."""
        for i, fault in enumerate(self._faults):
            if fault.when.at_step is not None:
                self._awaited[i] = fault
            else:
                for place in self._places(fault):
                    self._await(i, place)

    def _places(self, fault: Fault) -> Sequence[int]:
        """Return the ranks to which it happens, each on its own."""
        if fault.kind == "cut":
            return [EVERYWHERE]
        return range(len(self._simulation.nodes)) if fault.ranks is None else fault.ranks

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        if seconds == 0:
            act()
        elif math.isfinite(seconds):
            self._env.timeout(seconds).callbacks.append(lambda _: act())

    def _await(self, i: int, place: int) -> None:
        """Let it happen at its time, or again and again at random."""
        when = self._faults[i].when
        generator = rng.stream(self._simulation.experiment.scenario.seed, "faults", i, place)

        def fail() -> None:
            length = when.draw_length(generator)
            self._happen(i, place, length)
            self._after(length, wait)

        def wait() -> None:
            self._after(when.draw_wait(generator), fail)

        if when.at is None:
            wait()
        else:
            self._after(when.at, lambda: self._happen(i, place, when.length))

    def begin_step(self, rank: int, step: int) -> None:
        """Take note that a rank begins a step."""
        for i, fault in list(self._awaited.items()):
            if fault.when.at_step == step and (fault.kind == "cut" or rank in (fault.ranks or ())):
                del self._awaited[i]
                place = EVERYWHERE if fault.kind == "cut" else rank
                # Its program is running at this very moment; what happens to it happens as soon as it waits.
                self._env.timeout(0, (i, place, fault.when.length)).callbacks.append(self._happen_now)

    def _happen_now(self, timer: simpy.Event) -> None:
        event: tuple[int, int, float] = timer.value  # type: ignore[assignment]
        self._happen(*event)

    # --- what happens -----------------------------------------------------------------------------------------

    def _happen(self, i: int, place: int, length: float) -> None:
        fault = self._faults[i]
        cause = f"faults.{i}: {fault}"
        {"crash": self._crash, "slow": self._slow, "cut": self._cut}[fault.kind](i, place, length, cause)
        self._simulation.look()

    def _end_later(self, length: float, key: Hashable, end: Callable[[], None]) -> None:
        def finish() -> None:
            self._simulation.notes.end(key)
            end()
            self._simulation.look()

        self._after(length, finish)

    def _crash(self, i: int, rank: int, length: float, cause: str) -> None:
        node = self._simulation.nodes[rank]
        if not self._simulation.is_running(rank):
            return
        self._simulation.notes.begin((i, rank), "fault", "crash", [node.log])
        self._simulation.crash(rank, f"it crashed at {_time(self._env.now)} ({cause})", returns=math.isfinite(length))
        self._end_later(length, (i, rank), lambda: self._simulation.restart(rank))

    def _slow(self, i: int, rank: int, length: float, _cause: str) -> None:
        node, factors = self._simulation.nodes[rank], self._slowness.setdefault(rank, {})
        factors[i] = self._faults[i].factor

        def recover() -> None:
            del factors[i]
            node.processor.slow_down(math.prod(factors.values()))

        node.processor.slow_down(math.prod(factors.values()))
        self._simulation.notes.begin((i, rank), "fault", f"{self._faults[i].factor:g}x slower", [node.log])
        self._end_later(length, (i, rank), recover)

    def _cut(self, i: int, _place: int, length: float, cause: str) -> None:
        fault, source = self._faults[i], self._source + i
        logs = [self._simulation.nodes[rank].log for rank in fault.ranks or ()]
        self._simulation.notes.begin((i, EVERYWHERE), "fault", f"cut {', '.join(fault.links)}".strip(), logs)
        self._simulation.outages.expect(self._links[i], cause)
        self._conditions.set(source, self._links[i], Effect(factor=0.0))
        self._end_later(length, (i, EVERYWHERE), lambda: self._conditions.set(source, self._links[i], Effect()))


def _time(seconds: float) -> str:
    return f"{seconds:.9g} s"
