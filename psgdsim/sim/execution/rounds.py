"""Programs that run many rounds in one call: a loop over a segment that takes up its own results.

A round of ranks that are carried on as one is a segment. If the next is the same segment, at the parameters that this
one leaves, both run in one call, and so on: jax is called, and its arrays are made, once for many rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from psgdsim.sim.execution import devices
from psgdsim.sim.execution.rows import Segment, Source, function_of


class Rounds(NamedTuple):
    """What is compiled; two that are equal share what has been compiled.

    Args:
        segment: one round; `live` and `tail_live` are all that is wanted of any, or taken up.
        carried: for each input the result of the round before that it is, or None.
        own: the inputs of which each round has its own.
        kept: the results that are wanted of every round; others are wanted of the last alone.
        length: how many rounds there are at most.
    """

    segment: Segment
    carried: tuple[Source | None, ...]
    own: tuple[int, ...]
    kept: tuple[Source, ...]
    length: int

    @property
    def results(self) -> tuple[Source, ...]:
        """All that is computed in a round for others."""
        return (*self.segment.live, *self.segment.tail_live)


def compile_rounds(rounds: Rounds) -> Callable[..., Any]:
    """Return the jitted function of rounds.

    Args:
        rounds: what to compile.

    Returns:
        `(num, consts, inputs, weights) -> (results of the last round, kept results of all)`. `num` rounds are run. What
        each has of its own, and what is kept, has an axis of rounds in front, `length` long; consts and weights are
        those of the segment.
    """
    import jax
    import jax.numpy as jnp

    one_round = function_of(rounds.segment)

    def function(num: Any, consts: Any, inputs: Any, weights: Any) -> Any:
        def run(carry: dict[Source, Any], place: Any) -> dict[Source, Any]:
            filled = [each[place] if i in rounds.own else each for i, each in enumerate(inputs)]
            filled = [
                each if source is None else carry[source] for each, source in zip(filled, rounds.carried, strict=True)
            ]
            live, tail = one_round(consts, filled, weights)
            return dict(zip(rounds.results, [*live, *tail], strict=True))

        carry = {source: each for each, source in zip(inputs, rounds.carried, strict=True) if source is not None}
        shapes = jax.eval_shape(run, carry, 0)
        blank = {source: jnp.zeros(shapes[source].shape, shapes[source].dtype) for source in rounds.results}
        rows = [jnp.zeros((rounds.length, *shapes[source].shape), shapes[source].dtype) for source in rounds.kept]

        def step(place: Any, state: Any) -> Any:
            before, kept = state
            found = run(before, place)
            return found, [each.at[place].set(found[source]) for each, source in zip(kept, rounds.kept, strict=True)]

        last, rows = jax.lax.fori_loop(0, num, step, ({**blank, **carry}, rows))
        return [last[source] for source in rounds.results], rows

    return devices.jit(function, "shared")
