"""One codec after another: what the first leaves in floats, the next codes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.codecs.base import Codec, register_codec
from psgdsim.codecs.shapes import payload_shapes
from psgdsim.errors import CodecError

if TYPE_CHECKING:
    import jax


@register_codec("chain")
def chain(codecs: Annotated[list[Codec], Field(min_length=1)]) -> Codec:
    """Code an update with one codec, the floats of its payload with the next, and so on.

    `chain([top_k(), qsgd()])` sends the indices as they are and the values quantised. Wire size: that of the last codec
    for the floats that come to it, and what the codecs before it have besides floats. Payloads add up if those of all
    codecs do. A chain of U(a) and U(b) is U(ab + a + b).
    Source: Horvath et al., "Natural Compression for Distributed Deep Learning", arXiv 1905.10988 (compositions).

    Args:
        codecs: the codecs, in the order in which they encode; all but the last send as many floats in each message,
            which `threshold`, `dgc` with a warm-up and `compressed` do not.
    """
    for place, codec in enumerate(codecs[:-1]):
        if codec.is_ragged:
            raise ValueError(
                "codecs: expected codecs before the last that send as many floats in each message, such as top_k "
                f"instead of threshold, or dgc without warmup_steps; got another as number {place + 1} of {len(codecs)}"
                "; compressed goes around a chain, not into it"
            )
    return functools.reduce(lambda after, before: _pair(before, after), reversed(codecs))


def _is_float(leaf: Any) -> bool:
    import jax.numpy as jnp

    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _split(payload: Any) -> tuple[list[Any], Any]:
    """Return a payload's float arrays, and the payload with None in their places."""
    import jax

    floats = [leaf for leaf in jax.tree.leaves(payload) if _is_float(leaf)]
    return floats, jax.tree.map(lambda leaf: None if _is_float(leaf) else leaf, payload)


def _join(floats: list[Any], rest: Any) -> Any:
    """Return the payload that `_split` has taken apart."""
    import jax

    given = iter(floats)
    return jax.tree.map(lambda leaf: next(given) if leaf is None else leaf, rest, is_leaf=lambda leaf: leaf is None)


def _floats_of(codec: Codec, like: Any) -> list[Any]:
    """Return zeros of the shapes and dtypes of the floats in a codec's payloads."""
    import numpy as np

    return [np.zeros(leaf.shape, leaf.dtype) for leaf in _split(payload_shapes(codec, like))[0]]


def _pair(first: Codec, second: Codec) -> Codec:
    """Return the chain of two codecs.

    Payloads are dicts: `rest` is the first's payload with None instead of floats, `coded` the second's.
    """

    def init(like: Any) -> tuple[Any, Any]:
        floats = _floats_of(first, like)
        if not floats:
            raise CodecError("chain: the payload of a codec has no floats that the next could code; expected some")
        return first.init(like), second.init(floats)

    def encode(update: Any, state: tuple[Any, Any], key: jax.Array) -> tuple[Any, tuple[Any, Any]]:
        import jax

        payload, before = first.encode(update, state[0], jax.random.fold_in(key, 0))
        floats, rest = _split(payload)
        coded, after = second.encode(floats, state[1], jax.random.fold_in(key, 1))
        return {"rest": rest, "coded": coded}, (before, after)

    def decode(payload: Any, state: tuple[Any, Any], like: Any) -> tuple[Any, tuple[Any, Any]]:
        floats, after = second.decode(payload["coded"], state[1], _floats_of(first, like))
        update, before = first.decode(_join(floats, payload["rest"]), state[0], like)
        return update, (before, after)

    is_packed = first.pack is not None or second.pack is not None
    return Codec(
        init,
        encode,
        decode,
        first.is_summable and second.is_summable,
        pack=functools.partial(_pack, first, second) if is_packed else None,
        unpack=functools.partial(_unpack, first, second) if is_packed else None,
        is_structured=first.is_structured or second.is_structured,
        is_ragged=second.is_ragged,
    )


def _stand_ins(floats: list[Any]) -> list[Any]:
    """Return arrays in the places of floats that have been coded; ones, for zeros might be left out."""
    import numpy as np

    return [np.ones_like(leaf) for leaf in floats]


def _pack(first: Codec, second: Codec, payload: Any, like: Any) -> Any:
    floats = _floats_of(first, like)
    rest, coded = payload["rest"], payload["coded"]
    if first.pack is not None:
        _, rest = _split(first.pack(_join(_stand_ins(floats), rest), like))
    return {"rest": rest, "coded": coded if second.pack is None else second.pack(coded, floats)}


def _unpack(first: Codec, second: Codec, payload: Any, like: Any) -> Any:
    import jax

    if not isinstance(payload, dict) or set(payload) != {"rest", "coded"}:
        raise CodecError(f"payload: expected a dict of rest and coded; got {payload!r:.80}")
    floats = _floats_of(first, like)
    rest, coded = payload["rest"], payload["coded"]
    if first.unpack is not None:
        num_places = sum(leaf is None for leaf in jax.tree.leaves(rest, is_leaf=lambda leaf: leaf is None))
        if num_places != len(floats):
            raise CodecError(f"rest: damaged: expected {len(floats)} places for floats; got {num_places}")
        _, rest = _split(first.unpack(_join(_stand_ins(floats), rest), like))
    return {"rest": rest, "coded": coded if second.unpack is None else second.unpack(coded, floats)}
