"""SGQ and TQN: levels and their scale are fitted to each other in turn."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from psgdsim.codecs.base import Codec, leafwise, register_codec, stateless
from psgdsim.codecs.noise import uniforms
from psgdsim.codecs.packing import pack_codes, unpack_codes
from psgdsim.compilation import lazy_jit

if TYPE_CHECKING:
    import jax

START: Final = 0.7
"""The scale that fitting begins with."""


@register_codec("tqn")
def tqn() -> Codec:
    """Send -1, 0 or 1 times a scale that is fitted to each array.

    From a = 0.7, b = T(x / a): once a = <b, x> / (||b||^2 + 1) and b = T(x / (a + 10^-9)), where T is the sign of a
    value with the probability of its magnitude (1 above 1), else 0; decodes to a b. Each array apart.
    Wire size: 32 bits per array, and 2 D bits in whole bytes. Given a, the mean is x clipped to -a and a.
    Source: the codec of that name of the Parallel-SGD project; the alternation is that of Hou and Kwok, "Loss-aware
    Weight Quantization of Deep Networks", ICLR 2018, arXiv 1802.08635.
    """
    return _alternating(bits=2, rounds=1)


@register_codec("sgq")
def sgq(bits: Annotated[int, Field(ge=2, le=8)] = 4, rounds: Annotated[int, Field(ge=1, le=16)] = 3) -> Codec:
    """Send levels that are the cotangents of equal angles, times a scale that is fitted to each array.

    Levels are 0 and -cot(k pi / (4 K)) and cot(k pi / (4 K)) for k = 1, ..., K, with K = 2^(b-1) - 1: dense near 1.
    From a = 0.7, b = Q(x / a): so many times a = <b, x> / (||b||^2 + 1) and b = Q(x / (a + 10^-9)), where Q rounds at
    random to the level below or above so that the mean is right; decodes to a b. Each array apart.
    Wire size: 32 bits per array, and b D bits in whole bytes. Given a, the mean is x clipped to a times the highest
    level; 2 bits and one round are `tqn`.
    Source: the codec of that name of the Parallel-SGD project; see `tqn`.

    Note:
        There, values above the highest level became 0, and levels were sent in Huffman codes or bytes.

    Args:
        bits: per value, b.
        rounds: how often the scale is fitted.
    """
    return _alternating(bits, rounds)


def magnitudes(bits: int) -> tuple[float, ...]:
    """Return the levels of SGQ from 0 on.

    Example:
        >>> [round(level, 3) for level in magnitudes(3)]
        [0.0, 1.0, 1.732, 3.732]
    """
    num = 2 ** (bits - 1) - 1
    return (0.0, 1.0, *(1 / math.tan(k * math.pi / (4 * num)) for k in range(num - 1, 0, -1)))


def _alternating(bits: int, rounds: int) -> Codec:
    sign_bit, levels = 2 ** (bits - 1), magnitudes(bits)

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        vector = update.reshape(-1).astype(jnp.float32)
        scale: Any = jnp.float32(START)
        places, values = _round(vector / scale, levels, key)
        for turn in range(1, rounds + 1):
            scale = jnp.sum(values * jnp.abs(vector)) / (jnp.sum(values * values) + 1)
            places, values = _round(vector / (scale + 1e-9), levels, jax.random.fold_in(key, turn))
        codes = jnp.where((vector < 0) & (places > 0), places + sign_bit, places)
        return {"scale": scale, "codes": pack_codes(codes, bits)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        codes = unpack_codes(payload["codes"], bits, like.size)
        values = payload["scale"] * jnp.asarray(levels, jnp.float32)[codes & (sign_bit - 1)]
        return jnp.where(codes >= sign_bit, -values, values).reshape(like.shape).astype(like.dtype)

    return leafwise(stateless(encode, decode))


@partial(lazy_jit, static=("levels",))
def _round(values: jax.Array, levels: tuple[float, ...], key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Round magnitudes at random to the level below or above; return which of the levels, and the levels."""
    import jax.numpy as jnp

    clipped = jnp.minimum(jnp.abs(values), jnp.float32(levels[-1]))
    place = jnp.zeros(values.shape, jnp.uint32)
    below, above = jnp.zeros_like(clipped), jnp.full_like(clipped, levels[1])
    for i, level in enumerate(levels[1:-1], start=1):  # many times as fast as a search
        is_above = clipped >= level
        place = jnp.where(is_above, i, place)
        below = jnp.where(is_above, jnp.float32(level), below)
        above = jnp.where(is_above, jnp.float32(levels[i + 1]), above)
    goes_up = uniforms(key, values.shape) * (above - below) < clipped - below
    return place + goes_up, jnp.where(goes_up, above, below)
