"""What the table of codecs promises, compared with what comes out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from psgdsim import trees, wire
from psgdsim.codecs.base import Codec
from psgdsim.testing.checks import Check, at_most, compare
from psgdsim.testing.codec_rows import CodecRow

if TYPE_CHECKING:
    import numpy as np

NUM_KEYS: Final = 4000
"""Random keys of a mean or a variance."""

MAX_Z: Final = 5.0
"""How many standard errors a mean may be off: by chance once in some 10,000 tables of 100 means each."""

DIM: Final = 100
"""Values of the vectors whose means are taken; no multiple of any block."""

SIZES: Final = (1, 2, 3, 20, 1001)
"""Lengths of vectors whose messages are measured."""


def check_row(row: CodecRow) -> Iterator[Check]:
    """Check what one row of the table promises.

    Args:
        row: of `codec_rows.ROWS`.
    """
    codec = row.make()
    yield check_bits(row, codec)
    if row.packed_bits is not None:
        yield check_packed_bits(row, codec, row.packed_bits)
    if row.omega is not None:
        yield from check_unbiased(row, codec, row.omega(DIM))
    if row.delta is not None:
        yield check_contraction(row, codec, row.delta(DIM))
    yield from check_symmetries(row, codec)


def examples(size: int = DIM) -> dict[str, np.ndarray]:
    """Return vectors of unlike spread by name, float32: Gaussian, heavy tails, one magnitude, one value among zeros.

    Args:
        size: values of each.
    """
    import numpy as np

    generator = np.random.default_rng(size)
    normal = generator.standard_normal(size)
    vectors = {
        "normal": normal,
        "heavy tails": normal**3,
        "one magnitude": np.where(normal > 0, 0.75, -0.75),
        "one value": np.where(np.arange(size) == size // 2, -3.0, 0.0),
    }
    return {name: vector.astype(np.float32) for name, vector in vectors.items()}


def decode_many(codec: Codec, update: Any, num: int = NUM_KEYS) -> Any:
    """Return what an update decodes to under the first `num` random keys, one after the other in the first axis.

    Args:
        codec: the codec; every time with new states.
        update: a pytree.
        num: how many keys.
    """
    import jax

    return _many(codec)(update, jax.random.split(jax.random.key(1), num))


@functools.lru_cache(maxsize=4)
def _many(codec: Codec) -> Any:
    import jax

    def one(update: Any, key: Any) -> Any:
        payload, _ = codec.encode(update, codec.init(update), key)
        return codec.decode(payload, codec.init(update), update)[0]

    return jax.jit(jax.vmap(one, in_axes=(None, 0)))


def check_bits(row: CodecRow, codec: Codec) -> Check:
    """Compare the sizes of messages with the stated ones, for the lengths in `SIZES`."""
    import jax
    import numpy as np

    got = []
    for size in SIZES:
        like = np.zeros(row.shape(size), np.float32)
        payload, _ = jax.eval_shape(codec.encode, like, codec.init(like), jax.random.key(0))
        got.append(8 * wire.tensor_nbytes(payload))
    sizes = ", ".join(map(str, SIZES))
    expected = " ".join(str(row.bits(size)) for size in SIZES)
    return Check(f"{row.label}: bits of {sizes} values", expected, " ".join(map(str, got)), "its docstring")


def check_packed_bits(row: CodecRow, codec: Codec, bound: Callable[[np.ndarray], int]) -> Check:
    """Compare the sizes of packed messages with what they take at most, for a short Gaussian vector and a long one.

    Args:
        row: the codec's row.
        codec: what its `make` returns.
        bound: bits for a vector.
    """
    import jax

    worst = -math.inf
    for size in SIZES[-2:]:
        vector = examples(size)["normal"]
        payload, _ = codec.encode(vector, codec.init(vector), jax.random.key(0))
        packed: Any = codec.pack and codec.pack(trees.numbers(payload), vector)
        worst = max(worst, 8 * wire.tensor_nbytes(packed) - bound(vector))
    return at_most(f"{row.label}: packed bits, less the bound", 0, worst, "its docstring")


def check_unbiased(row: CodecRow, codec: Codec, omega: float) -> Iterator[Check]:
    """Compare the mean and the variance over many keys with an unbiased codec's.

    Args:
        row: the codec's row.
        codec: what its `make` returns.
        omega: the bound of the variance, as a share of ||x||^2.
    """
    import numpy as np

    worst, variances = 0.0, []
    for vector in examples().values():
        errors = _errors(row, codec, vector)
        worst = max(worst, z_score(errors, vector))
        shares = np.sum(errors**2, axis=1) / np.sum(vector.astype(np.float64) ** 2)
        variances.append(shares.mean() - MAX_Z * shares.std() / math.sqrt(len(shares)))
    yield at_most(f"{row.label}: z-score of the mean", MAX_Z, worst, f"unbiased, {NUM_KEYS} keys")
    yield at_most(f"{row.label}: variance / ||x||^2", omega + 1e-6, max(variances), "U(omega), less 5 standard errors")


def z_score(errors: np.ndarray, vector: np.ndarray) -> float:
    """Return how far the mean of errors is from 0, in standard errors; the largest of all coordinates.

    Args:
        errors: `(key, value)`.
        vector: what was coded; rounding of float32 is no error.
    """
    import numpy as np

    rounding = 2**-22 * np.max(np.abs(vector))
    once = np.max(np.abs(errors)) / len(errors)  # what happens under one key in thousands shows in no deviation
    deviation = errors.std(axis=0) / math.sqrt(len(errors))
    return float(np.max(np.abs(errors.mean(axis=0)) / (deviation + rounding + once)))


def check_contraction(row: CodecRow, codec: Codec, delta: float) -> Check:
    """Compare the error of a codec with the bound of a contraction, for all examples."""
    import numpy as np

    worst = 0.0
    for vector in examples().values():
        errors = _errors(row, codec, vector)
        shares = np.sum(errors**2, axis=1) / np.sum(vector.astype(np.float64) ** 2)
        worst = max(worst, float(shares.mean() - MAX_Z * shares.std() / math.sqrt(len(shares))))
    return at_most(f"{row.label}: error / ||x||^2", 1 - delta + 1e-6, worst, "C(delta), less 5 standard errors")


def check_symmetries(row: CodecRow, codec: Codec) -> Iterator[Check]:
    """Check that the codec is odd and scales with its update, where its row says so."""
    import numpy as np

    normal = examples()["normal"]
    with_zeros = np.where(np.arange(DIM) % 3 == 0, np.float32(0), normal)
    is_odd, is_equivariant = row.is_odd, row.is_scale_equivariant
    yield from _symmetries(row, codec, normal, {-1.0: is_odd, 2.0: is_equivariant, 0.5: is_equivariant})
    for check in _symmetries(row, codec, with_zeros, {-1.0: is_odd and row.is_odd_with_zeros}):
        yield check._replace(name=f"{check.name}, some of x are 0")


def _symmetries(row: CodecRow, codec: Codec, vector: np.ndarray, factors: dict[float, bool]) -> Iterator[Check]:
    """Check that a vector times each factor that is promised decodes to what it decodes to times the factor."""
    import numpy as np

    update = vector.reshape(row.shape(vector.size))
    decoded = np.asarray(decode_many(codec, update, 8))
    for factor in (factor for factor, is_promised in factors.items() if is_promised):
        got = np.asarray(decode_many(codec, np.float32(factor) * update, 8))
        off = float(np.max(np.abs(got - np.float32(factor) * decoded)))
        yield compare(f"{row.label}: C({factor:g} x) - {factor:g} C(x)", 0.0, off, "symmetry", 0.0)


def _errors(row: CodecRow, codec: Codec, vector: np.ndarray) -> np.ndarray:
    """Return what decoding is off by under many keys, `(key, value)`, float64."""
    import numpy as np

    decoded = np.asarray(decode_many(codec, vector.reshape(row.shape(vector.size))), np.float64)
    errors: np.ndarray = decoded.reshape(-1, vector.size) - vector
    return errors
