"""Programs that run many calls at once: what is compiled for a segment, a chain or a total.

A segment is a few kernels that follow each other, for many rows (calls) that do not depend on each other, perhaps with
weighted totals over the rows at the end. It is one jitted function: rows are vectorised with `vmap`, in chunks that
stay in the processor's cache, and totals are taken chunk by chunk, so that what each row contributes need never be in
memory for all rows. With several devices (see `devices`), each has its part of the rows, and totals of parts are added
up. A chain of updates, each of which takes up the result of the one before, is a `scan`; all devices run it alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from psgdsim.sim.execution import devices
from psgdsim.sim.execution.gradient_sums import summed_rows
from psgdsim.sim.execution.signature import Signature

Layout = Literal["shared", "row", "gather", "slot"]
"""How rows find an input: all use one array; each its own row, in order; each some row of a stack; each some result of
the chain that they belong to. The last two only in scans."""


class Source(NamedTuple):
    """Where a leaf of a kernel's arguments comes from.

    Args:
        step: the place in the segment of the kernel that computes it; -1 if it comes from outside.
        leaf: which leaf of that kernel's result, or which input from outside.
    """

    step: int
    leaf: int


class Total(NamedTuple):
    """A weighted total over rows.

    Args:
        addends: where each leaf of what is added comes from.
        dtypes: of the total's leaves.
    """

    addends: tuple[Source, ...]
    dtypes: tuple[Any, ...]


class Segment(NamedTuple):
    """What is compiled; two segments that are equal share what has been compiled.

    Args:
        signatures: the kernels, one after the other.
        sources: for each, where the data among its arguments comes from.
        layouts: of the inputs from outside.
        live: what is wanted of each row.
        totals: what is wanted of all rows together.
        chunk: rows that a device computes at once; 0 for a single row without an axis of rows.
        is_masked: whether some rows have no part in some total.
        is_summed: whether the total is one gradient (see `gradient_sums`).
        tail: the kernels that follow the totals, once for all rows.
        tail_sources: for each, where its data comes from; there and in `tail_live` totals are numbered as if they were
            further kernels, and then come these.
        tail_live: what is wanted of totals and of the kernels that follow them.
    """

    signatures: tuple[Signature, ...]
    sources: tuple[tuple[Source, ...], ...]
    layouts: tuple[Layout, ...]
    live: tuple[Source, ...]
    totals: tuple[Total, ...]
    chunk: int
    is_masked: bool = False
    is_summed: bool = False
    tail: tuple[Signature, ...] = ()
    tail_sources: tuple[tuple[Source, ...], ...] = ()
    tail_live: tuple[Source, ...] = ()


def compile_segment(segment: Segment) -> Callable[..., Any]:
    """Return the jitted function of a segment (see `function_of`).

    Args:
        segment: what to compile.
    """
    return devices.jit(function_of(segment), "shared" if segment.chunk == 0 else ("rows", "shared"))


def function_of(segment: Segment) -> Callable[..., Any]:
    """Return the function of a segment.

    Args:
        segment: what it is to compute.

    Returns:
        `(consts, inputs, weights) -> (live leaves, live leaves of the tail)`: per kernel, those of the tail at last,
        what it closes over; per input an array; per total a weight for each row.
    """
    import jax

    def rows(consts: Any, inputs: Any, weights: Any) -> Any:
        axes = [0 if layout == "row" else None for layout in segment.layouts]

        def one(*inputs: Any) -> tuple[list[Any], list[list[Any]]]:
            return _one_row(segment, consts, inputs)

        if segment.chunk == 0:
            return one(*inputs)[0], []
        if segment.is_summed:
            return summed_rows(segment, consts, inputs, weights[0])
        return _all_rows(segment, jax.vmap(one, axes) if 0 in axes else one, inputs, weights)

    if segment.chunk == 0:
        return rows
    spread = devices.spread(rows, devices.places(segment.layouts))

    def function(consts: Any, inputs: Any, weights: Any) -> Any:
        num = len(segment.signatures)
        live, totals = spread(consts[:num], inputs, weights)
        return live, _follow_totals(segment, consts[num:], inputs, totals)

    return function


def _follow_totals(segment: Segment, consts: Sequence[Any], inputs: Sequence[Any], totals: Sequence[Any]) -> list[Any]:
    """Compute what follows the totals; return what is wanted of both."""
    results = list(totals)

    def find(source: Source) -> Any:
        return inputs[source.leaf] if source.step < 0 else results[source.step - len(segment.signatures)][source.leaf]

    for signature, sources, closed_over in zip(segment.tail, segment.tail_sources, consts, strict=True):
        results.append(signature.run(closed_over, [find(source) for source in sources]))
    return [find(source) for source in segment.tail_live]


def _one_row(segment: Segment, consts: Sequence[Any], inputs: Sequence[Any]) -> tuple[list[Any], list[list[Any]]]:
    """Compute one row; return what is wanted of it and what it adds to each total."""
    results: list[list[Any]] = []

    def find(source: Source) -> Any:
        return inputs[source.leaf] if source.step < 0 else results[source.step][source.leaf]

    for signature, sources, closed_over in zip(segment.signatures, segment.sources, consts, strict=True):
        results.append(signature.run(closed_over, [find(source) for source in sources]))
    return [find(source) for source in segment.live], [[find(each) for each in t.addends] for t in segment.totals]


def _all_rows(segment: Segment, rows: Callable[..., Any], inputs: Any, weights: Any) -> tuple[Any, Any]:
    """Compute all rows, chunk by chunk."""
    import jax
    import jax.numpy as jnp

    moving = [each for each, layout in zip(inputs, segment.layouts, strict=True) if layout == "row"]

    def add_up(moving: Any, weights: Any) -> tuple[Any, Any]:
        moves = iter(moving)
        live, addends = rows(
            *(next(moves) if layout == "row" else each for each, layout in zip(inputs, segment.layouts, strict=True))
        )
        totals = [
            [
                weigh(weight, leaf, dtype, is_masked=segment.is_masked)
                for leaf, dtype in zip(leaves, total.dtypes, strict=True)
            ]
            for weight, leaves, total in zip(weights, addends, segment.totals, strict=True)
        ]
        return live, totals

    num = len(jax.tree.leaves((moving, weights))[0])
    if num <= segment.chunk:
        return add_up(moving, weights)

    def step(totals: Any, chunk: Any) -> tuple[Any, Any]:
        live, more = add_up(*chunk)
        return jax.tree.map(jnp.add, totals, more), live

    chunks = jax.tree.map(lambda x: x.reshape(num // segment.chunk, segment.chunk, *x.shape[1:]), (moving, weights))
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(add_up, *jax.tree.map(lambda x: x[0], chunks))[1])
    totals, live = jax.lax.scan(step, zeros, chunks)
    return jax.tree.map(lambda x: x.reshape(num, *x.shape[2:]), live), totals


def weigh(weights: Any, rows: Any, dtype: Any, *, is_masked: bool) -> Any:
    """Return the weighted sum over the first axis; a product with a vector is much quicker than a strided sum.

    Args:
        weights: of the rows.
        rows: what is added.
        dtype: of the sum.
        is_masked: whether rows of weight 0 have no part in it, even if they are infinite.
    """
    import jax.numpy as jnp

    flat = rows.reshape(rows.shape[0], -1).astype(dtype)
    if is_masked:
        flat = jnp.where(weights[:, None] != 0, flat, 0)
    return (weights.astype(dtype) @ flat).reshape(rows.shape[1:])


class Scan(NamedTuple):
    """A chain of updates with what each needs; two that are equal share what has been compiled.

    Args:
        update: the kernel that goes along the chain.
        signatures: the kernels of a row before it, one after the other.
        sources: for each, and for the update at last, where its data comes from.
        layouts: of the inputs from outside; `slot` for what is kept of the chain's own results.
        slots: for each of these inputs the leaf of the results that it is.
        kept: the leaves of the results that slots hold.
        live: what is wanted of each row.
        carried: for each leaf that is carried the place among those kept of the slots that it is in at first; None if
            it is elsewhere.
    """

    update: Signature
    signatures: tuple[Signature, ...]
    sources: tuple[tuple[Source, ...], ...]
    layouts: tuple[Layout, ...]
    slots: tuple[int, ...]
    kept: tuple[int, ...]
    live: tuple[Source, ...]
    carried: tuple[int | None, ...]


def compile_scan(scan: Scan) -> Callable[..., Any]:
    """Return the jitted function of a chain.

    Args:
        scan: what to compile.

    Returns:
        `(num, consts, carry, slots, inputs, reads, writes) -> (last result, slots, live leaves of all rows)`. How many
        rows there are, of which the arrays of rows may have more; `consts` as of a segment, those of the update at
        last; in `carry` pairs of an array, or None for slots, and a row of it or None; per leaf that is kept an array
        of slots, given away; in `inputs` an array, `(stack, indices)` for `gather`, None for `slot`; for each row the
        slot that it reads, and the one that its result goes to.
    """
    import jax
    import jax.numpy as jnp

    def function(num: Any, consts: Any, carry: Any, slots: Any, inputs: Any, reads: Any, writes: Any) -> Any:
        arrays = [
            array if place is None else slots[place] for place, (array, _) in zip(scan.carried, carry, strict=True)
        ]
        carry = [array if row is None else array[row] for array, (_, row) in zip(arrays, carry, strict=True)]
        moving = [
            each if layout == "row" else each[1]
            for each, layout in zip(inputs, scan.layouts, strict=True)
            if layout in ("row", "gather")
        ]

        def step(state: tuple[list[Any], list[Any]], row: Any) -> tuple[tuple[list[Any], list[Any]], list[Any]]:
            (carry, slots), (read, write, moving) = state, row
            moves, leaves = iter(moving), iter(scan.slots)
            outside = []
            for each, layout in zip(inputs, scan.layouts, strict=True):
                if layout == "slot":
                    outside.append(slots[scan.kept.index(next(leaves))][read])
                elif layout == "gather":
                    outside.append(each[0][next(moves)])
                else:
                    outside.append(next(moves) if layout == "row" else each)
            results: list[list[Any]] = []

            def find(source: Source) -> Any:
                return outside[source.leaf] if source.step < 0 else results[source.step][source.leaf]

            for signature, sources, closed_over in zip(scan.signatures, scan.sources[:-1], consts[:-1], strict=True):
                results.append(signature.run(closed_over, [find(source) for source in sources]))
            new = scan.update.run(consts[-1], [*carry, *[find(source) for source in scan.sources[-1]]])
            slots = [each.at[write].set(new[leaf]) for each, leaf in zip(slots, scan.kept, strict=True)]
            return (new, slots), [find(source) for source in scan.live]

        # A scan over as many rows as there are: one program for all numbers up to the length of the arrays.
        rows = reads, writes, moving
        _, shapes = jax.eval_shape(step, (carry, slots), jax.tree.map(lambda each: each[0], rows))
        live = [jnp.zeros((len(reads), *each.shape), each.dtype) for each in shapes]

        def one(place: Any, state: Any) -> Any:
            before, live = state
            after, found = step(before, jax.tree.map(lambda each: each[place], rows))
            return after, [each.at[place].set(new) for each, new in zip(live, found, strict=True)]

        (last, slots), live = jax.lax.fori_loop(0, num, one, ((carry, slots), live))
        return last, slots, live

    return devices.jit(function, "shared", donate_argnames=("slots",))
