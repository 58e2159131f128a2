"""One segment, or one weighted sum of rows that were computed before, made ready and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np

from psgdsim.sim.execution import devices
from psgdsim.sim.execution.compiled import Compiled
from psgdsim.sim.execution.draft import Draft, is_shared
from psgdsim.sim.execution.gradient_sums import can_sum, is_value
from psgdsim.sim.execution.handles import Call, Handle, Stack
from psgdsim.sim.execution.rows import Layout, Segment, Source, compile_segment, weigh
from psgdsim.sim.execution.signature import Signature

CHUNK_NBYTES: Final = 8 << 20
"""About so many bytes of results are computed at once, for they stay in the processor's cache."""

WORK_NBYTES: Final = 32 << 20
"""About so much is in memory while rows of a gradient are computed whose sum alone is wanted [byte]."""

SMALLEST_CHUNK: Final = 8
"""Rows that are computed at once at least."""


def run_segment(draft: Draft, compiled: Compiled, *, may_leave: bool = False) -> tuple[list[Call], list[Call]]:
    """Run a segment, and tell all handles where their arrays are.

    Args:
        draft: what to run.
        compiled: what was compiled.
        may_leave: whether calls may be left whose sum alone is needed, though programs hold what they return.

    Returns:
        The calls that have run, and those that have been left.
    """
    signatures = tuple(step[0].signature for step in draft.steps)
    size, chunk = _size(draft, compiled)
    inputs, layouts = _inputs(draft, size, compiled)
    weights = [devices.put(padded(each, size), "rows") for each in draft.weights]
    outside = draft.release()
    live = tuple(
        Source(step, leaf)
        for step, calls in enumerate(draft.steps)
        for leaf in range(len(signatures[step].out_avals))
        if any(call.is_wanted(leaf) for call in calls)
    )
    is_partial = any(0.0 in each for each in draft.weights)
    is_masked = is_partial or (bool(draft.weights) and size > draft.num)
    segment = Segment(
        signatures, tuple(draft.sources), layouts, live, tuple(draft.totals), chunk, is_masked,
        tail_live=wanted(draft.total_calls, len(draft.steps)),
    )  # fmt: skip
    if not is_partial:
        segment = summed(segment, size, may_leave=may_leave)
    consts = [compiled.consts(signature) for signature in signatures]
    if segment.is_summed:
        consts[0] = compiled.consts(cast(Signature, signatures[0].objective))
    arrays, totals = compiled.call(segment, compile_segment, consts, inputs, weights)
    for source, array in zip(segment.live, arrays, strict=True):
        stack = Stack(array, size if chunk else 0)
        for row, call in enumerate(draft.steps[source.step]):
            call.settle(source.leaf, stack, row)
    for source, array in zip(segment.tail_live, totals, strict=True):
        draft.total_calls[source.step - len(signatures)].settle(source.leaf, Stack(array))
    left = draft.restore(outside, set(live) - set(segment.live))
    done = [call for step in draft.steps for call in step if call not in left]
    return [*done, *draft.total_calls], list(left)


def wanted(calls: Sequence[Call], first: int) -> tuple[Source, ...]:
    """Return the leaves of results that somebody wants.

    Args:
        calls: whose results.
        first: the place of the first one among what a segment computes.
    """
    leaves = [(place, call, leaf) for place, call in enumerate(calls, first) for leaf in range(len(call.outputs))]
    return tuple([Source(place, leaf) for place, call, leaf in leaves if call.is_wanted(leaf)])


