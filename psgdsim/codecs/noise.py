"""Random numbers for rounding: a hash of a counter, many times as fast on a processor as jax's own generators.

The n-th number is a function of n and of the key alone, so that it is the same wherever it is computed. Two words k and
k' are hashed from the key; with 32-bit arithmetic, golden ratio g = 0x9E3779B9 and the mixing function
m(v) = f(f(f(v) a) b) of xor-shifts f and odd factors (the finaliser of MurmurHash3, Appleby 2011), the number is
m(m(g n + k) ^ k'). It is good enough to round with, and no more: nothing here is secret.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from psgdsim.compilation import lazy_jit

if TYPE_CHECKING:
    import jax

_GOLDEN: Final = 0x9E3779B9
_SALTS: Final = (0x243F6A88, 0x85A308D3)
"""What tells the two words of a key apart: digits of pi."""


@partial(lazy_jit, static=("size",))
def random_bits(key: jax.Array, size: int) -> jax.Array:
    """Return uniform random words.

    Args:
        key: a jax random key, of any kind.
        size: how many, at most 2**32.

    Returns:
        uint32, `(size,)`; the first words do not depend on `size`.
    """
    import jax
    import jax.numpy as jnp

    first, second = _words(key)
    counter = jax.lax.iota(jnp.uint32, size) * jnp.uint32(_GOLDEN)
    words: jax.Array = mixed(mixed(counter + first) ^ second)
    return words


@partial(lazy_jit, static=("shape",))
def uniforms(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return uniform random numbers in [0, 1), multiples of 2**-24.

    Args:
        key: a jax random key.
        shape: of the result.

    Returns:
        float32.
    """
    import jax.numpy as jnp

    words = random_bits(key, math.prod(shape)).reshape(shape)
    numbers: jax.Array = (words >> 8).astype(jnp.float32) * jnp.float32(2**-24)
    return numbers


@lazy_jit
def round_at_random(values: jax.Array, key: jax.Array) -> jax.Array:
    """Round each value to the integer below or above, so that its mean is the value.

    Args:
        values: float32, of any shape.
        key: a jax random key.

    Returns:
        Integers as float32.
    """
    import jax.numpy as jnp

    below = jnp.floor(values)
    rounded: jax.Array = below + (uniforms(key, values.shape) < values - below)
    return rounded


def _words(key: jax.Array) -> list[Any]:
    import jax
    import jax.numpy as jnp

    words = jax.random.key_data(key).reshape(-1)
    hashed = []
    for salt in _SALTS:
        value: Any = jnp.uint32(salt)
        for place in range(words.size):
            value = mixed(value + jnp.uint32(_GOLDEN) ^ words[place])
        hashed.append(value)
    return hashed


def mixed(value: Any) -> Any:
    """Return a 32-bit word in which each bit depends on all of the given word's."""
    import jax.numpy as jnp

    value ^= value >> 16
    value *= jnp.uint32(0x85EBCA6B)
    value ^= value >> 13
    value *= jnp.uint32(0xC2B2AE35)
    return value ^ value >> 16
