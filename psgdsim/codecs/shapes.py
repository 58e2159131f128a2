"""What a codec's functions return, known before anything is encoded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from psgdsim import trees
from psgdsim.codecs.base import Codec
from psgdsim.errors import CodecError, place


def payload_shapes(codec: Codec, like: Any) -> Any:
    """Return a codec's payload before any `pack`, with shapes and dtypes in the places of arrays.

    Args:
        codec: makes the payloads.
        like: a pytree of arrays of the shapes and dtypes of the updates.
    """
    import jax

    leaves, structure = jax.tree.flatten(like)
    # Two types may be one to jax, and which depends on its settings.
    kinds = tuple((leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype)) for leaf in leaves)
    return _payload_shapes(codec, structure, kinds)


@functools.lru_cache(maxsize=64)
def _payload_shapes(codec: Codec, structure: Any, kinds: tuple[tuple[Any, Any], ...]) -> Any:
    """Trace the encoder, once for all messages of one kind."""
    import jax

    def encode(update: Any) -> Any:
        return codec.encode(update, codec.init(update), jax.random.key(0))[0]

    like = structure.unflatten(jax.ShapeDtypeStruct(*kind) for kind in kinds)  # type: ignore[no-untyped-call]
    return jax.eval_shape(encode, like)


class Returned(NamedTuple):
    """What a codec's functions return for an update, with shapes and dtypes in the places of arrays."""

    state: Any
    payload: Any
    encoder: Any
    update: Any
    decoder: Any


def returned(codec: Codec, like: Any) -> Returned:
    """Trace a codec's functions as they follow each other.

    Args:
        codec: the codec.
        like: a pytree of the shapes and dtypes of the updates.

    Raises:
        CodecError: one of them fails, or does not return a pair where it should; the message says which.
    """
    import jax

    state = _traced("init", codec.init, like)
    payload, encoder = _pair("encode", "(payload, state)", codec.encode, like, state, jax.random.key(0))
    return Returned(state, payload, encoder, *_pair("decode", "(update, state)", codec.decode, payload, state, like))


def check_functions(codec: Codec, like: Any) -> None:
    """Raise unless a codec can code such updates; nothing is computed.

    Args:
        codec: the codec.
        like: a pytree of the shapes and dtypes of the updates.

    Raises:
        CodecError: one of its functions fails, or returns something else than it should; the message says which.
    """
    found = returned(codec, like)
    ends = ("encode returns a state of", found.encoder), ("decode returns a state of", found.decoder)
    for what, tree, expected in (*[(*end, found.state) for end in ends], ("it decodes to", found.update, like)):
        got, wanted = trees.shapes(tree), trees.shapes(expected)
        if got != wanted:
            raise CodecError(f"{what} {got}; expected the shapes and dtypes that were given, {wanted}")


def _pair(name: str, expected: str, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    pair = _traced(name, function, *arguments)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise CodecError(f"{name} returns {type(pair).__name__}; expected {expected}")
    return pair


def _traced(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    import jax

    try:
        return jax.eval_shape(function, *arguments)
    except CodecError:
        raise
    except Exception as error:  # whatever the user's own code raises
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CodecError(f"{name} fails: {message}{place(error)}") from None
