"""Rounds of ranks that are carried on as one, made ready and run: each is a segment whose rows are the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np

from psgdsim.per_rank import PerRank
from psgdsim.sim.execution import devices
from psgdsim.sim.execution.compiled import Compiled
from psgdsim.sim.execution.handles import Call, Handle, Layer, Stack
from psgdsim.sim.execution.lane_draft import LaneDraft
from psgdsim.sim.execution.lanes import LaneCall, LaneHandle, LaneTotal
from psgdsim.sim.execution.rounds import Rounds, compile_rounds
from psgdsim.sim.execution.rows import Layout, Segment, Source, compile_segment
from psgdsim.sim.execution.segment_job import padded, size_of, summed, take, wanted, weighed
from psgdsim.sim.execution.signature import Signature

NUM_ROUNDS: Final = 16
"""So many rounds at most run in one call, and what is compiled for several has room for so many."""

MAX_NBYTES: Final = 64 << 20
"""Rounds run in one call if what each has for itself, and leaves, and what goes on from one to the next are no more."""


def run_lanes(first: LaneCall, compiled: Compiled) -> list[Call]:
    """Run a call of all ranks, what can run along with it, and the rounds that follow it; return what has run."""
    drafts = [LaneDraft(first)]
    # With several devices, a loop would have to spread what it keeps; there a call is not what takes time.
    longest = NUM_ROUNDS if devices.num_devices() == 1 else 1
    while len(drafts) < longest and (following := drafts[-1].following()) is not None:
        drafts.append(following)
    LaneJob(drafts, compiled).run()
    return [call for draft in drafts for call in draft.calls]


class LaneJob:
    """Rounds that are alike.

    Args:
        drafts: one per round; nothing else holds on to what they need.
        compiled: what was compiled.
    """

    def __init__(self, drafts: list[LaneDraft], compiled: Compiled) -> None:
        self._first, self._compiled = drafts[0], compiled
        self._calls = [draft.calls for draft in drafts]
        self._signatures: tuple[Signature, ...] = tuple(call.signature for call in self._first.steps)
        self._size, self._chunk = size_of(self._first.num, sum(each.row_nbytes for each in self._signatures))
        self._inputs: list[Any] = []
        self._own: dict[int, list[Any]] = {}
        layouts: list[Layout] = []
        for place, dtype in enumerate(self._first.dtypes):
            arrays, layout = self._placed([draft.outside[place] for draft in drafts], dtype)
            self._inputs.append(arrays[0])
            layouts.append(layout)
            if len(arrays) > 1:
                self._own[place] = arrays
        self._layouts = tuple(layouts)
        self._carried = tuple([origin if type(origin) is Source else None for origin in drafts[-1].origins])
        self._weights = [devices.put(padded(call.weights, self._size), "rows") for call in self._first.totals]
        self._is_partial = not all(call.weights.all() for call in self._first.totals)
        for draft in drafts:
            draft.release()

    def run(self) -> None:
        """Run all rounds, those in one call of which the same is wanted; the last of them may leave more."""
        num = len(self._signatures)
        found = [{*wanted(calls[:num], 0), *wanted(calls[num:], num)} for calls in self._calls]
        begin = 0
        while begin < len(found):
            end, limit = begin + 1, min(len(found), begin + self._longest(found[begin]))
            while end < limit and found[end - 1] == found[begin] and self._may_end(found[begin], found[end]):
                end += 1
            live = set(found[end - 1])
            if end < len(found):
                live |= {source for source in self._carried if source is not None}
            if end == begin + 1:
                self._run_one(begin, live)
            else:
                self._run_several(range(begin, end), found[begin], live)
            begin = end

    def _may_end(self, kept: set[Source], found: set[Source]) -> bool:
        """Whether rounds of which some results are kept may end with one of which others are wanted, too.

        Not with rows that are for this round alone: all others would have to compute them in vain.
        """
        return kept <= found and all(not self._num_of(each) or each in self._carried for each in found - kept)

    def _longest(self, kept: set[Source]) -> int:
        """Return how many rounds may run in one call, if so much is kept of each."""
        carried = sum(self._nbytes_of(source) for source in self._carried if source is not None)
        each = sum(arrays[0].nbytes for arrays in self._own.values()) + sum(map(self._nbytes_of, kept))
        return NUM_ROUNDS if carried + NUM_ROUNDS * each <= MAX_NBYTES else 1

    def _nbytes_of(self, source: Source) -> int:
        """Return the size of a result [byte]."""
        aval = self._calls[0][source.step].signature.out_avals[source.leaf]
        return int(aval.size * aval.dtype.itemsize * (self._num_of(source) or 1))

    def _num_of(self, source: Source) -> int:
        """Return how many rows a result has; 0 if it is one for all."""
        return self._size if source.step < len(self._signatures) else 0

    def _run_one(self, place: int, live: set[Source]) -> None:
        """Run a single round."""
        segment = self._segment(live)
        inputs = [self._own[i][place] if i in self._own else each for i, each in enumerate(self._inputs)]
        inputs = [devices.put(*each) for each in zip(inputs, devices.places(self._layouts), strict=True)]
        arrays, others = self._compiled.call(segment, compile_segment, self._consts(segment), inputs, self._weights)
        self._leave(place, dict(zip((*segment.live, *segment.tail_live), (*arrays, *others), strict=True)))

    def _run_several(self, rounds: range, kept: set[Source], live: set[Source]) -> None:
        """Run several rounds in one call."""
        carried = {source for source in self._carried if source is not None}
        segment = self._segment(live | carried)
        what = Rounds(segment, self._carried, tuple(self._own), tuple(sorted(kept)), NUM_ROUNDS)
        inputs = [
            _in_a_row(self._own[i][rounds.start : rounds.stop]) if i in self._own else each
            for i, each in enumerate(self._inputs)
        ]
        last, layers = self._compiled.call(
            what, compile_rounds, np.int32(len(rounds)), self._consts(segment), inputs, self._weights
        )
        for source, array in zip(what.kept, layers, strict=True):
            # Whoever holds what one round has holds what all have: let that be no more than there were.
            num = len(rounds) if 4 * len(rounds) <= NUM_ROUNDS else NUM_ROUNDS
            each = Stack(array if num == NUM_ROUNDS else array[:num], num)
            for place in rounds:
                layer = Layer(each, place - rounds.start, self._num_of(source))
                self._calls[place][source.step].settle(source.leaf, layer)
        self._leave(rounds[-1], dict(zip(what.results, last, strict=True)))

    def _leave(self, place: int, results: dict[Source, Any]) -> None:
        """Hand on what a round has left, to whoever wants it and to the next one."""
        for source, array in results.items():
            self._calls[place][source.step].settle(source.leaf, Stack(array, self._num_of(source)))
        self._inputs = [
            each if source is None else results.get(source)
            for source, each in zip(self._carried, self._inputs, strict=True)
        ]

    def _segment(self, live: set[Source]) -> Segment:
        """Return one round of which some results are wanted."""
        first, num = self._first, len(self._signatures)
        segment = Segment(
            self._signatures,
            tuple(first.sources),
            self._layouts,
            tuple(sorted(source for source in live if source.step < num)),
            tuple(first.total_sources),
            self._chunk,
            is_masked=bool(first.totals) and (self._is_partial or self._size > first.num),
            tail=tuple(call.signature for call in first.tail),
            tail_sources=tuple(first.tail_sources),
            tail_live=tuple(sorted(source for source in live if source.step >= num)),
        )
        return segment if self._is_partial else summed(segment, self._size)

    def _consts(self, segment: Segment) -> list[tuple[Any, ...]]:
        """Return what the kernels of a round close over."""
        consts = [self._compiled.consts(signature) for signature in (*self._signatures, *segment.tail)]
        if segment.is_summed:
            consts[0] = self._compiled.consts(cast(Signature, self._signatures[0].objective))
        return consts

    def _placed(self, leaves: list[Any], dtype: Any) -> tuple[list[Any], Layout]:
        """Return the array behind a leaf, or those of all rounds if each has its own; and how ranks find theirs."""
        first = leaves[0]
        if type(first) is PerRank:
            return [_filled_up(np.asarray(leaf.items, dtype), self._size) for leaf in leaves], "row"
        if isinstance(first, LaneHandle):
            return [self._rows_of(first)], "row"
        if isinstance(first, Handle):
            return [first.array if first.ready.num else first.ready.share()], "shared"
        if hasattr(first, "dtype"):
            return [np.asarray(first, dtype)], "shared"
        return [np.asarray(leaf, dtype) for leaf in leaves], "shared"

    def _rows_of(self, leaf: LaneHandle) -> Any:
        """Return the array of all ranks, filled up."""
        array = leaf.ready.array
        if len(array) == self._size:
            return array
        places = np.minimum(np.arange(self._size), leaf.num - 1).astype(np.int32)
        return take([array], places, self._compiled)[0]


def _filled_up(array: Any, size: int) -> Any:
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _in_a_row(arrays: Sequence[Any]) -> Any:
    """Return arrays along a first axis that has room for as many as may come."""
    found = np.zeros((NUM_ROUNDS, *arrays[0].shape), arrays[0].dtype)
    found[: len(arrays)] = arrays
    return found


def run_lane_total(call: LaneTotal, compiled: Compiled) -> None:
    """Take a weighted sum over the ranks of what was computed before."""
    stacks = [leaf.ready for leaf in call.inputs]
    for leaf, (stack, aval) in enumerate(zip(stacks, call.signature.out_avals, strict=True)):
        weights = padded(call.weights, stack.num)
        call.settle(leaf, Stack(weighed(weights, stack, aval.dtype, compiled)))
