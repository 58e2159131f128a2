"""Which values are the largest, or drawn at random: exact, in ascending order, and quick for long vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psgdsim.codecs.noise import mixed

if TYPE_CHECKING:
    import jax

SORTED_SHARE: Final = 1 / 512
"""Up to this share of the values, `jax.lax.top_k` is quicker on a CPU."""

SORTED_SIZE: Final = 2**15
"""Up to so many values, too."""

SHUFFLED_SIZE: Final = 2**10
"""Up to so many places, random ones are drawn from a shuffle of all of them."""

_ROUNDS: Final = 8


def largest(vector: jax.Array, count: int) -> jax.Array:
    """Return the places of the values of largest magnitude; ties go to the lowest place.

    NaN counts as larger than any number.

    Args:
        vector: `(d,)` floats.
        count: how many, 1 to d.

    Returns:
        `(count,)` int32, ascending.
    """
    import jax
    import jax.numpy as jnp

    if vector.dtype.itemsize > 4 or vector.size <= SORTED_SIZE or count <= SORTED_SHARE * vector.size:
        return jnp.sort(jax.lax.top_k(jnp.abs(vector), count)[1].astype(jnp.int32))
    # Magnitudes are ordered as their bits are, read as integers.
    bits = jax.lax.bitcast_convert_type(jnp.abs(vector.astype(jnp.float32)), jnp.uint32)
    return _largest_integers(bits, count, count)


def largest_of(vector: jax.Array, count: jax.Array, room: int) -> jax.Array:
    """Return the places of so many values of largest magnitude, of a number that is known only when it runs.

    Args:
        vector: `(d,)` floats of at most 32 bits.
        count: how many, 1 to `room`.
        room: how many there may be at most.

    Returns:
        `(room,)` int32: as `largest`, and then d wherever there are no more.
    """
    import jax
    import jax.numpy as jnp

    bits = jax.lax.bitcast_convert_type(jnp.abs(vector.astype(jnp.float32)), jnp.uint32)
    places = _largest_integers(bits, count, room)
    return jnp.where(jnp.arange(room) < count, places, vector.size)


def _largest_integers(bits: jax.Array, count: int | jax.Array, room: int) -> jax.Array:
    """Return the places of the largest of some integers of 31 bits, ascending."""
    import jax.numpy as jnp

    bits = jnp.pad(bits, (0, -bits.size % 32))
    least = _smallest_kept(bits, count)
    above, equal = to_words(bits > least), to_words(bits == least)
    num_above = jnp.sum(_num_ones(above))
    return places_of_ones(above | _first_ones(equal, count - num_above), room)


def _smallest_kept(bits: jax.Array, count: int | jax.Array) -> jax.Array:
    """Return the count-th largest of some integers of 31 bits, found bit by bit."""
    import jax
    import jax.numpy as jnp

    def halve(i: jax.Array, least: jax.Array) -> jax.Array:
        candidate = least | (jnp.uint32(1) << (30 - i).astype(jnp.uint32))
        return jnp.where(jnp.sum(_num_ones(to_words(bits >= candidate))) >= count, candidate, least)

    least: jax.Array = jax.lax.fori_loop(0, 31, halve, jnp.uint32(0))
    return least


def to_words(bits: jax.Array) -> jax.Array:
    """Return booleans, a multiple of 32 of them, as the bits of uint32, the lowest first."""
    import jax.numpy as jnp

    weights = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)
    return jnp.sum(jnp.where(bits.reshape(-1, 32), weights, jnp.uint32(0)), axis=1, dtype=jnp.uint32)


def places_of_ones(words: jax.Array, count: int) -> jax.Array:
    """Return the places of the first so many ones in a bit string of uint32.

    Args:
        words: `(n,)`; what is returned means nothing if there are fewer ones in them.
        count: how many.

    Returns:
        `(count,)` int32, ascending.
    """
    import jax.numpy as jnp

    ones = _num_ones(words)
    ends = jnp.cumsum(ones)
    ranks = jnp.arange(count, dtype=jnp.int32)
    holders = jnp.searchsorted(ends, ranks, side="right").astype(jnp.int32)
    return holders * 32 + _place_of_one(words[holders], ranks - (ends - ones)[holders])


def _num_ones(words: jax.Array) -> jax.Array:
    import jax
    import jax.numpy as jnp

    return jax.lax.population_count(words).astype(jnp.int32)


def _first_ones(words: jax.Array, count: jax.Array) -> jax.Array:
    """Return a bit string with all but its first so many ones cleared."""
    import jax.numpy as jnp

    ones = _num_ones(words)
    room = count - (jnp.cumsum(ones) - ones)
    below = (jnp.uint32(1) << _place_of_one(words, jnp.clip(room, 0, 31)).astype(jnp.uint32)) - 1
    return jnp.where(room >= ones, words, jnp.where(room <= 0, 0, words & below))


def _place_of_one(words: jax.Array, ranks: jax.Array) -> jax.Array:
    """Return in each word the place of the one that has so many ones below it."""
    import jax.numpy as jnp

    places = jnp.zeros_like(ranks)
    for half in (16, 8, 4, 2, 1):
        lower = _num_ones(words & jnp.uint32((1 << half) - 1))
        is_above = ranks >= lower
        ranks = jnp.where(is_above, ranks - lower, ranks)
        words = jnp.where(is_above, words >> half, words)
        places = jnp.where(is_above, places + half, places)
    return places


def random_places(key: jax.Array, size: int, count: int) -> jax.Array:
    """Return different places drawn at random, each as likely as any other.

    Long vectors are not shuffled: a random permutation of all places takes 0 .. count - 1 to those that are drawn. It
    is a Feistel network over the next power of four; values of `size` or more go through it again (Black and Rogaway,
    CT-RSA 2002).

    Args:
        key: a random key.
        size: how many places there are.
        count: how many are drawn.

    Returns:
        `(count,)` int32, ascending.
    """
    import jax
    import jax.numpy as jnp

    if size <= SHUFFLED_SIZE:
        return jnp.sort(jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))[:count])
    half = -(-(size - 1).bit_length() // 2)
    keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)
    start = _permute(jnp.arange(count, dtype=jnp.uint32), keys, half)
    places = jax.lax.while_loop(
        lambda places: jnp.any(places >= size),
        lambda places: jnp.where(places >= size, _permute(places, keys, half), places),
        start,
    )
    return jnp.sort(places.astype(jnp.int32))


def _permute(values: jax.Array, keys: jax.Array, half: int) -> jax.Array:
    """Return where a Feistel network takes integers of `2 * half` bits."""
    import jax.numpy as jnp

    mask = jnp.uint32((1 << half) - 1)
    left, right = values >> half, values & mask
    for i in range(_ROUNDS):
        left, right = right, left ^ (mixed(right ^ keys[i]) & mask)
    permuted: jax.Array = (left << half) | right
    return permuted
