"""Natural compression: values are rounded to powers of two."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.codecs.base import Codec, flat, leafwise, register_codec, stateless
from psgdsim.codecs.levels import Norm, from_blocks, in_blocks, nonzero, row_norm
from psgdsim.codecs.noise import random_bits, uniforms
from psgdsim.codecs.packing import pack_codes, unpack_codes
from psgdsim.codecs.quantize import BlockSize, check_scales
from psgdsim.compilation import lazy_jit

if TYPE_CHECKING:
    import jax

_MANTISSA = 23
"""Bits of a float32 below its exponent."""


@register_codec("natural")
def natural() -> Codec:
    """Round each magnitude at random to the power of two below or above: natural compression.

    t between 2^a and 2^(a+1) becomes 2^a with probability (2^(a+1) - t) / 2^a, else 2^(a+1); only sign and exponent are
    sent. Each array apart; powers of two are lossless. Wire size: D exponents of 8 bits and 8 ceil(D / 8) bits of
    signs, so 9 D bits in whole bytes.
    U(1/8): unbiased, its variance exactly (2^(a+1) - t) (t - 2^a); worst at 4/3 2^a, 0.0804 ||x||^2 for a Gaussian.
    Source: Horváth, Ho, Horváth, Sahu, Canini and Richtárik, "Natural Compression for Distributed Deep Learning",
    arXiv 1905.10988.

    Note:
        Magnitudes below 2^-126 become 0 or 2^-126, still without bias; those above 2^127 become 2^127.
    """

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        import jax.numpy as jnp

        vector = update.reshape(-1).astype(jnp.float32)
        exponents = _round_exponents(vector, random_bits(key, vector.size))
        return {"exponents": exponents.astype(jnp.uint8), "signs": pack_codes(vector < 0, 1)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        exponents = unpack_codes(payload["exponents"], 8, like.size)
        magnitudes = _powers(exponents.astype(jnp.uint32))
        is_negative = unpack_codes(payload["signs"], 1, like.size) == 1
        return jnp.where(is_negative, -magnitudes, magnitudes).reshape(like.shape).astype(like.dtype)

    return leafwise(stateless(encode, decode))


@lazy_jit
def _round_exponents(values: jax.Array, noise: jax.Array) -> jax.Array:
    """Return float32 values' exponents, as their bits have them, one more as often as their mantissas say."""
    import jax
    import jax.numpy as jnp

    mask = jnp.uint32(2**_MANTISSA - 1)
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32) & jnp.uint32(0x7FFFFFFF)
    finite = jnp.minimum(bits + (noise & mask) >> _MANTISSA, 254)
    return jnp.where(bits >> _MANTISSA == 255, 255, finite)


def _powers(exponents: jax.Array) -> jax.Array:
    """Return the powers of two that have these exponents, 0 for 0."""
    import jax
    import jax.numpy as jnp

    return jax.lax.bitcast_convert_type(exponents << _MANTISSA, jnp.float32)


@register_codec("natural_dithering")
def natural_dithering(
    levels: Annotated[int, Field(ge=1, le=31)] = 7, norm: Norm = "l2", bucket_size: BlockSize | None = 512
) -> Codec:
    """Round each value at random to a power of two times its bucket's norm: natural dithering.

    |x| / ||v|| is rounded to one of 1, 1/2, ..., 2^(1-s) or 0, those below and above it, so that its mean is right; the
    message is ||v||, and of each value a sign and which of them. All arrays together are one vector of D values.
    Wire size: 32 ceil(D / d) + 8 ceil(D b / 8) bits for buckets of d values, with b = 1 + ceil(lg(s + 1)).
    U(1/8 + sqrt(d) 2^(1-s) min(1, sqrt(d) 2^(1-s))): unbiased. With many levels it is natural compression of x / ||v||.
    Source: Horváth et al., "Natural Compression for Distributed Deep Learning", arXiv 1905.10988, section 4.

    Args:
        levels: powers of two, s; 7 for 4 bits per value.
        norm: the Euclidean norm, or the largest magnitude.
        bucket_size: values that share a norm, d; null for all.
    """
    bits = 1 + levels.bit_length()

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        import jax.numpy as jnp

        rows = in_blocks(update, bucket_size)
        norms = row_norm(rows, norm)
        shares = jnp.minimum(jnp.abs(rows) / nonzero(norms)[:, None], 1)
        places = _to_powers(shares, levels, key)
        is_negative = (rows < 0) & (places > 0)
        codes = jnp.where(is_negative, places | 2 ** (bits - 1), places).reshape(-1)[: update.size]
        return {"norms": norms, "codes": pack_codes(codes, bits)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        codes = unpack_codes(payload["codes"], bits, like.size)
        norms = check_scales(payload["norms"], like, bucket_size)
        columns = like.size if bucket_size is None else min(bucket_size, like.size)
        rows = jnp.pad(codes, (0, norms.size * columns - like.size)).reshape(-1, columns).astype(jnp.uint32)
        places = jnp.minimum(rows & (2 ** (bits - 1) - 1), levels)  # a damaged code may have more
        magnitudes = _powers(jnp.where(places > 0, places + (127 - levels), 0)) * norms[:, None]
        return from_blocks(jnp.where(rows >> (bits - 1) == 1, -magnitudes, magnitudes), like)

    return flat(stateless(encode, decode))


@partial(lazy_jit, static=("levels",))
def _to_powers(shares: jax.Array, levels: int, key: jax.Array) -> jax.Array:
    """Round numbers of 0 to 1 to 0 or a power of two, which is p for 2^(p - levels)."""
    import jax
    import jax.numpy as jnp

    noise = random_bits(key, shares.size).reshape(shares.shape)
    places = _round_exponents(shares, noise).astype(jnp.int32) - (127 - levels)
    lowest = 2.0 ** (1 - levels)
    other = uniforms(jax.random.fold_in(key, 1), shares.shape) * lowest < shares
    return jnp.where(shares < lowest, other, jnp.clip(places, 0, levels)).astype(jnp.uint32)
