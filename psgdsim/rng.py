"""Random streams: one seed in the scenario, and every stream derived from `(seed, purpose, numbers...)`.

Two streams of different purpose or numbers are independent; the same arguments give the same stream in every
process and in both modes. Nothing in psgdsim draws from a global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax
    import numpy as np


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """Hash a seed, a purpose and any numbers to a 128-bit integer.

    Args:
        seed: the scenario's seed.
        purpose: what the stream is for, such as `"order"`.
        numbers: ranks, steps, epochs, ...: whatever tells this stream from its siblings.

    Returns:
        An integer in [0, 2**128) that depends on nothing but the arguments.
    """
    return int.from_bytes(_digest(seed, purpose, numbers), "little")


def _digest(seed: int, purpose: str, numbers: Sequence[int]) -> bytes:
    text = "\0".join([str(int(seed)), purpose, *[str(int(number)) for number in numbers]])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return a numpy generator for one purpose; it is seeded with what `derive` returns."""
    import numpy as np

    # As 32-bit words, for numpy takes more time to cut an integer into them than for all else that it does here.
    words = np.frombuffer(_digest(seed, purpose, numbers), "<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def key(seed: int, purpose: str, *numbers: int) -> jax.Array:
    """Return a jax random key for one purpose (see `derive`)."""
    import jax

    return jax.random.key(derive(seed, purpose, *numbers) % 2**32)
