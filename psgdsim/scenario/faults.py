"""What goes wrong while a scenario runs: the family `fault`.

Faults name ranks and links and say when, on a schedule or by rates; how a rank is made to crash is the driver's
business. A fault happens once (`at` a time, or when a rank begins a step, `at_step`) or again and again at random
(`mtbf` and `mttr`, mean times between failures and to repair).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from psgdsim.registry import Family
from psgdsim.scenario.change_kinds import Patterns, PositiveDuration
from psgdsim.scenario.link_rows import check_links
from psgdsim.topologies.base import Topology
from psgdsim.units import TIME, Duration

if TYPE_CHECKING:
    import numpy as np

Rank = Annotated[int, Field(ge=0)]
Step = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class When:
    """When a fault begins and how long it lasts.

    Args:
        at: the time at which it begins [s], or None.
        at_step: the step with which it begins, or None.
        mtbf: the mean time from the start, or from the last repair, to the next one [s], exponential; or None.
        length: how long it lasts [s]; infinite if for good.
        mttr: instead of the length, the mean of an exponential one [s]; or None.
    """

    at: float | None
    at_step: int | None
    mtbf: float | None
    length: float
    mttr: float | None

    def draw_wait(self, rng: np.random.Generator) -> float:
        """Return how long it takes until it happens again [s]."""
        return math.inf if self.mtbf is None else float(rng.exponential(self.mtbf))

    def draw_length(self, rng: np.random.Generator) -> float:
        """Return how long it lasts this time [s]."""
        return self.length if self.mttr is None else float(rng.exponential(self.mttr))

    def __str__(self) -> str:
        if self.at is not None:
            return f"at {TIME.format(self.at)}"
        if self.at_step is not None:
            return f"at step {self.at_step}"
        return f"every {TIME.format(self.mtbf or 0.0)} on average"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Args:
        kind: `crash`: ranks end where they are, and begin again after the repair; `slow`: they compute more slowly;
            `cut`: nothing crosses links, or passes between some ranks and the rest.
        when: when.
        ranks: which ranks, or None for each of them on its own (each with its own times); of a cut, the ranks on one
            side of it.
        links: which links, by pattern; of a cut only.
        factor: how many times longer a slow rank computes.
    """

    kind: Literal["crash", "slow", "cut"]
    when: When
    ranks: tuple[int, ...] | None = None
    links: tuple[str, ...] = ()
    factor: float = 1.0

    def __str__(self) -> str:
        who = f"rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}" if self.ranks else "ranks"
        return f"{self.kind} of {', '.join(self.links) or who} {self.when}"

    def check(self, topology: Topology, num_ranks: int) -> None:
        """Raise `ValueError` if a rank or link does not exist; the message begins with the key to blame."""
        beyond = [rank for rank in self.ranks or () if rank >= num_ranks]
        key = "ranks" if self.kind == "cut" else "rank"
        if beyond:
            raise ValueError(f"{key}: expected ranks of 0 to {num_ranks - 1}; got {beyond[0]}")
        check_links("links", self.links, topology)
        if self.kind == "cut" and not self.links:
            self._check_sides(topology, num_ranks)

    def _check_sides(self, topology: Topology, num_ranks: int) -> None:
        inside = set(self.ranks or ())
        if len(inside) == num_ranks:
            raise ValueError("ranks: expected some of the ranks, so that there is a rest; got all of them")
        hosts = {topology.host_of(rank): rank for rank in inside}
        for rank in range(num_ranks):
            if rank not in inside and topology.host_of(rank) in hosts:
                host = topology.hosts[topology.host_of(rank)]
                raise ValueError(
                    f"ranks: expected whole hosts; got rank {hosts[topology.host_of(rank)]} without rank {rank}, which "
                    f"is on {host}, too"
                )


faults = Family("fault", product=Fault)
register_fault = faults.register


