"""A segment in the making: which calls run as its rows, which kernels follow them, and what they need from outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from psgdsim.sim.execution.handles import Call, Handle
from psgdsim.sim.execution.lanes import LaneCall
from psgdsim.sim.execution.rows import Source, Total
from psgdsim.sim.execution.signature import Signature

MAX_STEPS: Final = 8
"""Kernels that follow each other in a segment at most: long programs take long to compile."""


class Draft:
    """Calls of one kernel, as rows, with all kernels that follow row by row and the weighted sums over the rows.

    Args:
        calls: they are ready, and `alike`.
        is_alone: whether nothing else is taken in.

    Attributes:
        num: how many rows there are.
        steps: the calls of each kernel, row by row.
        sources: for each kernel, where its data comes from.
        outside: what comes from outside: an array, number or handle for each row.
        dtypes: of that.
        totals: weighted sums over rows.
        total_calls: the calls that ask for them.
        weights: for each, the weight of each row.
    """

    def __init__(self, calls: list[Call], *, is_alone: bool = False) -> None:
        self.num = len(calls)
        self.steps: list[list[Call]] = []
        self.sources: list[tuple[Source, ...]] = []
        self.outside: list[list[Any]] = []
        self.dtypes: list[Any] = []
        self.totals: list[Total] = []
        self.total_calls: list[Call] = []
        self.weights: list[list[float]] = []
        self._place: dict[Call, tuple[int, int]] = {}
        self._known: dict[tuple[int, ...], int] = {}
        self._append(calls)
        if not is_alone:
            self._grow()

    @property
    def row_nbytes(self) -> int:
        """What one row yields, all kernels together [byte]."""
        return sum(step[0].signature.row_nbytes for step in self.steps)

    def _grow(self) -> None:
        """Take in all kernels that follow row by row, and then the weighted sums over the rows."""
        tried: set[Signature] = set()
        while len(self.steps) < MAX_STEPS and (new := [each for each in self._followers() if each not in tried]):
            for signature in new:
                tried.add(signature)
                calls = self._next_step(signature)
                if calls is not None:
                    self._append(calls)
                    tried.clear()
                    break
        if all(is_shared(leaves) for leaves in self.outside):
            return
        for step in self.steps:
            for consumer in dict.fromkeys(step[0].consumers):
                is_total = consumer.signature.num_addends and consumer.group is consumer.signature
                if is_total and consumer not in self.total_calls:
                    self._add_total(consumer)

    def _followers(self) -> Iterator[Signature]:
        for step in self.steps:
            for consumer in step[0].consumers:
                is_row = not (consumer.signature.num_addends or isinstance(consumer, LaneCall))
                if is_row and consumer not in self._place:
                    yield consumer.signature

    def _next_step(self, signature: Signature) -> list[Call] | None:
        """Return the calls of a kernel that follow, one for each row; None if it is not that simple."""
        calls: list[Call | None] = [None] * self.num
        for step in self.steps:
            for row, call in enumerate(step):
                for consumer in call.consumers:
                    if consumer.group is not signature or consumer in self._place or consumer is calls[row]:
                        continue
                    if calls[row] is not None or not self._follows(consumer, row):
                        return None
                    calls[row] = consumer
        if self.num == 0 or any(call is None for call in calls):
            return None
        rows = [call for call in calls if call is not None]
        return rows if len(set(rows)) == self.num and self._is_regular(rows) else None

    def _follows(self, call: Call, row: int) -> bool:
        """Whether a call waits for this row alone."""
        producers = {leaf.call for leaf in call.inputs if type(leaf) is Handle and leaf.call is not None}
        return all(producer in self._place and self._place[producer][1] == row for producer in producers)

    def _is_regular(self, calls: Sequence[Call]) -> bool:
        """Whether each piece of data comes from the same place in every row."""
        for leaves in zip(*[call.inputs for call in calls], strict=True):
            if len({self._origin(leaf) for leaf in leaves}) > 1:
                return False
        return True

    def _origin(self, leaf: Any) -> Any:
        if type(leaf) is not Handle:
            return None
        if leaf.call is not None:
            return self._place[leaf.call][0], leaf.leaf
        return id(leaf.stack)

    def _append(self, calls: list[Call]) -> None:
        sources = []
        for leaves, dtype in zip(
            zip(*[call.inputs for call in calls], strict=True), calls[0].signature.dtypes, strict=True
        ):
            first = leaves[0]
            if type(first) is Handle and first.call is not None:
                sources.append(Source(self._place[first.call][0], first.leaf))
            else:
                sources.append(Source(-1, self._number_of(leaves, dtype)))
        for row, call in enumerate(calls):
            self._place[call] = len(self.steps), row
        self.steps.append(calls)
        self.sources.append(tuple(sources))

    def _number_of(self, leaves: Sequence[Any], dtype: Any) -> int:
        key = tuple(map(id, leaves))
        if key not in self._known:
            self._known[key] = len(self.outside)
            self.outside.append(list(leaves))
            self.dtypes.append(dtype)
        return self._known[key]

    def _add_total(self, call: Call) -> None:
        """Take in a weighted sum whose addends are rows."""
        num = call.signature.num_addends
        given, leaves = call.inputs[:num], call.inputs[num:]
        width = len(leaves) // num
        if not all(isinstance(weight, int | float) for weight in given):
            return
        weights, addends = [0.0] * self.num, set()
        for i, weight in enumerate(given):
            places = [self._place_of(leaf) for leaf in leaves[i * width : (i + 1) * width]]
            if None in places or len({place[1] for place in places if place is not None}) > 1:
                return
            addends.add(tuple(place[0] for place in places if place is not None))
            weights[places[0][1]] += weight  # type: ignore[index]
        if len(addends) == 1:
            self.totals.append(Total(addends.pop(), tuple(aval.dtype for aval in call.signature.out_avals)))
            self.total_calls.append(call)
            self.weights.append(weights)

    def _place_of(self, leaf: Any) -> tuple[Source, int] | None:
        if type(leaf) is not Handle or leaf.call not in self._place:
            return None
        step, row = self._place[leaf.call]
        return Source(step, leaf.leaf), row

    def is_closed(self, wanted: Collection[Call]) -> bool:
        """Whether no other call needs a row's result, neither one that waits for it nor one of those given."""
        inside = {*self._place, *self.total_calls}
        return all(call not in wanted and inside.issuperset(call.consumers) for call in self._place)

    def release(self) -> list[list[Any]]:
        """Let go of all handles within: from now on one is alive only if somebody else wants it; return the others."""
        outside, self.outside, self._known = self.outside, [], {}
        for call in (*(call for step in self.steps for call in step), *self.total_calls):
            call.inputs = []
        return outside

    def restore(self, outside: Sequence[Sequence[Any]], missing: Collection[Source]) -> dict[Call, None]:
        """Give calls back their arguments that must still run for what somebody holds; return these calls.

        Args:
            outside: what `release` returned.
            missing: the leaves that were not computed.
        """
        left: dict[Call, None] = {}
        for row in range(self.num) if missing else ():
            needed = {source.step for source in missing if self.steps[source.step][row].is_wanted(source.leaf)}
            for step in reversed(range(len(self.steps))):
                needed |= {source.step for source in self.sources[step] if step in needed and source.step >= 0}
            for step in sorted(needed):
                call = self.steps[step][row]
                call.inputs = [
                    outside[place][row] if before < 0 else self.steps[before][row].result(place)
                    for before, place in self.sources[step]
                ]
                call.consumers = []
                left[call] = None
        return left


def is_shared(leaves: Sequence[Any]) -> bool:
    """Whether all rows find the same."""
    first = leaves[0]
    if type(first) is Handle and first.call is None:
        return all(leaf.stack is first.stack and leaf.row == first.row for leaf in leaves)
    if type(first) in (int, float):
        return all(type(leaf) is type(first) and leaf == first for leaf in leaves)
    return all(leaf is first for leaf in leaves)


def alike(calls: Sequence[Call]) -> list[list[Call]]:
    """Return calls of one kernel in groups that take each piece of data from the same stack."""
    parts: dict[tuple[int, ...], list[Call]] = {}
    for call in calls:
        key = tuple([id(leaf.stack) if type(leaf) is Handle else 0 for leaf in call.inputs])
        parts.setdefault(key, []).append(call)
    return list(parts.values())
