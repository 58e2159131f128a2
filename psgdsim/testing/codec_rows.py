"""The table of built-in codecs: how each is made, its exact size, and the laws that it keeps.

A new codec is one more row. `codec_laws` compares every row with what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from psgdsim import codecs
from psgdsim.codecs import Codec, cast, error_feedback, identity, top_k
from psgdsim.codecs.levels import variance_bound

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class CodecRow:
    """One codec with its parameters, and what is promised of it.

    Args:
        label: the codec's registered name; a variant of it after a comma or space.
        make: makes the codec.
        bits: `(D) -> bits` of the payload's arrays for one vector of D float32 values, before any `pack`.
        omega: `(D) -> omega`: the codec is unbiased and E||C(x) - x||^2 <= omega ||x||^2; None if that is not promised.
        delta: `(D) -> delta`: E||C(x) - x||^2 <= (1 - delta) ||x||^2; None if that is not promised.
        is_scale_equivariant: whether C(2 x) = 2 C(x) and C(x / 2) = C(x) / 2, bit for bit, with the same key.
        is_odd: whether C(-x) = -C(x), bit for bit, with the same key, where no value is 0.
        is_odd_with_zeros: whether also where some are.
        keeps_zero: whether zeros decode to zeros.
        packed_bits: `x -> bits` that an update takes at most after `pack`; None if there is none.
        shape: `D -> shape` of the arrays of D values that are given to it.
    """

    label: str
    make: Callable[[], Codec]
    bits: Callable[[int], int]
    omega: Callable[[int], float] | None = None
    delta: Callable[[int], float] | None = None
    is_scale_equivariant: bool = True
    is_odd: bool = True
    is_odd_with_zeros: bool = True
    keeps_zero: bool = True
    packed_bits: Callable[[np.ndarray], int] | None = None
    shape: Callable[[int], tuple[int, ...]] = lambda d: (d,)

    @property
    def name(self) -> str:
        """The codec's registered name."""
        return self.label.replace(",", " ").split()[0]


