"""One segment whose rows are ranks that are carried on as one, made ready and run."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np

from psgdsim.per_rank import PerRank
from psgdsim.sim.execution import devices
from psgdsim.sim.execution.compiled import Compiled
from psgdsim.sim.execution.handles import Call, Handle, Stack
from psgdsim.sim.execution.lanes import LaneCall, LaneHandle, LaneTotal
from psgdsim.sim.execution.rows import Layout, Segment, Source, Total, compile_segment
from psgdsim.sim.execution.segment_job import padded, size_of, summed, take, wanted, weighed
from psgdsim.sim.execution.signature import Signature

MAX_STEPS: Final = 8
"""Kernels that follow each other in a segment at most: long programs take long to compile."""


class LaneDraft:
    """A call of all ranks with what follows it, and what all that needs from outside.

    Args:
        first: it waits for nothing.

    Attributes:
        num: how many ranks.
        steps: the calls, one after the other.
        sources: for each, where its data comes from.
        outside: what comes from outside.
        dtypes: of that.
        totals: the weighted sums over the ranks.
        total_sources: for each, where its addends come from.
        tail: the calls that follow these, such as the update of a model that all ranks have.
        tail_sources: for each, where its data comes from.
    """

    def __init__(self, first: LaneCall) -> None:
        self.num = first.num
        self.steps: list[LaneCall] = []
        self.sources: list[tuple[Source, ...]] = []
        self.outside: list[Any] = []
        self.dtypes: list[Any] = []
        self.totals: list[LaneTotal] = []
        self.total_sources: list[Total] = []
        self.tail: list[Call] = []
        self.tail_sources: list[tuple[Source, ...]] = []
        self._place: dict[Call, int] = {}
        self._known: dict[int, int] = {}
        self._append(first)
        while len(self.steps) < MAX_STEPS and (follower := self._follower()) is not None:
            self._append(follower)
        for step in self.steps:
            for consumer in dict.fromkeys(step.consumers):
                if type(consumer) is LaneTotal and consumer not in self.totals and self._can_follow(consumer):
                    self._add_total(consumer)
        self._place.update({call: len(self.steps) + i for i, call in enumerate(self.totals)})
        while len(self.tail) < MAX_STEPS and (after := self._next_of_tail()) is not None:
            self.tail_sources.append(self._sources(after))
            self._place[after] = len(self._place)
            self.tail.append(after)

    def _follower(self) -> LaneCall | None:
        """Return a call that waits for these alone; none with another gradient, so that few programs are compiled."""
        for step in self.steps:
            for call in step.consumers:
                is_new = type(call) is LaneCall and call not in self._place
                if is_new and call.signature.kernel.kind != "gradient" and self._can_follow(call):
                    return cast(LaneCall, call)
        return None

    def _next_of_tail(self) -> Call | None:
        """Return a call that waits for totals, or what follows them, alone."""
        for before in (*self.totals, *self.tail):
            for call in before.consumers:
                is_new = type(call) is Call and call not in self._place
                if is_new and not call.signature.num_addends and self._can_follow(call):
                    return call
        return None

    def _can_follow(self, call: Call) -> bool:
        return all(leaf.call is None or leaf.call in self._place for leaf in call.inputs if isinstance(leaf, Handle))

    def _append(self, call: LaneCall) -> None:
        self.sources.append(self._sources(call))
        self._place[call] = len(self.steps)
        self.steps.append(call)

    def _sources(self, call: Call) -> tuple[Source, ...]:
        pairs = zip(call.inputs, call.signature.dtypes, strict=True)
        return tuple([self._source(leaf, dtype) for leaf, dtype in pairs])

    def _source(self, leaf: Any, dtype: Any) -> Source:
        if isinstance(leaf, Handle) and leaf.call is not None:
            return Source(self._place[leaf.call], leaf.leaf)
        if id(leaf) not in self._known:
            self._known[id(leaf)] = len(self.outside)
            self.outside.append(leaf)
            self.dtypes.append(dtype)
        return Source(-1, self._known[id(leaf)])

    def _add_total(self, call: LaneTotal) -> None:
        if any(leaf.call is None for leaf in call.inputs):
            return
        dtypes = tuple(aval.dtype for aval in call.signature.out_avals)
        self.totals.append(call)
        self.total_sources.append(Total(tuple([self._source(leaf, None) for leaf in call.inputs]), dtypes))

    def release(self) -> None:
        """Let go of all handles: from now on one is alive only if somebody else wants it."""
        self.outside, self._known = [], {}
        for call in (*self.steps, *self.totals, *self.tail):
            call.inputs = []


def run_lanes(first: LaneCall, compiled: Compiled) -> list[Call]:
    """Run a call of all ranks and what can run along with it; return what has run."""
    draft = LaneDraft(first)
    signatures: tuple[Signature, ...] = tuple(call.signature for call in draft.steps)
    size, chunk = size_of(draft.num, sum(signature.row_nbytes for signature in signatures))
    placed = [_place(leaf, dtype, size, compiled) for leaf, dtype in zip(draft.outside, draft.dtypes, strict=True)]
    layouts = tuple(layout for _, layout in placed)
    inputs = [devices.put(*each) for each in zip([array for array, _ in placed], devices.places(layouts), strict=True)]
    weights = [devices.put(padded(call.weights, size), "rows") for call in draft.totals]
    is_partial = not all(call.weights.all() for call in draft.totals)
    del placed
    draft.release()
    live, is_masked = wanted(draft.steps, 0), bool(draft.totals) and (is_partial or size > draft.num)
    segment = Segment(
        signatures, tuple(draft.sources), layouts, live, tuple(draft.total_sources), chunk, is_masked,
        tail=tuple(call.signature for call in draft.tail), tail_sources=tuple(draft.tail_sources),
        tail_live=wanted([*draft.totals, *draft.tail], len(draft.steps)),
    )  # fmt: skip
    if not is_partial:
        segment = summed(segment, size)
    consts = [compiled.consts(signature) for signature in (*signatures, *segment.tail)]
    if segment.is_summed:
        consts[0] = compiled.consts(cast(Signature, signatures[0].objective))
    arrays, others = compiled.call(segment, compile_segment, consts, inputs, weights)
    calls = [*draft.steps, *draft.totals, *draft.tail]
    for source, array in zip(live, arrays, strict=True):
        calls[source.step].settle(source.leaf, Stack(array, size))
    for source, array in zip(segment.tail_live, others, strict=True):
        calls[source.step].settle(source.leaf, Stack(array))
    return calls


def _place(leaf: Any, dtype: Any, size: int, compiled: Compiled) -> tuple[Any, Layout]:
    """Return the array that is behind a leaf, and how ranks find theirs in it."""
    if type(leaf) is PerRank:
        return _filled_up(np.asarray(leaf.items, dtype), size), "row"
    if type(leaf) is LaneHandle:
        array = leaf.ready.array
        if len(array) == size:
            return array, "row"
        [array] = take([array], np.minimum(np.arange(size), leaf.num - 1).astype(np.int32), compiled)
        return array, "row"
    if isinstance(leaf, Handle):
        return leaf.array if leaf.ready.num else leaf.ready.share(), "shared"
    return np.asarray(leaf, dtype), "shared"


def _filled_up(array: Any, size: int) -> Any:
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def run_lane_total(call: LaneTotal, compiled: Compiled) -> None:
    """Take a weighted sum over the ranks of what was computed before."""
    stacks = [leaf.ready for leaf in call.inputs]
    for leaf, (stack, aval) in enumerate(zip(stacks, call.signature.out_avals, strict=True)):
        weights = padded(call.weights, stack.num)
        call.settle(leaf, Stack(weighed(weights, stack, aval.dtype, compiled)))
