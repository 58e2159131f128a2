"""What runs together of the calls of ranks that are carried on as one: a round of theirs, and the next one like it."""

from __future__ import annotations

from itertools import chain
from typing import Any, Final, cast

import numpy as np

from psgdsim.sim.execution.handles import Call, Handle
from psgdsim.sim.execution.lanes import LaneCall, LaneTotal
from psgdsim.sim.execution.rows import Source, Total

MAX_STEPS: Final = 8
"""Kernels that follow each other in a segment at most: long programs take long to compile."""


class LaneDraft:
    """A call of all ranks with what follows it, and what all that needs from outside.

    Args:
        first: it waits for nothing but what is ready, or a result of the draft before.
        before: the draft that runs before this one.

    Attributes:
        num: how many ranks.
        place: by which number others here know a call: first come the steps, then totals, then the tail.
        steps: the calls, one after the other.
        sources: for each, where its data comes from.
        outside: what comes from outside.
        dtypes: of that.
        origins: for each, what tells whether others have the same: a `Source` if the draft before computes it.
        totals: the weighted sums over the ranks.
        total_sources: for each, where its addends come from.
        tail: the calls that follow these, such as the update of a model that all ranks have.
        tail_sources: for each, where its data comes from.
    """

    def __init__(self, first: LaneCall, before: LaneDraft | None = None) -> None:
        self.num = first.num
        self.place: dict[Call, int] = {}
        self.steps: list[LaneCall] = []
        self.sources: list[tuple[Source, ...]] = []
        self.outside: list[Any] = []
        self.dtypes: list[Any] = []
        self.origins: list[Any] = []
        self.totals: list[LaneTotal] = []
        self.total_sources: list[Total] = []
        self.tail: list[Call] = []
        self.tail_sources: list[tuple[Source, ...]] = []
        self._before: dict[Call, int] = {} if before is None else before.place
        self._known: dict[int, int] = {}
        self._append(first)
        while len(self.steps) < MAX_STEPS and (follower := self._follower()) is not None:
            self._append(follower)
        for step in self.steps:
            for consumer in dict.fromkeys(step.consumers):
                if type(consumer) is LaneTotal and consumer not in self.totals and self._can_follow(consumer):
                    self._add_total(consumer)
        self.place.update({call: len(self.steps) + i for i, call in enumerate(self.totals)})
        while len(self.tail) < MAX_STEPS and (after := self._next_of_tail()) is not None:
            self.tail_sources.append(self._sources(after))
            self.place[after] = len(self.place)
            self.tail.append(after)

    @property
    def calls(self) -> list[Call]:
        """All calls, by their places."""
        return [*self.steps, *self.totals, *self.tail]

    def _follower(self) -> LaneCall | None:
        """Return a call that waits for these alone; none with another gradient, so that few programs are compiled."""
        for step in self.steps:
            for call in step.consumers:
                is_new = type(call) is LaneCall and call not in self.place
                if is_new and call.signature.kernel.kind != "gradient" and self._can_follow(call):
                    return cast(LaneCall, call)
        return None

    def _next_of_tail(self) -> Call | None:
        """Return a call that waits for totals, or what follows them, alone."""
        for before in (*self.totals, *self.tail):
            for call in before.consumers:
                is_new = type(call) is Call and call not in self.place
                if is_new and not call.signature.num_addends and self._can_follow(call):
                    return call
        return None

    def _can_follow(self, call: Call) -> bool:
        return all(
            leaf.call is None or leaf.call in self.place or leaf.call in self._before
            for leaf in call.inputs
            if isinstance(leaf, Handle)
        )

    def _append(self, call: LaneCall) -> None:
        self.sources.append(self._sources(call))
        self.place[call] = len(self.steps)
        self.steps.append(call)

    def _sources(self, call: Call) -> tuple[Source, ...]:
        pairs = zip(call.inputs, call.signature.dtypes, strict=True)
        return tuple([self._source(leaf, dtype) for leaf, dtype in pairs])

    def _source(self, leaf: Any, dtype: Any) -> Source:
        if isinstance(leaf, Handle) and leaf.call is not None and leaf.call in self.place:
            return Source(self.place[leaf.call], leaf.leaf)
        if id(leaf) not in self._known:
            self._known[id(leaf)] = len(self.outside)
            self.outside.append(leaf)
            self.dtypes.append(dtype)
            self.origins.append(self._origin(leaf))
        return Source(-1, self._known[id(leaf)])

    def _origin(self, leaf: Any) -> Any:
        if isinstance(leaf, Handle):
            if leaf.call is not None:
                return Source(self._before[leaf.call], leaf.leaf)
            return "stack", id(leaf.stack), leaf.row
        return id(leaf) if hasattr(leaf, "dtype") else type(leaf)

    def _add_total(self, call: LaneTotal) -> None:
        if any(leaf.call not in self.place for leaf in call.inputs):
            return
        dtypes = tuple(aval.dtype for aval in call.signature.out_avals)
        self.totals.append(call)
        self.total_sources.append(Total(tuple([self._source(leaf, None) for leaf in call.inputs]), dtypes))

    def following(self) -> LaneDraft | None:
        """Return the draft of the next round, if it is like this one."""
        signature = self.steps[0].signature
        for call in chain.from_iterable(call.consumers for call in self.place):
            if type(call) is LaneCall and call.signature is signature and call not in self.place:
                if not self._is_next(call):
                    return None
                draft = LaneDraft(call, self)
                return draft if self._is_like(draft) else None
        return None

    def _is_next(self, call: LaneCall) -> bool:
        return all(leaf.call is None or leaf.call in self.place for leaf in call.inputs if isinstance(leaf, Handle))

    def _is_like(self, after: LaneDraft) -> bool:
        """Whether the draft after this one does the same, and finds its data in the same places or one round later."""
        return (
            self.sources == after.sources
            and self.total_sources == after.total_sources
            and self.tail_sources == after.tail_sources
            and [call.signature for call in self.calls] == [call.signature for call in after.calls]
            and len(self.outside) == len(after.outside)
            and all(np.array_equal(a.weights, b.weights) for a, b in zip(self.totals, after.totals, strict=True))
            and all(map(self._is_found, self.origins, after.origins, self.outside, after.outside))
        )

    def _is_found(self, origin: Any, later: Any, leaf: Any, other: Any) -> bool:
        """Whether data is where the round before finds its; only a first round finds ready what others are left."""
        if origin == later:
            return True
        is_left = not self._before and type(later) is Source
        return is_left and type(leaf) is type(other) and leaf.code == other.code

    def release(self) -> None:
        """Let go of all handles: from now on one is alive only if somebody else wants it."""
        self.outside, self._known, self._before = [], {}, {}
        for call in self.calls:
            call.inputs = []
