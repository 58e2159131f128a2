"""Blocks of values as a scale and whole levels of it: what QSGD, TernGrad and blockwise integers have in common.

A value that is not finite makes its block's scale, and so all that its block decodes to, not a number: it is seen
where the loss is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from psgdsim.codecs.noise import round_at_random
from psgdsim.compilation import lazy_jit

if TYPE_CHECKING:
    import jax

Norm = Literal["l2", "max"]

_HALVINGS: Final = 4
"""A row is folded so often before the rest is reduced; each doubles what one compiled expression reads."""


def level_bits(levels: int) -> int:
    """Return the bits of a sign and a level of 0 to `levels`: 1 + ceil(lg(levels + 1)).

    Example:
        >>> level_bits(1), level_bits(7), level_bits(127)
        (2, 4, 8)
    """
    return 1 + levels.bit_length()


def num_blocks(size: int, block_size: int | None) -> int:
    """Return how many blocks a vector has; one if there is no block size."""
    return 1 if block_size is None else max(1, -(-size // block_size))


@partial(lazy_jit, static=("block_size",))
def in_blocks(vector: jax.Array, block_size: int | None) -> jax.Array:
    """Return a vector as the rows of a matrix, the last filled up with zeros; float32.

    Args:
        vector: of any size.
        block_size: values per block; None for one block. A shorter vector is one block of its own size.
    """
    import jax.numpy as jnp

    columns = vector.size if block_size is None else min(block_size, vector.size)
    return jnp.pad(vector.astype(jnp.float32), (0, -vector.size % max(1, columns))).reshape(-1, columns)


def from_blocks(rows: jax.Array, like: jax.Array) -> jax.Array:
    """Return the rows of a matrix as a vector like another."""
    return rows.reshape(-1)[: like.size].astype(like.dtype)


@lazy_jit
def row_max(rows: jax.Array) -> jax.Array:
    """Return the largest magnitude of each row."""
    import jax.numpy as jnp

    largest: jax.Array = _reduce(jnp.abs(rows), jnp.maximum, jnp.max)
    return largest


@partial(lazy_jit, static=("norm",))
def row_norm(rows: jax.Array, norm: Norm) -> jax.Array:
    """Return the norm of each row: Euclidean, without overflow on the way, or the largest magnitude."""
    import jax.numpy as jnp

    largest: jax.Array = row_max(rows)
    if norm == "max":
        return largest
    shares = rows / nonzero(largest)[:, None]
    norms: jax.Array = largest * jnp.sqrt(_reduce(shares * shares, jnp.add, jnp.sum))
    return norms


def nonzero(scales: jax.Array) -> jax.Array:
    """Return what can be divided by: 1 where a scale is 0 or not a number."""
    import jax.numpy as jnp

    return jnp.where(scales > 0, scales, 1)


def _reduce(rows: Any, combine: Callable[[Any, Any], Any], reduce: Callable[..., Any]) -> Any:
    """Reduce each row, in the same order whatever surrounds it; folded rows go five times as fast."""
    if rows.shape[0] == 1:
        return reduce(rows.reshape(-1)).reshape(1)
    for _ in range(_HALVINGS):
        half = rows.shape[1] // 2
        if half < 16 or rows.shape[1] % 2:
            break
        rows = combine(rows[:, :half], rows[:, half:])
    return reduce(rows, axis=1)


@partial(lazy_jit, static=("levels",))
def to_levels(rows: jax.Array, scales: jax.Array, levels: int, key: jax.Array | None) -> jax.Array:
    """Round magnitudes to levels, 0 to `levels`, of each row's scale.

    Args:
        rows: float32, a row for each scale; magnitudes above the scale count as the scale.
        scales: what the highest level stands for.
        levels: the highest level.
        key: to round at random, without bias; None rounds to the nearest, ties to even.

    Returns:
        A vector of codes of `level_bits(levels)` bits: the level, and above it a bit that
        says that it stands for a value below 0.
    """
    import jax.numpy as jnp

    bits = level_bits(levels)
    shares = jnp.minimum(jnp.abs(rows) / nonzero(scales)[:, None], 1)
    # The minimum keeps the compiler from fusing product and sum, whose result would not be that of plain calls.
    places = jnp.minimum(shares * levels, levels)
    rounded = jnp.round(places) if key is None else round_at_random(places, key)
    sign_bit = jnp.uint32(2 ** (bits - 1))
    codes = rounded.astype(jnp.uint32) & (sign_bit - 1)
    return jnp.where((rows < 0) & (codes > 0), codes | sign_bit, codes).reshape(-1)


@partial(lazy_jit, static=("levels", "block_size"))
def from_levels(codes: jax.Array, scales: jax.Array, levels: int, like: jax.Array, block_size: int | None) -> jax.Array:
    """Return the values that codes of `to_levels` stand for: sign level / levels scale.

    Args:
        codes: one for each value of `like`; levels above the highest count as the highest.
        scales: one for each block.
        levels: the highest level.
        like: a vector.
        block_size: values per block; None for one block.
    """
    import jax.numpy as jnp

    sign_bit = 2 ** (level_bits(levels) - 1)
    columns = like.size if block_size is None else min(block_size, like.size)
    rows = jnp.pad(codes, (0, scales.size * columns - like.size)).reshape(-1, columns)
    places = rows & (sign_bit - 1)
    if levels < sign_bit - 1:  # a damaged code may have more
        places = jnp.minimum(places, levels)
    shares = places.astype(jnp.float32) / jnp.float32(levels)
    magnitudes = shares * scales[:, None]
    return from_blocks(jnp.where(rows >= sign_bit, -magnitudes, magnitudes), like)


def variance_bound(size: int, block_size: int | None, levels: int) -> float:
    """Return omega of rounding at random to levels of the Euclidean norm: min(d / s^2, sqrt(d) / s).

    Args:
        size: values of the vector.
        block_size: values per block; None for one block.
        levels: the highest level, s.
    """
    block = size if block_size is None else min(block_size, size)
    return min(block / levels**2, math.sqrt(block) / levels)
