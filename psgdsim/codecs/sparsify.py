"""Sparsifiers: send few of the values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.codecs.base import Codec, flat, register_codec, stateless
from psgdsim.codecs.indices import Coding
from psgdsim.codecs.selection import largest, random_places
from psgdsim.codecs.sparse_packing import num_kept, sparse_pack, sparse_unpack

if TYPE_CHECKING:
    import jax

Ratio = Annotated[float, Field(gt=0, le=1)]


@register_codec("top_k")
def top_k(ratio: Ratio = 0.01, index_coding: Coding = "raw") -> Codec:
    """Send the k values of largest magnitude and their indices, ascending; ties go to the lowest index.

    Of the whole update as one vector. Wire size: 64k bits with k = max(1, floor(ratio * D)), a float32 value and an
    int32 index each; with another `index_coding`, 32k bits and what `codecs.indices.pack_indices` says, with the best
    of them about 40k at a ratio of 1 % and 43.5k at 0.1 %.
    A contraction with delta = k/D: ||C(x) - x||^2 <= (1 - k/D) ||x||^2, with equality where all magnitudes are equal.
    Biased, so wrap it in `error_feedback`.
    Indices of a damaged message are refused; but not `raw` ones, which are never looked at on the host: values at
    places that do not exist are dropped, and of several at one place a single one counts.
    Source: Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017, arXiv 1704.05021;
    Stich et al., "Sparsified SGD with Memory", NeurIPS 2018, arXiv 1809.07599.

    Args:
        ratio: the share of the values that is sent, k/D.
        index_coding: how indices cross the wire: raw, 32 bits each; bitmap, D bits; rice, gaps in Rice code; delta,
            gaps in bytes; auto, whichever is the shortest for the message.
    """

    def encode(update: jax.Array, _key: jax.Array) -> dict[str, Any]:
        indices = largest(update, num_kept(ratio, update.size))
        return {"indices": indices, "values": update[indices]}

    if index_coding == "raw":
        return flat(stateless(encode, place_values))
    count = _count_of(ratio)
    pack, unpack = sparse_pack(index_coding), sparse_unpack(index_coding, count)
    return flat(stateless(encode, place_values, pack=pack, unpack=unpack))


def _count_of(ratio: float) -> Callable[[Any], int]:
    return lambda like: num_kept(ratio, like.size)


def place_values(payload: dict[str, Any], like: jax.Array) -> jax.Array:
    """Return zeros of the shape of `like` with the payload's values at its indices.

    Nothing is promised of the indices, which may come from a damaged message: values at negative ones and at those
    beyond the end are dropped, and of several at one place a single one counts, on a CPU the last.
    """
    import jax.numpy as jnp

    indices = payload["indices"]
    # A negative index would count from the end.
    placed: jax.Array = (
        jnp.zeros_like(like).at[jnp.where(indices < 0, like.size, indices)].set(payload["values"], mode="drop")
    )
    return placed


@register_codec("random_k")
def random_k(
    ratio: Ratio = 0.01,
    scaled: bool = False,  # noqa: FBT001 - parameters of parts are given by name
    shared: bool = True,  # noqa: FBT001
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
) -> Codec:
    """Send k values at random places.

    Of the whole update as one vector, k = max(1, floor(ratio * D)). Wire size: 32k bits with `shared` places, which all
    ranks draw alike, the n-th time they encode or decode; then payloads may be added without decoding them. Else
    32k + 64 bits: each message has a seed.
    Unscaled: E||C(x) - x||^2 = (1 - k/D) ||x||^2, so use it with `error_feedback`. Scaled by D/k it is unbiased, and
    E||C(x) - x||^2 = (D/k - 1) ||x||^2: U(D/k - 1).
    Source: Stich et al., NeurIPS 2018, arXiv 1809.07599; Wangni et al., NeurIPS 2018, arXiv 1710.09854 (scaled).

    Args:
        ratio: the share of the values that is sent, k/D.
        scaled: whether values are multiplied by D/k, so that none is lost on average.
        shared: whether all ranks send the values of the same places.
        seed: which places `shared` draws.
    """

    def sent(update: jax.Array, indices: jax.Array) -> Any:
        values = update[indices]
        return values * (update.size / indices.size) if scaled else values

    def places(key: jax.Array, size: int) -> jax.Array:
        return random_places(key, size, num_kept(ratio, size))

    return flat(_shared_places(sent, places, seed) if shared else _own_places(sent, places))


Sent = Callable[[Any, Any], Any]
Places = Callable[[Any, int], Any]


def _shared_places(sent: Sent, places: Places, seed: int) -> Codec:
    """Return a codec whose state is the number of messages so far."""

    def now(count: jax.Array, size: int) -> Any:
        import jax

        return places(jax.random.fold_in(jax.random.key(seed), count), size)

    def init(_like: jax.Array) -> Any:
        import jax.numpy as jnp

        return jnp.uint32(0)

    def encode(update: jax.Array, count: jax.Array, _key: jax.Array) -> tuple[dict[str, Any], jax.Array]:
        return {"values": sent(update, now(count, update.size))}, count + 1

    def decode(payload: dict[str, Any], count: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
        return place_values({"indices": now(count, like.size), **payload}, like), count + 1

    return Codec(init, encode, decode, is_summable=True)


def _own_places(sent: Sent, places: Places) -> Codec:
    def seeded(seed: jax.Array, size: int) -> Any:
        import jax

        return places(jax.random.wrap_key_data(seed, impl="threefry2x32"), size)

    def encode(update: jax.Array, key: jax.Array) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        seed = jax.random.bits(key, (2,), jnp.uint32)
        return {"seed": seed, "values": sent(update, seeded(seed, update.size))}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        return place_values({"indices": seeded(payload["seed"], like.size), "values": payload["values"]}, like)

    return stateless(encode, decode)


@register_codec("threshold")
def threshold(value: Annotated[float, Field(ge=0)] = 0.001, index_coding: Coding = "raw") -> Codec:
    """Send the values whose magnitude is above a threshold, and their indices.

    Of the whole update as one vector. Wire size: 64 bits for each of the n values sent; with another `index_coding`,
    32n bits and what `codecs.indices.pack_indices` says. The number differs from message to message. What is dropped is
    at most the threshold: ||C(x) - x||_inf <= value.
    Source: Strom, "Scalable Distributed DNN Training Using Commodity GPU Cloud Computing", Interspeech 2015.

    Note:
        The paper sends value or -value instead of the values themselves.

    Args:
        value: the threshold.
        index_coding: how indices cross the wire, as in `top_k`.
    """

    def encode(update: jax.Array, _key: jax.Array) -> dict[str, Any]:
        import jax.numpy as jnp

        # Written so that NaN is sent.
        return {"values": jnp.where(jnp.abs(update) <= value, 0, update)}

    def decode(payload: dict[str, Any], like: jax.Array) -> jax.Array:
        values: jax.Array = payload["values"].astype(like.dtype)
        return values

    def pack(payload: dict[str, Any], like: Any) -> dict[str, Any]:
        import numpy as np

        values = np.asarray(payload["values"])
        indices = np.flatnonzero(values)
        return sparse_pack(index_coding)({"indices": indices, "values": values[indices]}, like)

    def unpack(payload: Any, like: Any) -> dict[str, Any]:
        import numpy as np

        sparse = sparse_unpack(index_coding)(payload, like)
        values = np.zeros(like.shape, like.dtype)
        values[sparse["indices"]] = sparse["values"]
        return {"values": values}

    return flat(dataclasses.replace(stateless(encode, decode, pack=pack, unpack=unpack), is_ragged=True))
