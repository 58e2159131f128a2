"""The grid of LAQ: equally spaced points from the largest magnitude below 0 to that above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.codecs.base import Codec, flat, register_codec, stateless
from psgdsim.codecs.packing import pack_codes, unpack_codes

if TYPE_CHECKING:
    import jax


@register_codec("laq_grid")
def laq_grid(bits: Annotated[int, Field(ge=1, le=16)] = 4) -> Codec:
    """Round to the nearest of 2^b points from -R to R, R being the largest magnitude: the grid of LAQ.

    Points are 2 R / (2^b - 1) apart, so no value is off by more than R / (2^b - 1); 0 is none of them, and half a step
    off. All arrays together are one vector of D values. Wire size: 32 + 8 ceil(b D / 8) bits.
    The paper codes what has changed since the last message; so does the strategy `laq`.
    Source: Sun, Chen, Giannakis and Yang, "Communication-Efficient Distributed Learning via Lazily Aggregated Quantized
    Gradients", NeurIPS 2019, arXiv 1909.07588.

    Args:
        bits: per value, b.
    """
    return flat(
        stateless(lambda update, _key: to_grid(update, bits), lambda payload, like: from_grid(payload, bits, like))
    )


def to_grid(vector: jax.Array, bits: int) -> dict[str, Any]:
    """Return the nearest points of the grid, and its radius.

    Args:
        vector: any values.
        bits: per value; 1 to 16.

    Returns:
        `points`, ceil(bits size / 8) bytes, and `radius`, a number.
    """
    import jax.numpy as jnp

    radius = jnp.max(jnp.abs(vector))
    last = 2**bits - 1
    shares = jnp.where(radius > 0, (vector + radius) / (2 * radius), 0)
    # The minimum keeps the compiler from fusing product and sum, whose result would not be that of plain calls.
    places = jnp.floor(jnp.minimum(shares * last, last) + 0.5)
    points = jnp.clip(places, 0, last).astype(jnp.uint32)
    return {"points": pack_codes(points, bits), "radius": radius}


def from_grid(payload: dict[str, Any], bits: int, like: jax.Array) -> jax.Array:
    """Return the points of a grid as numbers.

    Args:
        payload: what `to_grid` made.
        bits: per value.
        like: a vector.
    """
    points = unpack_codes(payload["points"], bits, like.size).astype(like.dtype)
    last = 2**bits - 1
    values: jax.Array = (2 * points - last) / last * payload["radius"]
    return values
