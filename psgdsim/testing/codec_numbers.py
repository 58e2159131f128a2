"""Published and derived numbers of quantisers on Gaussian vectors, computed afresh."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from psgdsim import codecs
from psgdsim.codecs.base import Codec
from psgdsim.testing.checks import Check, at_most, compare
from psgdsim.testing.codec_laws import decode_many

if TYPE_CHECKING:
    import numpy as np

DIM: Final = 4096
NUM_KEYS: Final = 500

QSGD_VARIANCES: Final = {1: 50.3, 4: 11.9, 16: 2.21, 64: 0.168, 255: 0.0104}
"""E||Q(v) - v||^2 / ||v||^2 by levels, of a Gaussian vector of 4096 values in one bucket."""

ELIAS_BITS: Final = {1: 716, 64: 11376}
"""Bits of QSGD's messages in Elias omega codes, by levels, of the same."""


def verify_numbers() -> Iterator[Check]:
    """Compare errors and sizes of quantisers on Gaussian vectors with closed forms and known values."""
    vector = gaussian()
    for levels, variance in QSGD_VARIANCES.items():
        yield from _qsgd(vector, levels, variance)
    for levels, bits in ELIAS_BITS.items():
        name = f"qsgd of {levels} levels, Elias: bits"
        yield compare(name, bits, elias_bits(vector, levels), "another Gaussian vector", 0.05)
    yield from _terngrad(vector)
    yield compare("natural: variance", 0.0804, _error(codecs.natural(), vector), "arXiv 1905.10988", 0.02)
    worst = _error(codecs.natural(), vector * 0 + 4 / 3)
    yield compare("natural at 4/3: variance", 1 / 9 / (16 / 9) * 2, worst, "(2 - t) (t - 1) / t^2 = 1/8", 0.02)
    long = gaussian(64 * DIM)
    for codec, name in ((codecs.scaled_sign(), "scaled_sign"), (codecs.one_bit(), "one_bit")):
        yield compare(f"{name}: error", 1 - 2 / math.pi, _error(codec, long, 1), "1 - 2 / pi", 0.01)
    yield from _integers(vector)


def gaussian(size: int = DIM) -> np.ndarray:
    """Return a standard normal vector, float32."""
    import numpy as np

    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


def qsgd_variance(vector: np.ndarray, levels: int) -> float:
    """Return QSGD's variance in one bucket, as a share of ||v||^2: sum p (1 - p) / s^2."""
    import numpy as np

    exact = vector.astype(np.float64)
    places = levels * np.abs(exact) / np.linalg.norm(exact)
    above = places - np.floor(places)
    return float(np.sum(above * (1 - above)) / levels**2)


def elias_bits(vector: np.ndarray, levels: int, num_keys: int = 16) -> float:
    """Return the mean bits of QSGD's messages in Elias codes, under the first keys; one bucket."""
    import jax
    import numpy as np

    codec = codecs.qsgd(levels=levels, bucket_size=None, coding="elias")
    encode, total = jax.jit(codec.encode), 0
    for seed in range(num_keys):
        payload, _ = encode(vector, (), jax.random.key(seed))
        packed: Any = codec.pack and codec.pack(jax.tree.map(np.asarray, payload), vector)
        total += 8 * sum(array.nbytes for array in packed.values())
    return total / num_keys


def _error(codec: Codec, vector: np.ndarray, num_keys: int = NUM_KEYS) -> float:
    """Return the mean of ||C(x) - x||^2 / ||x||^2 over many keys."""
    import numpy as np

    errors = np.asarray(decode_many(codec, vector, num_keys)) - vector
    return float(np.mean(np.sum(errors.astype(np.float64) ** 2, axis=1)) / np.sum(vector.astype(np.float64) ** 2))


def _qsgd(vector: np.ndarray, levels: int, known: float) -> Iterator[Check]:
    law, name = qsgd_variance(vector, levels), f"qsgd of {levels} levels: variance"
    yield compare(f"{name}, exactly", known, law, "another Gaussian vector", 0.05)
    got = _error(codecs.qsgd(levels=levels, bucket_size=None), vector)
    yield compare(name, law, got, f"arXiv 1610.02132, {NUM_KEYS} keys", 0.03)
    yield at_most(f"{name}, bound", min(DIM / levels**2, math.sqrt(DIM) / levels), law, "its Lemma 3.1")


def _terngrad(vector: np.ndarray) -> Iterator[Check]:
    import numpy as np

    exact = np.abs(vector.astype(np.float64))
    law = float(np.max(exact) * np.sum(exact) / np.sum(exact**2) - 1)
    got = _error(codecs.terngrad(clip=None), vector)
    yield compare("terngrad, no clip: variance", law, got, "s ||g||_1 - ||g||^2", 0.03)
    yield compare("terngrad, no clip: variance of a Gaussian", 2.14, law, "another Gaussian vector", 0.15)
    yield compare("terngrad: error of a Gaussian", 1.04, _error(codecs.terngrad(), vector), "another", 0.05)


def _integers(vector: np.ndarray) -> Iterator[Check]:
    import numpy as np

    largest = float(np.max(np.abs(vector)))
    for bits, levels in {8: 127, 4: 7, 2: 1}.items():
        codec = codecs.block_quantize(bits, DIM)  # type: ignore[arg-type]
        off = float(np.max(np.abs(np.asarray(decode_many(codec, vector, 1))[0] - vector)))
        yield at_most(f"block_quantize, {bits} bits: largest error", largest / (2 * levels) * (1 + 1e-6), off, "m / 2L")
