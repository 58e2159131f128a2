"""A weighted sum of gradients is the gradient of a weighted sum: no row's gradient need ever be in memory.

Where the rows of a segment are gradients at the same parameters, and all that anybody wants of them is one weighted
total, perhaps scaled or laid out as a vector first, the total is one backward pass over all rows. That is what makes
large worlds cheap: a gradient has the size of the model, what a row passes back has the size of its activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psgdsim.sim.execution.rows import Segment, Source


def can_sum(segment: Segment) -> bool:
    """Whether the rows of a segment are gradients of which one total is wanted, and else values alone.

    Args:
        segment: the segment.
    """
    first = segment.signatures[0]
    if first.objective is None or segment.chunk == 0 or len(segment.totals) != 1:
        return False
    num_values = len(first.objective.out_avals)
    places = [source.leaf for source in segment.sources[0]]
    num_params = len(first.out_avals) - num_values
    return (
        all(segment.layouts[place] == "shared" for place in places[:num_params])
        and any(segment.layouts[place] == "row" for place in places[num_params:])
        and all(is_value(segment, source) for source in segment.live)
        and all(_is_linear(segment, source, num_values) for source in segment.totals[0].addends)
    )


def is_value(segment: Segment, source: Source) -> bool:
    """Whether a leaf is a value whose gradient the rows are."""
    objective = segment.signatures[0].objective
    return objective is not None and source.step == 0 and source.leaf < len(objective.out_avals)


def _is_linear(segment: Segment, source: Source, num_values: int) -> bool:
    """Whether a leaf is a gradient, or linear in the gradient of its row and in nothing else that differs."""
    if source.step < 0:
        return segment.layouts[source.leaf] == "shared"
    if source.step == 0:
        return source.leaf >= num_values
    sources = segment.sources[source.step]
    return (
        segment.signatures[source.step].kernel.is_linear
        and any(each.step >= 0 for each in sources)
        and all(_is_linear(segment, each, num_values) for each in sources)
    )


def summed_rows(segment: Segment, consts: Sequence[Any], inputs: Sequence[Any], weights: Any) -> tuple[Any, Any]:
    """Compute what is wanted of the rows, and the total, chunk by chunk.

    Args:
        segment: a segment that `can_sum`.
        consts: per kernel what it closes over; of the first, what its objective does.
        inputs: from outside.
        weights: of the rows, `(rows,)`.

    Returns:
        Live leaves and totals, as a segment's function does.
    """
    import jax
    import jax.numpy as jnp

    objective = segment.signatures[0].objective
    assert objective is not None
    places = [source.leaf for source in segment.sources[0]]
    num_params = len(segment.signatures[0].out_avals) - len(objective.out_avals)
    params, others = [inputs[place] for place in places[:num_params]], places[num_params:]
    axes = [0 if segment.layouts[place] == "row" else None for place in others]
    moving = [inputs[place] for place, axis in zip(others, axes, strict=True) if axis == 0]

    def step(total: Sequence[Any], chunk: Any) -> tuple[list[Any], list[Any]]:
        rows, weights = chunk
        moves = iter(rows)
        data = [next(moves) if axis == 0 else inputs[place] for place, axis in zip(others, axes, strict=True)]

        def values(params: Sequence[Any]) -> list[Any]:
            return jax.vmap(lambda *data: objective.run(consts[0], [*params, *data]), axes)(*data)

        found, pull_back = jax.vjp(values, params)
        [gradient] = pull_back([weights.astype(value.dtype) for value in found])
        return [t + g for t, g in zip(total, gradient, strict=True)], found

    num = len(weights)
    size = min(segment.chunk, num)
    chunks = jax.tree.map(lambda x: x.reshape(num // size, size, *x.shape[1:]), (moving, weights))
    gradient, values = jax.lax.scan(step, [jnp.zeros_like(each) for each in params], chunks)
    values = [value.reshape(num, *value.shape[2:]) for value in values]
    [total] = segment.totals
    leaves = _follow(segment, consts, inputs, len(values), gradient)
    found = [leaves(source).astype(dtype) for source, dtype in zip(total.addends, total.dtypes, strict=True)]
    return [values[source.leaf] for source in segment.live], [found]


def _follow(
    segment: Segment, consts: Sequence[Any], inputs: Sequence[Any], num_values: int, gradient: Sequence[Any]
) -> Any:
    """Return what finds a leaf of what follows the total gradient."""
    results: dict[int, list[Any]] = {}

    def find(source: Source) -> Any:
        if source.step < 0:
            return inputs[source.leaf]
        if source.step == 0:
            return gradient[source.leaf - num_values]
        if source.step not in results:
            data = [find(each) for each in segment.sources[source.step]]
            results[source.step] = segment.signatures[source.step].run(consts[source.step], data)
        return results[source.step][source.leaf]

    return find
