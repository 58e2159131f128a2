"""Linear sketches: sums of values that fall into the same bucket, of which the large ones can be found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from psgdsim.codecs.base import Codec, Reduction, flat, register_codec
from psgdsim.codecs.noise import mixed
from psgdsim.codecs.selection import largest
from psgdsim.codecs.sparse_packing import num_kept
from psgdsim.codecs.sparsify import Ratio

if TYPE_CHECKING:
    import jax

Rows = Annotated[int, Field(ge=1, le=64)]
Columns = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Sketch(NamedTuple):
    """How vectors become sketches.

    Attributes:
        rows: r, independent estimates of each value.
        columns: c, buckets per row.
        ratio: the share of the values that is taken out of a sketch.
        seed: of the hash functions.
    """

    rows: int
    columns: int
    ratio: float
    seed: int

    def of(self, vector: jax.Array) -> jax.Array:
        """Return the sketch of a vector: `(r, c)`, each value times a random sign in a random bucket of each row."""
        import jax

        def row(place: jax.Array) -> jax.Array:
            buckets, signs = self._hash(place, vector)
            return jax.ops.segment_sum(signs * vector, buckets, self.columns)

        sums: jax.Array = jax.lax.map(row, _row_numbers(self.rows))
        return sums

    def estimates(self, sketch: jax.Array, like: jax.Array) -> jax.Array:
        """Return what a sketch says of each value: the median of what the rows say."""
        import jax
        import jax.numpy as jnp

        def row(given: tuple[jax.Array, jax.Array]) -> jax.Array:
            buckets, signs = self._hash(given[0], like)
            estimates: jax.Array = signs * given[1][buckets]
            return estimates

        medians: jax.Array = jnp.median(jax.lax.map(row, (_row_numbers(self.rows), sketch)), axis=0)
        return medians

    def largest(self, sketch: jax.Array, like: jax.Array) -> jax.Array:
        """Return the k largest of the estimates where they belong, and zeros."""
        import jax.numpy as jnp

        estimates = self.estimates(sketch, like)
        places = largest(estimates, num_kept(self.ratio, like.size))
        found: jax.Array = jnp.zeros_like(like).at[places].set(estimates[places], indices_are_sorted=True)
        return found

    def _hash(self, row: jax.Array, like: jax.Array) -> tuple[Any, Any]:
        """Return the bucket of each value in one row, and its sign."""
        import jax.numpy as jnp

        start = mixed(jnp.asarray(self.seed, jnp.uint32) + jnp.uint32(0x9E3779B9) * (row + 1))
        words = mixed(mixed(jnp.arange(like.size, dtype=jnp.uint32) ^ start) + start)
        buckets = mixed(words) % self.columns
        return buckets.astype(jnp.int32), jnp.where(words >> 31, -1, 1).astype(like.dtype)


def _row_numbers(rows: int) -> Any:
    import jax.numpy as jnp

    return jnp.arange(rows, dtype=jnp.uint32)


@register_codec("count_sketch")
def count_sketch(rows: Rows = 5, columns: Columns = 1000, ratio: Ratio = 0.01, seed: Seed = 0) -> Codec:
    """Send sums of values in random buckets, and take the largest values out of the sum of all ranks' sketches.

    S[j, h_j(i)] gets s_j(i) x_i with hash functions h_j and signs s_j; x_i is estimated as the median over j of
    s_j(i) S[j, h_j(i)], and the k = max(1, floor(ratio * D)) largest estimates are decoded. Of the whole update as one
    vector. Wire size: 32rc bits. Linear: sketches add up to the sketch of the sum, in one round of an all-reduce. The
    estimate of one row is unbiased, its variance at most ||x||^2 / c, so k must be well below c: else noise is decoded,
    which error feedback would let grow.
    Source: Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", ICALP 2002; Ivkin et al.,
    "Communication-efficient Distributed SGD with Sketching", NeurIPS 2019, arXiv 1903.04488.

    Args:
        rows: r, how many estimates there are of each value.
        columns: c, buckets per row.
        ratio: the share of the values that is decoded, k/D.
        seed: of the hash functions.
    """
    sketch = Sketch(rows, columns, ratio, seed)

    def encode(update: jax.Array, state: Any, _key: jax.Array) -> tuple[jax.Array, Any]:
        return sketch.of(update), state

    def decode(payload: jax.Array, state: Any, like: jax.Array) -> tuple[jax.Array, Any]:
        return sketch.largest(payload, like), state

    def add_up(update: jax.Array, _state: Any, _totals: Any, _key: jax.Array) -> jax.Array:
        return sketch.of(update)

    def finish(update: jax.Array, state: Any, totals: Any, _world_size: Any) -> tuple[jax.Array, Any]:
        return sketch.largest(totals[0], update), state

    return flat(Codec(lambda _like: (), encode, decode, reduction=Reduction((add_up,), finish)))


@register_codec("fetch_sgd")
def fetch_sgd(
    rows: Rows = 5,
    columns: Columns = 1000,
    ratio: Ratio = 0.01,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    seed: Seed = 0,
) -> Codec:
    """Send sketches, and keep momentum and error feedback in sketches, where they are decoded.

    With T the sum of all ranks' sketches: U <- m U + T;  E <- E + U;  what is decoded is d, the k largest values that E
    holds;  E <- E - S(d). Wire size: 32rc bits. In an all-reduce every rank does what the paper's server does; a server
    that decodes each worker's sketch apart keeps U and E of each. Use it with an optimizer that has no momentum of its
    own.
    Source: Rothchild et al., "FetchSGD: Communication-Efficient Federated Learning with Sketching", ICML 2020,
    arXiv 2007.07682.

    Note:
        E is kept in units of gradients, so it is exact at a constant learning rate.

    Args:
        rows: r, how many estimates there are of each value.
        columns: c, buckets per row.
        ratio: the share of the values that is decoded, k/D.
        momentum: m.
        seed: of the hash functions.
    """
    sketch = Sketch(rows, columns, ratio, seed)

    def init(like: jax.Array) -> tuple[Any, Any]:
        import jax.numpy as jnp

        zeros = jnp.zeros((rows, columns), like.dtype)
        return zeros, zeros

    def encode(update: jax.Array, state: Any, _key: jax.Array) -> tuple[jax.Array, Any]:
        return sketch.of(update), state

    def decode(payload: jax.Array, state: tuple[Any, Any], like: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
        velocity = momentum * state[0] + payload
        error = state[1] + velocity
        found = sketch.largest(error, like)
        return found, (velocity, error - sketch.of(found))

    def add_up(update: jax.Array, _state: Any, _totals: Any, _key: jax.Array) -> jax.Array:
        return sketch.of(update)

    def finish(update: jax.Array, state: Any, totals: Any, _world_size: Any) -> tuple[jax.Array, Any]:
        return decode(totals[0], state, update)

    return flat(Codec(init, encode, decode, reduction=Reduction((add_up,), finish)))
