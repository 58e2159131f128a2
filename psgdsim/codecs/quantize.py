"""Quantisers: a few bits per value, and a scale per block."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from psgdsim.codecs import elias_levels
from psgdsim.codecs.base import Codec, Reduction, flat, leafwise, register_codec, stateless
from psgdsim.codecs.levels import Norm, from_levels, in_blocks, level_bits, num_blocks, row_max, row_norm, to_levels
from psgdsim.codecs.packing import pack_codes, pack_trits, unpack_codes, unpack_trits
from psgdsim.errors import CodecError

if TYPE_CHECKING:
    import jax

Levels = Annotated[int, Field(ge=1, le=32767)]
BlockSize = Annotated[int, Field(ge=1)]


@register_codec("qsgd")
def qsgd(
    levels: Levels = 7,
    bucket_size: BlockSize | None = 512,
    norm: Norm = "l2",
    coding: Literal["fixed", "elias"] = "fixed",
) -> Codec:
    """Round each value at random to one of s levels of its bucket's norm: QSGD.

    For a bucket v of d values, s |v_i| / ||v|| is rounded to the integer below or above so that its mean is right; the
    message is ||v||, and of each value a sign and the level. All arrays together are one vector of D values.
    Wire size, `fixed`: 32 ceil(D / d) + 8 ceil(D b / 8) bits, with b = 1 + ceil(lg(s + 1)). `elias`: 32 bits per
    bucket, then Elias omega codes of each bucket's number of levels above 0, plus one; and for each of these its
    distance to the last, its sign and its level, rounded up to whole bytes; for s = sqrt(D) and one bucket, about 2.8 D
    bits of a Gaussian vector.
    U(min(d / s^2, sqrt(d) / s)): unbiased, its variance exactly (||v|| / s)^2 sum_i p_i (1 - p_i) per bucket, where p_i
    is what s |v_i| / ||v|| is above an integer. Buckets of one value are lossless.
    Source: Alistarh, Grubic, Li, Tomioka and Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and
    Encoding", NIPS 2017, arXiv 1610.02132; section 3 and, for `norm: max`, section 4.

    Args:
        levels: above 0, s; 1, 7, 127: 2, 4, 8 bits with the sign.
        bucket_size: values that share a norm, d; null for all.
        norm: the Euclidean norm, or the largest magnitude, whose error is less and grows not with d.
        coding: codes of one length, or short ones for small levels, of which there are many if s < sqrt(d).
    """
    bits = level_bits(levels)

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        rows = in_blocks(update, bucket_size)
        norms = row_norm(rows, norm)
        codes = to_levels(rows, norms, levels, key)[: update.size]
        return {"norms": norms, "codes": pack_codes(codes, bits)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        codes = unpack_codes(payload["codes"], bits, like.size)
        scales = check_scales(payload["norms"], like, bucket_size)
        vector: jax.Array = from_levels(codes, scales, levels, like, bucket_size)
        return vector

    if coding == "fixed":
        return flat(stateless(encode, decode))
    elias = elias_levels.EliasLevels(levels, bucket_size)
    return flat(stateless(encode, decode, pack=elias.pack, unpack=elias.unpack))


def check_scales(scales: jax.Array, like: jax.Array, block_size: int | None) -> jax.Array:
    """Return the scales of blocks.

    Raises:
        CodecError: so many values have another number of blocks.
    """
    expected = num_blocks(like.size, block_size)
    if scales.shape != (expected,):
        raise CodecError(f"a payload is truncated or damaged: expected {expected} scales; got {list(scales.shape)}")
    return scales


@register_codec("block_quantize")
def block_quantize(bits: Literal[8, 4, 2] = 8, block_size: BlockSize = 2048, *, stochastic: bool = False) -> Codec:
    """Round each value to an integer of a few bits times its block's largest magnitude.

    With L = 2^(b-1) - 1 and a block's largest magnitude m, x is sent as the integer next to L x / m, -L to L. All
    arrays together are one vector of D values. Wire size: 32 ceil(D / d) + 8 ceil(D b / 8) bits for blocks of d values.
    The error of a value is at most m / (2 L) (m / 254 for 8 bits), and twice that, but 0 on average, where `stochastic`
    rounds at random: U(min(d / (4 L^2), sqrt(d) / L)). The value of magnitude m is exact. Else C(1 - d / (4 L^2)), at
    least C(1 / d).
    Source: blocks as in Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR
    2022, arXiv 2110.02861.

    Note:
        The paper's integers stand for values spaced dynamically; these are equally spaced.

    Args:
        bits: per value, b.
        block_size: values that share a scale, d.
        stochastic: rounds at random instead of to the nearest, ties to even.
    """
    levels = 2 ** (bits - 1) - 1

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        rows = in_blocks(update, block_size)
        scales = row_max(rows)
        codes = to_levels(rows, scales, levels, key if stochastic else None)[: update.size]
        return {"scales": scales, "codes": pack_codes(codes, bits)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        codes = unpack_codes(payload["codes"], bits, like.size)
        scales = check_scales(payload["scales"], like, block_size)
        vector: jax.Array = from_levels(codes, scales, levels, like, block_size)
        return vector

    return flat(stateless(encode, decode))


@register_codec("terngrad")
def terngrad(clip: Annotated[float, Field(gt=0)] | None = 2.5, packing: Literal["bits", "base3"] = "bits") -> Codec:
    """Send -1, 0 or 1 times the largest magnitude of the array: TernGrad.

    After values are clipped to `clip` standard deviations of their array, and s = max |g|, a value is sent as sign(g) s
    with probability |g| / s, else as 0. Each array apart.
    Wire size: 32 bits per array of D values, and 2 D bits (`bits`) or 8 ceil(D / 5) (`base3`), in whole bytes. In an
    all-reduce all ranks share the largest of their scales, for which each sends its own to all others; then the signs
    are added up as integers of 8 bits, of up to 127 ranks.
    Without a clip it is unbiased with variance s ||g||_1 - ||g||_2^2 exactly, so U(sqrt(D)). A clip makes it biased
    towards 0 and its variance less: for a Gaussian array of 4,096 values about 1.0 instead of 2.1 ||g||^2.
    Source: Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning", NIPS 2017,
    arXiv 1705.07878.

    Note:
        Deviations are from 0, not from the mean, lest an array of equal values is clipped to nothing. Other than in an
        all-reduce, every worker has a scale of its own.

    Args:
        clip: at how many standard deviations; null for none.
        packing: two bits for a value, or a byte for five.
    """

    def scaled(update: jax.Array) -> tuple[jax.Array, jax.Array]:
        import jax.numpy as jnp

        rows = in_blocks(update.reshape(-1), None)
        scale = row_max(rows)
        if clip is not None:
            scale = jnp.minimum(scale, clip / math.sqrt(update.size) * row_norm(rows, "l2"))
        return rows, scale

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        rows, scale = scaled(update)
        codes = to_levels(rows, scale, 1, key)
        data = pack_codes(codes, 2) if packing == "bits" else pack_trits(codes - (codes >> 1))
        return {"scale": scale[0], "codes": data}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        if packing == "bits":
            codes = unpack_codes(payload["codes"], 2, like.size)
        else:
            trits = unpack_trits(payload["codes"], like.size)
            codes = trits + (trits >> 1)  # 0, 1, 2 were the codes 0, 1, 3
        vector: jax.Array = from_levels(codes, payload["scale"].reshape(1), 1, like.reshape(-1), None)
        return vector.reshape(like.shape)

    return leafwise(replace(stateless(encode, decode), reduction=_shared_scale(scaled)))


def _shared_scale(scaled: Callable[[jax.Array], tuple[jax.Array, jax.Array]]) -> Reduction:
    """Return the sum of signs times a scale that all ranks share; `scaled(update)` -> values in rows, own scale."""

    def scale(update: jax.Array, _state: Any, _totals: Any, _key: jax.Array) -> jax.Array:
        return scaled(update)[1]

    def signs(update: jax.Array, _state: Any, totals: Any, key: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        rows, own = scaled(update)
        clipped = jnp.clip(rows, -own[:, None], own[:, None])
        codes = to_levels(clipped, totals[0], 1, key)
        values: jax.Array = from_levels(codes, jnp.ones(1, update.dtype), 1, update.reshape(-1), None)
        return values.astype(jnp.int8)

    def finish(update: jax.Array, state: Any, totals: Any, _world_size: Any) -> tuple[jax.Array, Any]:
        total: jax.Array = totals[0][0] * totals[1].astype(update.dtype)
        return total.reshape(update.shape), state

    return Reduction((scale, signs), finish, largest=frozenset({0}), max_ranks=127)
