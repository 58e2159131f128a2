"""Signs: one bit per value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psgdsim.codecs.base import Codec, leafwise, register_codec, stateless
from psgdsim.codecs.packing import pack_codes, unpack_codes

if TYPE_CHECKING:
    import jax


@register_codec("sign")
def sign() -> Codec:
    """Send the sign of each value, and nothing of its magnitude: signSGD.

    Decodes to 1, also of 0, and to -1 for values below 0. Added up over all ranks, the sign of the sum is their
    majority vote. Wire size: D bits, in whole bytes for each array. Biased, and no contraction: gradients of 4 with
    probability 1/4, else -1, have the mean 1/4, but their signs -1/2. What is not a number is sent as -1.
    Source: Bernstein, Wang, Azizzadenesheli and Anandkumar, "signSGD: Compressed Optimisation for Non-Convex Problems",
    ICML 2018, arXiv 1802.04434; majority vote: Bernstein, Zhao, Azizzadenesheli and Anandkumar, ICLR 2019, arXiv
    1810.05291.
    """
    return leafwise(stateless(lambda update, _key: _to_signs(update), lambda data, like: _from_signs(data, 1, like)))


@register_codec("scaled_sign")
def scaled_sign() -> Codec:
    """Send the sign of each value, and the mean of all magnitudes.

    C(x) = ||x||_1 / D sign(x), of each array apart, with sign(0) = 1. Wire size: 32 bits per array, and D bits in whole
    bytes. C(delta) with delta = ||x||_1^2 / (D ||x||_2^2) exactly, of 1/D to 1 and 2/pi for a Gaussian; equal
    magnitudes are lossless. Biased: wrap it in `error_feedback`.
    Source: Karimireddy, Rebjock, Stich and Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression
    Schemes", ICML 2019, arXiv 1901.09847.
    """

    def encode(update: jax.Array, _key: jax.Array) -> dict[str, Any]:
        import jax.numpy as jnp

        scale = jnp.mean(jnp.abs(update.reshape(-1).astype(jnp.float32)))
        return {"scale": scale, "signs": _to_signs(update)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        return _from_signs(payload["signs"], payload["scale"], like)

    return leafwise(stateless(encode, decode))


@register_codec("one_bit")
def one_bit() -> Codec:
    """Send the side of 0 on which each value is, and the mean of each side: 1-bit SGD.

    Each array apart; of matrices each column has means of its own (the last axis counts columns, all others rows),
    other arrays are one column. 0 counts as positive. Wire size: 64 bits per column, and D bits in whole bytes per
    array. What is left, x - C(x), is the variance within the sides, (1 - 2/pi) ||x||^2 for a Gaussian; the sum of a
    column is kept, and two values are lossless. C(delta) with delta at least ||x||_1^2 / (D ||x||_2^2) >= 1/D per
    column. Biased: wrap it in `error_feedback`, as the paper does.
    Source: Seide, Fu, Droppo, Li and Yu, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
    Distributed Training of Speech DNNs", Interspeech 2014.
    """

    def encode(update: jax.Array, _key: jax.Array) -> dict[str, Any]:
        import jax.numpy as jnp

        columns = _columns(update.astype(jnp.float32))
        is_positive = columns >= 0
        counts = jnp.sum(is_positive, axis=0, dtype=jnp.float32)
        above, below = (jnp.sum(side(columns, 0), axis=0) for side in (jnp.maximum, jnp.minimum))
        sides = jnp.stack([below, above]), jnp.stack([columns.shape[0] - counts, counts])
        return {"means": sides[0] / jnp.maximum(sides[1], 1), "signs": _to_signs(update)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        is_positive = _columns(unpack_codes(payload["signs"], 1, like.size).reshape(like.shape)) == 1
        means = payload["means"]
        return jnp.where(is_positive, means[1], means[0]).reshape(like.shape).astype(like.dtype)

    return leafwise(stateless(encode, decode))


def _columns(array: jax.Array) -> jax.Array:
    """Return a matrix by its columns, or another array as one column."""
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(-1, 1)


def _to_signs(update: jax.Array) -> jax.Array:
    signs: jax.Array = pack_codes(update.reshape(-1) >= 0, 1)
    return signs


def _from_signs(data: jax.Array, scale: Any, like: jax.Array) -> jax.Array:
    import jax.numpy as jnp

    is_positive = unpack_codes(data, 1, like.size) == 1
    return jnp.where(is_positive, scale, -scale).reshape(like.shape).astype(like.dtype)
