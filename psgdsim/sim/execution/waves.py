"""Run calls in as few batches as their dependencies allow.

Of the calls whose arguments are there, those of one kernel run together as the rows of a segment; kernels that follow
row by row, and weighted sums over the rows, run along with them. Updates that each take up the result of the one
before, such as a server's, run as a scan together with what each of them needs; that goes first, for many calls may
wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from psgdsim.sim.execution.compiled import Compiled
from psgdsim.sim.execution.draft import Draft, alike
from psgdsim.sim.execution.handles import Call, Handle, Stack
from psgdsim.sim.execution.lane_job import run_lane_total, run_lanes
from psgdsim.sim.execution.lanes import LaneCall, LaneTotal
from psgdsim.sim.execution.scan_job import SHORTEST, ScanJob, is_head
from psgdsim.sim.execution.scans import follow, takes_up, versions_of
from psgdsim.sim.execution.segment_job import run_segment, run_total
from psgdsim.sim.execution.signature import Signature

MAX_NBYTES: Final = 256 << 20
"""A segment keeps at most so many bytes of results that somebody wants; more run in several."""

MAX_STEPS: Final = 2048
"""Updates that run as one scan at most; fewer where the model is large, for each may leave something of its size."""

MANY_PARTS: Final = 4
"""If calls of one kernel take their data from so many stacks, and each from another, it is brought together first."""

Ready = dict[Any, list[Call]]


class Runner:
    """Run calls, and keep what was compiled for them.

    Attributes:
        compiled: what was compiled.
    """

    def __init__(self) -> None:
        self.compiled = Compiled()
        self._wanted: Collection[Call] = ()
        self._left: dict[Call, None] = {}

    def run(self, calls: Sequence[Call], wanted: Collection[Call]) -> list[Call]:
        """Run calls and all that they wait for, which must be among them.

        Args:
            calls: in the order in which they were made.
            wanted: those whose results are needed by calls that are made later.

        Returns:
            The calls that have been left: programs hold what they return, but so far only a sum of it was needed.
        """
        self._wanted, self._left = wanted, dict[Call, None]()
        ready, chains = _linked(calls), _chains(calls)
        while ready:
            done = self._run_chain(chains) or self._run_rows(_pop_next(ready), ready)
            _release(done, ready)
        return [call for call in calls if call in self._left]

    def _run_alone(self, call: Call) -> None:
        if call.signature.num_addends:
            run_total(call, self.compiled)
        else:
            run_segment(Draft([call], is_alone=True), self.compiled)

    def _run_chain(self, chains: dict[Signature, deque[Call]]) -> list[Call]:
        """Run updates that form a chain, as far as they can run now; return what has run."""
        for updates in chains.values():
            while updates and updates[0].is_done:
                updates.popleft()
            if not updates or not is_head(updates[0]):
                continue
            rows = follow(updates[0], max(SHORTEST, min(MAX_STEPS, 2 * MAX_NBYTES // updates[0].signature.row_nbytes)))
            if not rows:
                continue
            versions = versions_of(rows) if len(rows) > 1 else None
            if versions is not None:
                return ScanJob(rows, versions).run(self.compiled)
            # What else is ready had better wait for its own place in the chain.
            done = [*rows[0].calls, rows[0].update]
            for call in done:
                self._run_alone(call)
            return done
        return []

    def _run_rows(self, calls: list[Call], ready: Ready) -> list[Call]:
        """Run calls of one kernel, or some of them, and what can run along with them; return what has run."""
        first, signature = calls[0], calls[0].signature
        if isinstance(first, LaneCall):
            return run_lanes(first, self.compiled)
        if isinstance(first, LaneTotal):
            run_lane_total(first, self.compiled)
            return calls
        if signature.num_addends:
            for call in calls:
                run_total(call, self.compiled)
            return calls
        parts = alike(calls)
        if len(parts) > MANY_PARTS + len(calls) // 8:
            _stack_up(calls)
            parts = [calls]
        draft = Draft(parts[0])
        longest = max(1, MAX_NBYTES // max(1, signature.row_nbytes))
        if draft.num > longest and not draft.totals:
            parts[1:1] = [parts[0][longest:]]
            draft = Draft(parts[0][:longest])
        if len(parts) > 1:
            ready[signature] = [call for part in parts[1:] for call in part]
        done, left = run_segment(draft, self.compiled, may_leave=draft.is_closed(self._wanted))
        for call in left:
            call.is_left = True
            self._left[call] = None
        return done


def _linked(calls: Iterable[Call]) -> Ready:
    """Find out who waits for whom; return the calls that wait for none, by kernel."""
    ready: Ready = {}
    for call in calls:
        producers = {leaf.call for leaf in call.inputs if isinstance(leaf, Handle) and leaf.call is not None}
        call.missing = len(producers)
        for producer in producers:
            producer.consumers.append(call)
        if not producers:
            ready.setdefault(call.group, []).append(call)
    return ready


def _release(done: Sequence[Call], ready: Ready) -> None:
    """Take calls that have run off those that are ready, and add those that waited for nothing else."""
    for call in done:
        call.is_done, call.inputs = True, []
    for group in {call.group for call in done} & set(ready):
        ready[group] = [call for call in ready[group] if not call.is_done]
        if not ready[group]:
            del ready[group]
    for call in done:
        consumers, call.consumers = call.consumers, []
        for consumer in consumers:
            consumer.missing -= 1
            if not (consumer.missing or consumer.is_done):
                ready.setdefault(consumer.group, []).append(consumer)


def _pop_next(ready: Ready) -> list[Call]:
    """Take the calls of the kernel that most calls are ready of."""
    return ready.pop(max(ready, key=lambda group: len(ready[group]) * ready[group][0].num))


def _chains(calls: Sequence[Call]) -> dict[Signature, deque[Call]]:
    """Return the updates of each kernel all of whose calls form a single chain."""
    chains: dict[Signature, deque[Call]] = {}
    for call in calls:
        if call.signature.num_carried and not isinstance(call, LaneCall):
            chains.setdefault(call.signature, deque()).append(call)
    return {
        signature: updates
        for signature, updates in chains.items()
        if len(updates) > 1 and sum(not _is_carried_on(call) for call in updates) == 1
    }


def _is_carried_on(call: Call) -> bool:
    """Whether a call takes up the result of another of its kernel."""
    first = call.inputs[0]
    return type(first) is Handle and first.call is not None and takes_up(call, first.call)


def _stack_up(calls: Sequence[Call]) -> None:
    """Bring data that is in many places together, so that the calls may run as rows."""
    import jax.numpy as jnp

    for place, leaves in enumerate(zip(*[call.inputs for call in calls], strict=True)):
        first = leaves[0]
        if type(first) is not Handle or all(leaf.stack is first.stack for leaf in leaves):
            continue
        stack = Stack(jnp.stack([leaf.array for leaf in leaves]), len(leaves))
        for row, call in enumerate(calls):
            handle = Handle(first.execution, first.shape, first.dtype, first.code)
            handle.stack, handle.row = stack, row
            call.inputs[place] = handle