def summed(segment: Segment, size: int, *, may_leave: bool = False) -> Segment:
    """Return what computes a sum of gradients as one gradient, if that is all that is needed.

    Args:
        segment: what is to be computed.
        size: how many rows it has.
        may_leave: whether single gradients may be left out, though somebody holds them.
    """
    values = tuple(source for source in segment.live if is_value(segment, source))
    found = segment._replace(live=values if may_leave else segment.live)
    if not can_sum(found):
        return segment
    objective = cast(Signature, segment.signatures[0].objective)
    fits = 1 << (max(1, WORK_NBYTES // max(1, objective.work_nbytes)).bit_length() - 1)
    chunk = _largest_divisor(size // devices.num_devices(), fits)
    return found._replace(is_summed=True, is_masked=False, chunk=chunk)


def _size(draft: Draft, compiled: Compiled) -> tuple[int, int]:
    """Return how many rows are computed, some perhaps for nothing, and how many at once per device; 0 for one alone."""
    if all(is_shared(leaves) for leaves in draft.outside):
        return 1, 0
    chunk, num = _chunk(draft.row_nbytes), devices.num_devices()
    part = -(-compiled.longer(draft.steps[0][0].signature, draft.num) // num)
    # A part of a round number may be odd: it could not be cut into smaller chunks.
    unit = chunk if part > chunk else SMALLEST_CHUNK if num > 1 and part > SMALLEST_CHUNK else 1
    return num * -(-part // unit) * unit, chunk


def _chunk(row_nbytes: int) -> int:
    """Return how many rows are computed at once at most."""
    fits = max(1, CHUNK_NBYTES // max(1, row_nbytes))
    return max(SMALLEST_CHUNK, 1 << (fits.bit_length() - 1))


def size_of(num_rows: int, row_nbytes: int) -> tuple[int, int]:
    """Return how many rows are computed where there are always so many, and how many at once per device."""
    most, num = _chunk(row_nbytes), devices.num_devices()
    part = -(-num_rows // num)
    if part <= most:
        return num * part, most
    chunk = _largest_divisor(part, most)
    if 2 * chunk < most:
        chunk = most
    return num * -(-part // chunk) * chunk, chunk


def _largest_divisor(num: int, most: int) -> int:
    """Return the largest number that divides another and is not larger than a third."""
    return next(each for each in range(min(num, most), 0, -1) if num % each == 0)


def _inputs(draft: Draft, size: int, compiled: Compiled) -> tuple[list[Any], tuple[Layout, ...]]:
    """Return an array for each piece of data from outside, and how rows find theirs in it."""
    inputs: list[Any] = []
    layouts: list[Layout] = []
    to_take: dict[bytes, tuple[Any, list[int]]] = {}
    for place, (leaves, dtype) in enumerate(zip(draft.outside, draft.dtypes, strict=True)):
        first, is_same = leaves[0], is_shared(leaves)
        layouts.append("shared" if is_same else "row")
        if type(first) is not Handle:
            inputs.append(np.asarray(first if is_same else _filled_up(leaves, size), dtype))
            continue
        stack = first.ready
        inputs.append(stack.array if stack.num else stack.share())
        if stack.num:
            rows = [leaf.row for leaf in leaves]
            if is_same:
                index = np.asarray(first.row, np.int32)
            elif stack.num == size and rows == list(range(size)):
                continue
            else:
                index = np.asarray(_filled_up(rows, size), np.int32)
            to_take.setdefault(index.tobytes(), (index, []))[1].append(place)
    for index, places in to_take.values():
        for place, array in zip(places, take([inputs[place] for place in places], index, compiled), strict=True):
            inputs[place] = array
    return [devices.put(*each) for each in zip(inputs, devices.places(layouts), strict=True)], tuple(layouts)


def _filled_up(items: Sequence[Any], size: int) -> list[Any]:
    return [*items, *[items[-1]] * (size - len(items))]


def padded(weights: Sequence[float], size: int) -> Any:
    """Return weights with zeros behind them."""
    padded = np.zeros(size, np.float32)
    padded[: len(weights)] = weights
    return padded


def take(arrays: list[Any], index: Any, compiled: Compiled) -> list[Any]:
    """Return rows of some arrays, or one."""

    def compiler(what: tuple[str, devices.Place]) -> Callable[..., Any]:
        return devices.jit(lambda arrays, index: [array[index] for array in arrays], what[1])

    place: devices.Place = "rows" if index.ndim else "shared"
    return compiled.call(("take", place), compiler, arrays, devices.put(index, place))  # type: ignore[no-any-return]


def run_total(call: Call, compiled: Compiled) -> None:
    """Take a weighted sum of rows that were computed before."""
    num = call.signature.num_addends
    weights = [leaf.array if type(leaf) is Handle else leaf for leaf in call.inputs[:num]]
    leaves = call.inputs[num:]
    width = len(leaves) // num
    for leaf, aval in enumerate(call.signature.out_avals):
        by_stack: dict[int, tuple[Stack, Any]] = {}
        for weight, addend in zip(weights, leaves[leaf::width], strict=True):
            stack = addend.ready
            _, of_rows = by_stack.setdefault(id(stack), (stack, np.zeros(stack.num or 1, np.float32)))
            of_rows[addend.row] += weight
        parts = [weighed(of_rows, stack, aval.dtype, compiled) for stack, of_rows in by_stack.values()]
        call.settle(leaf, Stack(sum(parts[1:], start=parts[0])))


def weighed(weights: Any, stack: Stack, dtype: Any, compiled: Compiled) -> Any:
    """Return the weighted sum of a stack's rows."""
    is_masked = not weights.all()

    def compiler(_: tuple[str, Any, bool]) -> Callable[..., Any]:
        return devices.jit(lambda weights, rows: weigh(weights, rows, dtype, is_masked=is_masked), "shared")

    rows = stack.array if stack.num else stack.share()[None]
    return compiled.call(("weigh", str(dtype), is_masked), compiler, weights, rows)
