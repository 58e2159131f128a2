"""What a codec is.

A codec is three pure, jit-able functions in the manner of optax's gradient transformations:

    init(like) -> state                                  the state of one end of one direction
    encode(update, state, key) -> (payload, state)       at the sender; the payload is what crosses the wire
    decode(payload, state, like) -> (update, state)      at the receiver

`update`, `like` and what `decode` returns are pytrees of float arrays of the same shapes and dtypes. A payload is a
pytree of arrays whose shapes and dtypes depend only on those of `like`, so its size is known before it is computed.
Both ends may hold state, each its own, started with `init`. `key` is a jax random key that differs for every call.

A codec only codes: who sends what to whom, and who waits, is the strategy's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psgdsim.registry import Family

if TYPE_CHECKING:
    import jax

PyTree = Any
State = Any
Payload = Any


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
    """

    init: Callable[[PyTree], State]
    encode: Callable[[PyTree, State, jax.Array], tuple[Payload, State]]
    decode: Callable[[Payload, State, PyTree], tuple[PyTree, State]]
    is_summable: bool = False
    is_identity: bool = False


codecs = Family("codec", product=Codec)
register_codec = codecs.register


def stateless(
    encode: Callable[[PyTree, jax.Array], Payload],
    decode: Callable[[Payload, PyTree], PyTree],
    *,
    is_summable: bool = False,
) -> Codec:
    """Make a codec of two functions that need no memory.

    Args:
        encode: `(update, key) -> payload`.
        decode: `(payload, like) -> update`.
        is_summable: as in `Codec`.

    Returns:
        The codec; its state is the empty tuple.
    """
    return Codec(
        init=lambda _like: (),
        encode=lambda update, state, key: (encode(update, key), state),
        decode=lambda payload, state, like: (decode(payload, like), state),
        is_summable=is_summable,
    )


def leafwise(codec: Codec) -> Codec:
    """Apply a codec to each leaf apart, with its own state and its own key.

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

    return Codec(init, encode, decode, codec.is_summable)


def flat(codec: Codec) -> Codec:
    """Apply a codec to the whole update as one vector.

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

    return Codec(init, encode, decode, codec.is_summable)
