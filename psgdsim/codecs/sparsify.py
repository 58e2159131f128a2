"""Sparsifiers: send few of the values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.codecs.base import Codec, flat, register_codec, stateless

if TYPE_CHECKING:
    import jax


@register_codec("top_k")
def top_k(ratio: Annotated[float, Field(gt=0, le=1)] = 0.01) -> Codec:
    """Send the k values of largest magnitude and their indices; ties go to the lowest index.

    Wire size: 64k bits with k = max(1, floor(ratio * D)): a float32 value and an int32 index each.
    A contraction with delta = k/D: ||C(x) - x||^2 <= (1 - k/D) ||x||^2; biased, so wrap it in `error_feedback`.
    Source: Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017, arXiv 1704.05021;
    Stich et al., "Sparsified SGD with Memory", NeurIPS 2018, arXiv 1809.07599.

    Args:
        ratio: the share of the values that is sent, k/D.
    """

    def encode(update: jax.Array, _key: jax.Array) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        count = max(1, int(ratio * update.size))
        _, indices = jax.lax.top_k(jnp.abs(update), count)
        return {"indices": indices.astype(jnp.int32), "values": update[indices]}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        return jnp.zeros_like(like).at[payload["indices"]].set(payload["values"])

    return flat(stateless(encode, decode))
