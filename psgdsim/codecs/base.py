"""What a codec is.

A codec is three pure, jit-able functions in the manner of optax's gradient transformations:

    init(like) -> state                                  the state of one end of one direction
    encode(update, state, key) -> (payload, state)       at the sender; the payload is what crosses the wire
    decode(payload, state, like) -> (update, state)      at the receiver

`update`, `like` and what `decode` returns are pytrees of float arrays of the same shapes and dtypes. A payload is a
pytree of arrays whose shapes and dtypes depend only on those of `like`, so its size is known before it is computed.
Both ends may hold state, each its own, started with `init`. `key` is a jax random key that differs for every call.

Two things are optional:

    pack(payload, like) -> payload                       on the host, in plain numpy: to arrays of any size
    unpack(payload, like) -> payload                     and back, which checks what it is given
    reduction                                            how the sum of many updates is coded in rounds (`Reduction`)

A codec only codes: who sends what to whom, and who waits, is the strategy's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psgdsim.errors import CodecError
from psgdsim.registry import Family

if TYPE_CHECKING:
    import jax

PyTree = Any
State = Any
Payload = Any


@dataclass(frozen=True)
class Reduction:
    """How a codec rides an all-reduce: in rounds, each of which adds up one payload of every rank.

    Args:
        rounds: `(update, state, totals, key) -> payload`, one per round: what a rank adds, given the sums of the rounds
            before; a pytree of float arrays whose shapes depend only on those of `update`.
        finish: `(update, state, totals, world_size) -> (sum of the updates as decoded, state)`, given the sums of all
            rounds.
        largest: the rounds, from 0, that find the largest of each value over all ranks instead of the sum; every rank
            sends these to all others.
        max_ranks: of how many ranks at most the sums are right; None for any number.
    """

    rounds: tuple[Callable[[PyTree, State, tuple[Payload, ...], jax.Array], Payload], ...]
    finish: Callable[[PyTree, State, tuple[Payload, ...], Any], tuple[PyTree, State]]
    largest: frozenset[int] = frozenset()
    max_ranks: int | None = None


@dataclass(frozen=True)
class Codec:
    """A gradient codec (see the module's text).

    Args:
        init: makes the state of one end.
        encode: turns an update into a payload.
        decode: turns a payload back into an update.
        is_summable: whether payloads may be added leaf by leaf instead of the updates they stand for, so that they
            may ride an all-reduce without being decoded.
        is_identity: whether payloads are the updates themselves.
        pack: turns a payload into arrays whose sizes may depend on the values (entropy coding); None if payloads cross
            the wire as they are. It runs on the host and is never jitted.
        unpack: the inverse of `pack`; raises `CodecError` if what it is given is no packed payload.
        reduction: how the codec rides an all-reduce where payloads cannot just be added; None if it cannot.
        is_structured: whether it looks at the names or the shapes of single arrays, so that it must be given the whole
            update; a combinator passes it on.
        is_ragged: whether `pack` leaves out or hides floats of a payload, so that no other codec can code them; a
            combinator passes it on.
    """

    init: Callable[[PyTree], State]
    encode: Callable[[PyTree, State, jax.Array], tuple[Payload, State]]
    decode: Callable[[Payload, State, PyTree], tuple[PyTree, State]]
    is_summable: bool = False
    is_identity: bool = False
    pack: Callable[[Payload, PyTree], Payload] | None = None
    unpack: Callable[[Payload, PyTree], Payload] | None = None
    reduction: Reduction | None = None
    is_structured: bool = False
    is_ragged: bool = False


codecs = Family("codec", product=Codec)
register_codec = codecs.register


def stateless(
    encode: Callable[[PyTree, jax.Array], Payload],
    decode: Callable[[Payload, PyTree], PyTree],
    *,
    is_summable: bool = False,
    pack: Callable[[Payload, PyTree], Payload] | None = None,
    unpack: Callable[[Payload, PyTree], Payload] | None = None,
) -> Codec:
    """Make a codec of two functions that need no memory.

    Args:
        encode: `(update, key) -> payload`.
        decode: `(payload, like) -> update`.
        is_summable: as in `Codec`.
        pack: as in `Codec`.
        unpack: as in `Codec`.

    Returns:
        The codec; its state is the empty tuple.
    """
    return Codec(
        init=lambda _like: (),
        encode=lambda update, state, key: (encode(update, key), state),
        decode=lambda payload, state, like: (decode(payload, like), state),
        is_summable=is_summable,
        pack=pack,
        unpack=unpack,
    )


@register_codec("leafwise")
def leafwise(codec: Codec) -> Codec:
    """Apply a codec to each array apart, with its own state and its own key.

    Wire size: the sum of those of the arrays.

    Args:
        codec: a codec that takes single arrays.

    Returns:
        A codec that takes pytrees; payload and state are lists in the order of the leaves.
    """

    def init(like: PyTree) -> State:
        import jax

        return [codec.init(leaf) for leaf in jax.tree.leaves(like)]

    def encode(update: PyTree, state: State, key: jax.Array) -> tuple[Payload, State]:
        import jax

        leaves = jax.tree.leaves(update)
        coded = [codec.encode(leaf, state[i], jax.random.fold_in(key, i)) for i, leaf in enumerate(leaves)]
        return [payload for payload, _ in coded], [after for _, after in coded]

    def decode(payload: Payload, state: State, like: PyTree) -> tuple[PyTree, State]:
        import jax

        leaves, structure = jax.tree.flatten(like)
        decoded = [codec.decode(payload[i], state[i], leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, [leaf for leaf, _ in decoded]), [after for _, after in decoded]

    return Codec(
        init,
        encode,
        decode,
        codec.is_summable,
        pack=_each_leaf(codec.pack),
        unpack=_each_leaf(codec.unpack),
        reduction=None if codec.reduction is None else _leafwise_reduction(codec.reduction),
        is_structured=codec.is_structured,
        is_ragged=codec.is_ragged,
    )


def _each_leaf(function: Callable[[Payload, PyTree], Payload] | None) -> Callable[[Payload, PyTree], Payload] | None:
    """Return `pack` or `unpack` for lists of payloads, one per leaf."""
    if function is None:
        return None

    def each_leaf(payload: Payload, like: PyTree) -> Payload:
        import jax

        leaves = jax.tree.leaves(like)
        if not isinstance(payload, list | tuple) or len(payload) != len(leaves):
            raise CodecError(f"payload: expected a list of {len(leaves)}, one per array of the update; got {payload!r}")
        return [function(part, leaf) for part, leaf in zip(payload, leaves, strict=True)]

    return each_leaf


def _leafwise_reduction(reduction: Reduction) -> Reduction:
    def each_leaf(start: Callable[..., Payload]) -> Callable[..., Payload]:
        def payloads(update: PyTree, state: State, totals: tuple[Payload, ...], key: jax.Array) -> Payload:
            import jax

            return [
                start(leaf, state[i], tuple(total[i] for total in totals), jax.random.fold_in(key, i))
                for i, leaf in enumerate(jax.tree.leaves(update))
            ]

        return payloads

    def finish(update: PyTree, state: State, totals: tuple[Payload, ...], world_size: Any) -> tuple[PyTree, State]:
        import jax

        leaves, structure = jax.tree.flatten(update)
        ends = [
            reduction.finish(leaf, state[i], tuple(total[i] for total in totals), world_size)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, [leaf for leaf, _ in ends]), [after for _, after in ends]

    return replace(reduction, rounds=tuple(each_leaf(start) for start in reduction.rounds), finish=finish)


@register_codec("flat")
def flat(codec: Codec) -> Codec:
    """Apply a codec to the whole update as one vector.

    Wire size: that for the vector.

    Args:
        codec: a codec that takes one 1-D array.

    Returns:
        A codec that takes pytrees whose leaves share one dtype, concatenated in the order of the leaves.
    """

    def init(like: PyTree) -> State:
        from jax.flatten_util import ravel_pytree

        return codec.init(ravel_pytree(like)[0])

    def encode(update: PyTree, state: State, key: jax.Array) -> tuple[Payload, State]:
        from jax.flatten_util import ravel_pytree

        return codec.encode(ravel_pytree(update)[0], state, key)

    def decode(payload: Payload, state: State, like: PyTree) -> tuple[PyTree, State]:
        from jax.flatten_util import ravel_pytree

        vector, unravel = ravel_pytree(like)
        decoded, state = codec.decode(payload, state, vector)
        return unravel(decoded), state

    return Codec(
        init,
        encode,
        decode,
        codec.is_summable,
        pack=_as_vector(codec.pack),
        unpack=_as_vector(codec.unpack),
        reduction=None if codec.reduction is None else _flat_reduction(codec.reduction),
        is_ragged=codec.is_ragged,
    )


def _as_vector(function: Callable[[Payload, PyTree], Payload] | None) -> Callable[[Payload, PyTree], Payload] | None:
    """Return `pack` or `unpack` that is told of one vector instead of a tree."""
    if function is None:
        return None

    def as_vector(payload: Payload, like: PyTree) -> Payload:
        import jax
        import numpy as np

        leaves = jax.tree.leaves(like)
        # A view of one zero: only shape and dtype are looked at.
        vector = np.broadcast_to(np.zeros((), leaves[0].dtype), (sum(math.prod(leaf.shape) for leaf in leaves),))
        return function(payload, vector)

    return as_vector


def _flat_reduction(reduction: Reduction) -> Reduction:
    def as_vector(start: Callable[..., Payload]) -> Callable[..., Payload]:
        def payload(update: PyTree, state: State, totals: tuple[Payload, ...], key: jax.Array) -> Payload:
            from jax.flatten_util import ravel_pytree

            return start(ravel_pytree(update)[0], state, totals, key)

        return payload

    def finish(update: PyTree, state: State, totals: tuple[Payload, ...], world_size: Any) -> tuple[PyTree, State]:
        from jax.flatten_util import ravel_pytree

        vector, unravel = ravel_pytree(update)
        total, state = reduction.finish(vector, state, totals, world_size)
        return unravel(total), state

    return replace(reduction, rounds=tuple(as_vector(start) for start in reduction.rounds), finish=finish)