def _share(percent: int) -> Callable[[int], int]:
    """Return how many of D values are a share of them, at least one."""
    return lambda d: max(1, percent * d // 100)


def _square(size: int) -> tuple[int, int]:
    """Return the shape nearest to a square of a matrix of so many values."""
    rows = max(divisor for divisor in range(1, math.isqrt(size) + 1) if size % divisor == 0)
    return rows, size // rows


def _low_rank(rank: int) -> Callable[[int], int]:
    """Return the bits of two thin matrices of so many columns whose product is as `_square` says."""
    return lambda d: 32 * min(rank, _square(d)[0]) * sum(_square(d))


def _rice_bits(vector: np.ndarray) -> int:
    """Return the bits, at most, of a quarter of the values with gaps in Rice code of one low bit."""
    count = _share(25)(vector.size)
    low_bits = max(0, round(math.log2(0.69 * vector.size / count)))
    gap_bits = count * (1 + low_bits) + (vector.size - count >> low_bits)
    return 32 * count + 8 + 8 * -(-gap_bits // 8)


def _packed(bits: int, block_size: int | None = None) -> Callable[[int], int]:
    """Return how many bits D codes take in whole bytes, with one float32 per block if there are blocks."""
    return lambda d: 8 * -(-d * bits // 8) + (0 if block_size is None else 32 * -(-d // block_size))


def _nearest(bits: int) -> Callable[[int], float]:
    """Return delta of rounding to the nearest of 2^bits - 1 integers times the largest magnitude."""
    levels = 2 ** (bits - 1) - 1
    return lambda d: max(1 / d, 1 - d / (4 * levels * levels))


def _dithering(levels: int) -> Callable[[int], float]:
    """Return omega of natural dithering in one bucket."""

    def omega(size: int) -> float:
        gap = math.sqrt(size) * 2.0 ** (1 - levels)
        return 1 / 8 + gap * min(1, gap)

    return omega


WHOLE: Final = 2**40
"""As a block size: one block for all."""

QUANTIZERS: Final = (
    CodecRow("cast", cast, lambda d: 16 * d, delta=lambda _: 1 - 2**-16),
    CodecRow("cast float16", lambda: cast("float16"), lambda d: 16 * d, delta=lambda _: 1 - 2**-22),
    CodecRow("cast bfloat16 at random", lambda: cast(stochastic=True), lambda d: 16 * d, omega=lambda _: 2**-16),
    CodecRow(
        "cast float16 at random",
        lambda: cast("float16", stochastic=True),
        lambda d: 16 * d,
        omega=lambda _: 2**-22,
        is_scale_equivariant=False,
    ),
    CodecRow(
        "cast float8_e4m3fn",
        lambda: cast("float8_e4m3fn"),
        lambda d: 32 + 8 * d,
        delta=lambda d: 1 - 2**-8 - d * (2**-10 / 448) ** 2,
    ),
    CodecRow("cast float8_e5m2", lambda: cast("float8_e5m2"), lambda d: 32 + 8 * d, delta=lambda _: 1 - 2**-6),
    CodecRow(
        "cast float8_e4m3fn at random",
        lambda: cast("float8_e4m3fn", stochastic=True),
        lambda d: 32 + 8 * d,
        omega=lambda d: 2**-8 + d * (2**-10 / 448) ** 2,
    ),
    CodecRow("qsgd", codecs.qsgd, _packed(4, 512), omega=lambda d: variance_bound(d, 512, 7)),
    CodecRow(
        "qsgd, 1 level, 1 bucket",
        lambda: codecs.qsgd(levels=1, bucket_size=None),
        _packed(2, WHOLE),
        omega=lambda d: variance_bound(d, None, 1),
    ),
    CodecRow(
        "qsgd, 300 levels of the largest, Elias",
        lambda: codecs.qsgd(levels=300, bucket_size=7, norm="max", coding="elias"),
        _packed(10, 7),
        omega=lambda d: variance_bound(d, 7, 300),
        # A number of 7 bits at most for each bucket; for each value a distance, 2 bits per place at most, a sign, and a
        # level of 16 bits at most.
        packed_bits=lambda x: 32 * -(-x.size // 7) + 8 * -(-(7 * -(-x.size // 7) + (2 + 1 + 16) * x.size) // 8),
    ),
    CodecRow(
        "qsgd, 31 levels, 1 bucket, Elias",
        lambda: codecs.qsgd(levels=31, bucket_size=None, coding="elias"),
        _packed(6, WHOLE),
        omega=lambda d: variance_bound(d, None, 31),
        # About 2.8 bits per value from the square of the number of levels on; else as above, a level 11 bits at most.
        packed_bits=lambda x: 32 + (3 * x.size if x.size >= 31**2 else (2 + 1 + 11) * x.size + 16),
    ),
    CodecRow("terngrad", codecs.terngrad, _packed(2, WHOLE)),
    CodecRow(
        "terngrad, no clip, base 3",
        lambda: codecs.terngrad(clip=None, packing="base3"),
        lambda d: 32 + 8 * -(-d // 5),
        omega=math.sqrt,
    ),
    CodecRow("natural", codecs.natural, _packed(9), omega=lambda _: 1 / 8),
    CodecRow("natural_dithering", codecs.natural_dithering, _packed(4, 512), omega=_dithering(7)),
    CodecRow(
        "natural_dithering of the largest",
        lambda: codecs.natural_dithering(levels=2, norm="max", bucket_size=32),
        _packed(3, 32),
        omega=lambda _: _dithering(2)(32),
    ),
    CodecRow("block_quantize", codecs.block_quantize, _packed(8, 2048), delta=_nearest(8)),
    CodecRow("block_quantize, 4 bits", lambda: codecs.block_quantize(4), _packed(4, 2048), delta=_nearest(4)),
    CodecRow("block_quantize, 2 bits", lambda: codecs.block_quantize(2, 7), _packed(2, 7), delta=lambda _: 1 / 7),
    CodecRow(
        "block_quantize, 4 bits at random",
        lambda: codecs.block_quantize(4, 32, stochastic=True),
        _packed(4, 32),
        omega=lambda _: min(32 / (4 * 49), math.sqrt(32) / 7),
    ),
    CodecRow("one_bit", codecs.one_bit, lambda d: 64 + _packed(1)(d), delta=lambda d: 1 / d, is_odd_with_zeros=False),
    CodecRow("sign", codecs.sign, _packed(1), is_scale_equivariant=False, is_odd_with_zeros=False, keeps_zero=False),
    CodecRow("scaled_sign", codecs.scaled_sign, _packed(1, WHOLE), delta=lambda d: 1 / d, is_odd_with_zeros=False),
    CodecRow("sgq", codecs.sgq, _packed(4, WHOLE), is_scale_equivariant=False),
    CodecRow("tqn", codecs.tqn, _packed(2, WHOLE), is_scale_equivariant=False),
    CodecRow("laq_grid", codecs.laq_grid, _packed(4, WHOLE), delta=lambda d: 1 - d / 15**2, is_odd_with_zeros=False),
)
"""Casts, and codecs of a few bits per value."""

SPARSIFIERS: Final = (
    CodecRow("top_k", lambda: top_k(ratio=0.05), lambda d: 64 * _share(5)(d), delta=lambda d: _share(5)(d) / d),
    CodecRow(
        "top_k, the shortest indices",
        lambda: top_k(ratio=0.3, index_coding="auto"),
        lambda d: 64 * _share(30)(d),
        delta=lambda d: _share(30)(d) / d,
        packed_bits=lambda x: 32 * _share(30)(x.size) + 8 + 8 * -(-x.size // 8),  # no more than a bitmap
    ),
    CodecRow("random_k", lambda: codecs.random_k(ratio=0.05), lambda d: 32 * _share(5)(d)),
    CodecRow(
        "random_k, places of its own",
        lambda: codecs.random_k(ratio=0.05, shared=False),
        lambda d: 64 + 32 * _share(5)(d),
        delta=lambda d: _share(5)(d) / d,
    ),
    CodecRow(
        "random_k, scaled",
        lambda: codecs.random_k(ratio=0.3, scaled=True, shared=False),
        lambda d: 64 + 32 * _share(30)(d),
        omega=lambda d: d / _share(30)(d) - 1,
    ),
    CodecRow(
        "threshold",
        lambda: codecs.threshold(value=0.5),
        lambda d: 32 * d,
        is_scale_equivariant=False,
        packed_bits=lambda x: 64 * int((abs(x) > 0.5).sum()),
    ),
    CodecRow(
        "dgc",
        lambda: codecs.dgc(ratio=0.05),
        lambda d: 64 * _share(5)(d),
        delta=lambda d: _share(5)(d) / d,
    ),
    CodecRow(
        "dgc, clipped, warmed up",
        lambda: codecs.dgc(ratio=0.05, clip=1.0, warmup_steps=2, index_coding="rice"),
        lambda d: 64 * _share(25)(d),
        is_scale_equivariant=False,
        packed_bits=_rice_bits,
    ),
    CodecRow("power_sgd", codecs.power_sgd, lambda d: 32 * d, omega=lambda _: 0.0, delta=lambda _: 1.0),
    CodecRow("power_sgd of matrices", codecs.power_sgd, _low_rank(2), delta=lambda _: 0.0, shape=_square),
    CodecRow("power_sgd of full rank", lambda: codecs.power_sgd(10), _low_rank(10), delta=lambda _: 1.0, shape=_square),
    CodecRow("count_sketch", lambda: codecs.count_sketch(rows=3, columns=50), lambda _: 32 * 3 * 50),
    CodecRow("fetch_sgd", lambda: codecs.fetch_sgd(rows=3, columns=50), lambda _: 32 * 3 * 50),
)
"""Codecs that send few of the values, or sums of them."""

COMBINATORS: Final = (
    CodecRow("error_feedback", lambda: error_feedback(top_k(ratio=0.05)), lambda d: 64 * _share(5)(d)),
    CodecRow(
        "momentum_correction",
        lambda: codecs.momentum_correction(top_k(ratio=0.05)),
        lambda d: 64 * _share(5)(d),
        delta=lambda d: _share(5)(d) / d,
    ),
    CodecRow(
        "ef21",
        lambda: codecs.ef21(top_k(ratio=0.05)),
        lambda d: 64 * _share(5)(d),
        delta=lambda d: _share(5)(d) / d,
    ),
    CodecRow("diana", lambda: codecs.diana(codecs.natural()), _packed(9), omega=lambda _: 1 / 8),
    CodecRow(
        "chain",
        lambda: codecs.chain([top_k(ratio=0.3), codecs.qsgd()]),
        lambda d: 32 * _share(30)(d) + _packed(4, 512)(_share(30)(d)),
    ),
    CodecRow("layers", lambda: codecs.layers({"default": cast()}), lambda d: 16 * d, delta=lambda _: 1 - 2**-16),
    CodecRow("leafwise", lambda: codecs.leafwise(cast()), lambda d: 16 * d, delta=lambda _: 1 - 2**-16),
    CodecRow("flat", lambda: codecs.flat(cast()), lambda d: 16 * d, delta=lambda _: 1 - 2**-16),
    *(
        (
            CodecRow(
                "compressed",
                lambda: codecs.compressed(cast()),
                lambda d: 16 * d,
                delta=lambda _: 1 - 2**-16,
                packed_bits=lambda x: 16 * x.size + 8 * 20,  # no more than what is not compressed, and headers
            ),
        )
        if find_spec("zstandard")
        else ()
    ),
)
"""Codecs made of others; those that need an optional package only where it is installed."""

ROWS: Final = (
    CodecRow("identity", identity, lambda d: 32 * d, omega=lambda _: 0.0, delta=lambda _: 1.0),
    *QUANTIZERS,
    *SPARSIFIERS,
    *COMBINATORS,
)
"""All built-in codecs; several rows of one codec have different parameters."""
