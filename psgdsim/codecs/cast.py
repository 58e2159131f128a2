"""Casts to a shorter float."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from psgdsim.codecs.base import Codec, leafwise, register_codec, stateless
from psgdsim.codecs.levels import nonzero
from psgdsim.codecs.noise import random_bits, round_at_random
from psgdsim.compilation import lazy_jit

if TYPE_CHECKING:
    import jax


class _Float(NamedTuple):
    """A format of floats.

    Attributes:
        mantissa: its bits.
        least: the exponent of its smallest normal number.
        most: its largest number, if values are scaled to it.
    """

    mantissa: int
    least: int
    most: float = math.inf


FORMATS: Final = {
    "float16": _Float(10, -14),
    "bfloat16": _Float(7, -126),
    "float8_e4m3fn": _Float(3, -6, 448.0),
    "float8_e5m2": _Float(2, -14, 57344.0),
}
_MANTISSA: Final = 23
_LEAST: Final = -126
"""Of float32."""


@register_codec("cast")
def cast(
    dtype: Literal["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] = "bfloat16", *, stochastic: bool = False
) -> Codec:
    """Round every value to a float of 16 or 8 bits, to nearest even.

    Wire size: 16 bits per value; 8 bits per value, and 32 for each array's scale. For normal numbers the relative error
    is at most 2^-11 (float16), 2^-8 (bfloat16), 2^-4 (float8_e4m3fn) or 2^-3 (float8_e5m2), twice that if rounded at
    random. float16 overflows above 65504 and loses magnitudes below 2^-24, bfloat16 keeps float32's range. Arrays are
    scaled for the 8-bit floats: their largest magnitude becomes the largest number, 448 or 57344, and magnitudes below
    2^-18 or 2^-31 times it or so become 0.
    Payloads of 16 bits can be added, so they may ride a ring; the sum is rounded to the nearest at each hop, so those
    that are rounded at random cannot, lest the sum be biased. Those of 8 bits cannot, for each has a scale of its own.
    Source: IEEE 754-2008 binary16; Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training", arXiv 1905.12322;
    Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433.

    Args:
        dtype: the float that crosses the wire.
        stochastic: rounds up or down at random, without bias, instead of to the nearest.
    """
    form = FORMATS[dtype]

    def shorten(values: jax.Array, key: jax.Array) -> jax.Array:
        rounded = _round(values, form, key) if stochastic else values
        return rounded.astype(dtype)

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        import jax.numpy as jnp

        values = update.astype(jnp.float32)
        scale = jnp.max(jnp.abs(values)) / form.most
        scaled = jnp.clip(values / nonzero(scale), -form.most, form.most)
        return {"scale": scale, "values": shorten(scaled, key)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        values: jax.Array = payload["values"].astype(jnp.float32) * payload["scale"]
        return values.astype(like.dtype)

    if math.isinf(form.most):
        return leafwise(
            stateless(shorten, lambda payload, like: payload.astype(like.dtype), is_summable=not stochastic)
        )
    return leafwise(stateless(encode, decode))


@partial(lazy_jit, static=("form",))
def _round(values: jax.Array, form: _Float, key: jax.Array) -> jax.Array:
    """Round each value to one of the two next to it in a format, so that its mean is the value; infinite ones stay."""
    import jax
    import jax.numpy as jnp

    values = values.astype(jnp.float32)
    magnitudes = jnp.abs(values)
    dropped = jnp.uint32(2 ** (_MANTISSA - form.mantissa) - 1)
    noise = random_bits(key, values.size).reshape(values.shape) & dropped
    bits = jax.lax.bitcast_convert_type(magnitudes, jnp.uint32) + noise & ~dropped
    rounded = jax.lax.bitcast_convert_type(bits, jnp.float32)
    if form.least > _LEAST:
        step = 2.0 ** (form.least - form.mantissa)
        tiny = round_at_random(magnitudes / step, jax.random.fold_in(key, 1)) * step
        rounded = jnp.where(magnitudes < 2.0**form.least, tiny, rounded)
    return jnp.where(jnp.isfinite(values), jnp.where(values < 0, -rounded, rounded), values)
