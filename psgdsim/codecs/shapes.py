"""What payloads look like, known before anything is encoded."""

from __future__ import annotations

import functools
from typing import Any

from psgdsim.codecs.base import Codec


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
