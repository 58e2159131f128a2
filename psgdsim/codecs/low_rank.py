"""Low-rank approximation: PowerSGD."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from psgdsim.codecs.base import Codec, Reduction, leafwise, register_codec

if TYPE_CHECKING:
    import jax

_SMALL: Final = 1e-5
"""A column of which no more than this is left beside the columns before it depends on them."""


@register_codec("power_sgd")
def power_sgd(rank: Annotated[int, Field(ge=1)] = 2) -> Codec:
    """Send a matrix as the product of two thin ones, found by one step of the power method from the last time's.

    Each array M of two or more dimensions apart, all but the last of them taken together: n x m. P = M Q, its columns
    made orthonormal; Q <- M^T P; decoded to P Q^T. The first Q is random, the same for all ranks.
    Arrays of fewer dimensions are sent as they are.
    Wire size: 32 r (n + m) bits per matrix with r = min(rank, n, m), and 32 bits per value of the other arrays.
    Lossless where the rank of M is at most r. ||P Q^T - M|| <= ||M||; biased, so wrap it in `error_feedback`.
    In an all-reduce the ranks add up P in a first round, together with the arrays that are sent as they are, and Q in
    a second one: what comes out is the approximation of the sum.
    Source: Vogels, Karimireddy and Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
    Optimization", NeurIPS 2019, arXiv 1905.13727.

    Note:
        The columns of Q are made orthonormal, too. One that depends on those before it, as after an M that is zero or
        of a lower rank, is replaced by a fixed direction orthogonal to them, so that none dies out.

    Args:
        rank: r, the columns of P and Q.
    """

    def init(like: jax.Array) -> Any:
        import jax
        import jax.numpy as jnp

        if len(like.shape) < 2:
            return ()
        rows, columns = _matrix_shape(like)
        size = (columns, min(rank, rows, columns))
        return jax.random.normal(jax.random.key(0), size, jnp.float32).astype(like.dtype)

    def encode(update: jax.Array, state: Any, _key: jax.Array) -> tuple[Any, Any]:
        if update.ndim < 2:
            return update, state
        matrix = update.reshape(_matrix_shape(update))
        left = orthonormal(matrix @ orthonormal(state))
        right = matrix.T @ left
        return {"left": left, "right": right}, right

    def decode(payload: Any, state: Any, like: jax.Array) -> tuple[jax.Array, Any]:
        if like.ndim < 2:
            return payload, state
        return (payload["left"] @ payload["right"].T).reshape(like.shape), state

    return leafwise(Codec(init, encode, decode, reduction=_reduction(), is_structured=True))


def _matrix_shape(like: Any) -> tuple[int, int]:
    *rows, columns = like.shape
    return math.prod(rows), columns


def _reduction() -> Reduction:
    def first(update: jax.Array, state: Any, _totals: Any, _key: jax.Array) -> Any:
        return update if update.ndim < 2 else update.reshape(_matrix_shape(update)) @ orthonormal(state)

    def second(update: jax.Array, _state: Any, totals: Any, _key: jax.Array) -> Any:
        return () if update.ndim < 2 else update.reshape(_matrix_shape(update)).T @ orthonormal(totals[0])

    def finish(update: jax.Array, state: Any, totals: Any, world_size: Any) -> tuple[Any, Any]:
        if update.ndim < 2:
            return totals[0], state
        total = (orthonormal(totals[0]) @ totals[1].T).reshape(update.shape)
        return total, totals[1] / world_size

    return Reduction((first, second), finish)


def orthonormal(matrix: jax.Array) -> jax.Array:
    """Return orthonormal columns that span those of a matrix, by the method of Gram and Schmidt, twice over.

    A column that depends on those before it is replaced by a fixed direction orthogonal to them.

    Args:
        matrix: `(n, r)`, r of at most n.

    Returns:
        `(n, r)`.
    """
    import jax
    import jax.numpy as jnp

    spare = jax.random.normal(jax.random.key(1), matrix.shape, jnp.float32).astype(matrix.dtype)

    def beside(column: jax.Array, found: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the direction of what is left of a column, and whether anything is."""
        largest = jnp.max(jnp.abs(column))
        column = column / jnp.where(largest > 0, largest, 1)
        whole = jnp.linalg.norm(column)
        for _ in range(2):
            column = column - found @ (found.T @ column)
        length = jnp.linalg.norm(column)
        return column / jnp.where(length > 0, length, 1), length > _SMALL * whole

    def add(i: jax.Array, found: jax.Array) -> jax.Array:
        own, is_new = beside(matrix[:, i], found)
        other, _ = beside(spare[:, i], found)
        return found.at[:, i].set(jnp.where(is_new, own, other))

    columns: jax.Array = jax.lax.fori_loop(0, matrix.shape[1], add, jnp.zeros_like(matrix))
    return columns