def _when(
    at: float | None,
    at_step: int | None,
    mtbf: float | None,
    length: float | None,
    mttr: float | None,
    *,
    length_key: str = "for",
) -> When:
    given = [key for key, value in (("at", at), ("at_step", at_step), ("mtbf", mtbf)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"at: expected one of at, at_step and mtbf; got {' and '.join(given) or 'none of them'}")
    if mttr is not None and mtbf is None:
        raise ValueError(f"mttr: goes with mtbf; with {given[0]}, give {length_key}")
    if mttr is not None and length is not None:
        raise ValueError(f"mttr: expected either mttr or {length_key}; got both")
    return When(at, at_step, mtbf, math.inf if length is None else length, mttr)


def _one(rank: int | None, mtbf: float | None) -> tuple[int, ...] | None:
    if rank is None and mtbf is None:
        raise ValueError("rank: required, but with mtbf, where null means each rank on its own")
    return None if rank is None else (rank,)


@register_fault("crash")
def crash(
    rank: Rank | None = None,
    at: Duration | None = None,
    at_step: Step | None = None,
    restart_after: Duration | None = None,
    mtbf: PositiveDuration | None = None,
    mttr: PositiveDuration | None = None,
) -> Fault:
    """Let a rank's process die, with all that it has in memory; others that wait for it see `PeerLost`.

    Args:
        rank: which one; null (with `mtbf` only) for each of them on its own.
        at: when.
        at_step: instead, as soon as it begins this step.
        restart_after: how long until its program starts again from the beginning; null for never.
        mtbf: instead of a schedule, the mean time until it crashes, and after each restart until it does again.
        mttr: instead of restart_after, the mean time until it starts again.
    """
    when = _when(at, at_step, mtbf, restart_after, mttr, length_key="restart_after")
    return Fault("crash", when, _one(rank, mtbf))


@register_fault("slow")
def slow(
    factor: Annotated[float, Field(gt=0)],
    rank: Rank | None = None,
    at: Duration | None = None,
    at_step: Step | None = None,
    for_: PositiveDuration | None = None,
    mtbf: PositiveDuration | None = None,
    mttr: PositiveDuration | None = None,
) -> Fault:
    """Let a rank compute more slowly for a while; what it is computing takes longer from that moment on.

    Args:
        factor: how many times longer computations take.
        rank: which one; null (with `mtbf` only) for each of them on its own.
        at: when.
        at_step: instead, as soon as it begins this step.
        for_: how long; null for the rest of the run.
        mtbf: instead of a schedule, the mean time until it happens, and after each end until it does again.
        mttr: instead of for, how long on average.
    """
    return Fault("slow", _when(at, at_step, mtbf, for_, mttr), _one(rank, mtbf), factor=factor)


@register_fault("cut")
def cut(
    links: Patterns | None = None,
    ranks: Annotated[tuple[Rank, ...], Field(min_length=1, max_length=100_000)] | None = None,
    at: Duration | None = None,
    at_step: Step | None = None,
    for_: PositiveDuration | None = None,
    mtbf: PositiveDuration | None = None,
    mttr: PositiveDuration | None = None,
) -> Fault:
    """Cut links, or some ranks from the rest. Messages wait, as TCP has it, and arrive once the cut has healed.

    Ranks that are cut off from each other for longer than `real.heartbeat_timeout` lose each other for good
    (`PeerLost`), as in real mode.

    Args:
        links: the links, by name or pattern.
        ranks: instead, the ranks on one side; among them, and among the rest, all messages pass.
        at: when.
        at_step: instead, as soon as the first rank begins this step.
        for_: how long; null for the rest of the run.
        mtbf: instead of a schedule, the mean time until it happens, and after each end until it does again.
        mttr: instead of for, how long on average.
    """
    if (links is None) == (ranks is None):
        raise ValueError(f"links: expected either links or ranks; got {'neither' if links is None else 'both'}")
    when = _when(at, at_step, mtbf, for_, mttr)
    if links is None:
        return Fault("cut", when, tuple(dict.fromkeys(ranks or ())))
    return Fault("cut", when, links=(links,) if isinstance(links, str) else tuple(links))
