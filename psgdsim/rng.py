"""Random streams: one seed in the scenario, and every stream derived from `(seed, purpose, numbers...)`.

Two streams of different purpose or numbers are independent; the same arguments give the same stream in every
process and in both modes. Nothing in psgdsim draws from a global generator.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import jax
    import numpy as np

_PCG_MULTIPLIER: Final = 0x2360ED051FC65DA44385DF649FCCF645
"""Of the generator PCG64 (O'Neill, "PCG: a family of simple fast space-efficient ... algorithms", 2014)."""

FEW_STREAMS: Final = 16
"""Fewer streams than this are quicker made one by one."""


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


def streams(seed: int, purpose: str, numbers: Sequence[Sequence[int]]) -> Iterator[np.random.Generator]:
    """Return the streams that `stream` would, one for each of some numbers; many cost less than half as much.

    It may be one generator, set to each of them in turn: draw what is to be drawn before you ask for the next.

    Args:
        seed: as in `stream`.
        purpose: likewise.
        numbers: those of each stream.
    """
    import numpy as np

    if len(numbers) < FEW_STREAMS:
        yield from (stream(seed, purpose, *each) for each in numbers)
        return
    words = np.frombuffer(b"".join([_digest(seed, purpose, each) for each in numbers]), "<u4")
    generator = np.random.Generator(np.random.PCG64(0))
    for high, low, high_increment, low_increment in _seeds(words.reshape(-1, 4).T).T.tolist():
        increment = (high_increment << 65 | low_increment << 1 | 1) % 2**128
        state = ((increment + (high << 64 | low)) * _PCG_MULTIPLIER + increment) % 2**128
        generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }
        yield generator


def _seeds(words: np.ndarray) -> np.ndarray:
    """Return what numpy's `SeedSequence` makes of four words, for many at once: `(4, n)` uint32 to `(4, n)` uint64.

    Source: O'Neill, "Developing a seed_seq alternative", 2015; numpy keeps it as it is (NEP 19).
    """
    import numpy as np

    def hashed(value: np.ndarray, constant: int, multiplier: int) -> tuple[np.ndarray, int]:
        following = constant * multiplier % 2**32
        value = (value ^ np.uint32(constant)) * np.uint32(following)
        return value ^ (value >> np.uint32(16)), following

    pool, constant = list(words), 0x43B0D7E5
    for i in range(4):
        pool[i], constant = hashed(pool[i], constant, 0x931E8875)
    for source, target in itertools.permutations(range(4), 2):
        other, constant = hashed(pool[source], constant, 0x931E8875)
        mixed = np.uint32(0xCA01F9DD) * pool[target] - np.uint32(0x4973F715) * other
        pool[target] = mixed ^ (mixed >> np.uint32(16))
    found, constant = np.empty((8, words.shape[1]), np.uint64), 0x8B51F9DD
    for i in range(8):
        found[i], constant = hashed(pool[i % 4], constant, 0x58F38DED)
    return found[0::2] | found[1::2] << np.uint64(32)


def key(seed: int, purpose: str, *numbers: int) -> jax.Array:
    """Return a jax random key for one purpose (see `derive`)."""
    import jax

    return jax.random.key(derive(seed, purpose, *numbers) % 2**32)
