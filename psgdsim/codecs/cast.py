"""Casts to a shorter float."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from psgdsim.codecs.base import Codec, leafwise, register_codec, stateless

if TYPE_CHECKING:
    import jax


@register_codec("cast")
def cast(dtype: Literal["float16", "bfloat16"] = "bfloat16") -> Codec:
    """Round every value to a 16-bit float, to nearest even.

    Wire size: 16 bits per value. For normal numbers the relative error is at most 2**-11 (float16) or 2**-8
    (bfloat16); float16 overflows above 65504 and loses magnitudes below 2**-24, bfloat16 keeps float32's range.
    Source: IEEE 754-2008 binary16; Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training",
    arXiv 1905.12322.

    Args:
        dtype: the float that crosses the wire.
    """

    def encode(update: jax.Array, _key: jax.Array) -> jax.Array:
        return update.astype(dtype)

    def decode(payload: jax.Array, like: jax.Array) -> jax.Array:
        return payload.astype(like.dtype)

    return leafwise(stateless(encode, decode, is_summable=False))
