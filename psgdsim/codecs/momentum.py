"""Momentum at the sender, before a codec drops anything: momentum correction and Deep Gradient Compression."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from pydantic import Field

from psgdsim.codecs.base import Codec, flat, register_codec
from psgdsim.codecs.indices import Coding
from psgdsim.codecs.selection import largest_of
from psgdsim.codecs.sparse_packing import num_kept, sparse_pack, sparse_unpack
from psgdsim.codecs.sparsify import Ratio, place_values, top_k
from psgdsim.errors import CodecError

if TYPE_CHECKING:
    import jax

Momentum = Annotated[float, Field(ge=0, lt=1)]

WARMUP_RATIOS: Final = (0.25, 0.0625, 0.015625, 0.004)
"""The shares of the values that the stages of a warm-up send."""


class Memory(NamedTuple):
    """What a sender remembers.

    Attributes:
        velocity: u, the momentum.
        waiting: v, what has not been sent.
        encoder: the inner codec's memory.
        echo: that of the receiver, followed here.
    """

    velocity: Any
    waiting: Any
    encoder: Any
    echo: Any


@register_codec("momentum_correction")
def momentum_correction(
    codec: Codec,
    momentum: Momentum = 0.9,
    masking: bool = False,  # noqa: FBT001 - parameters of parts are given by name
    nesterov: bool = False,  # noqa: FBT001
) -> Codec:
    """Gather momentum at the sender, and send what is waiting of it.

    u <- m u + g;  v <- v + u;  payload = C(v);  v <- v - decode(payload). With `nesterov`, u <- m (u + g) and
    v <- v + u + g. With `masking`, u <- 0 wherever something was sent. What was sent plus v equals the sum of all u
    (conservation). With m = 0 it is `error_feedback`. Use it with an optimizer that has no momentum of its own.
    Wire size: that of the inner codec.
    Source: Lin et al., "Deep Gradient Compression", ICLR 2018, arXiv 1712.01887.

    Note:
        With masking, a codec that sends everything leaves no momentum at all.

    Args:
        codec: the codec that drops something.
        momentum: m.
        masking: whether to forget the momentum of what was sent (momentum factor masking).
        nesterov: whether to use Nesterov's momentum.
    """

    def init(like: Any) -> Memory:
        import jax
        import jax.numpy as jnp

        zeros = jax.tree.map(jnp.zeros_like, like)
        return Memory(zeros, zeros, codec.init(like), codec.init(like))

    def encode(update: Any, state: Memory, key: jax.Array) -> tuple[Any, Memory]:
        import jax
        import jax.numpy as jnp

        if nesterov:
            velocity = jax.tree.map(lambda u, g: momentum * (u + g), state.velocity, update)
            waiting = jax.tree.map(lambda v, u, g: v + (u + g), state.waiting, velocity, update)
        else:
            velocity = jax.tree.map(lambda u, g: momentum * u + g, state.velocity, update)
            waiting = jax.tree.map(lambda v, u: v + u, state.waiting, velocity)
        payload, encoder = codec.encode(waiting, state.encoder, key)
        sent, echo = codec.decode(payload, state.echo, waiting)
        if masking:
            velocity = jax.tree.map(lambda u, s: jnp.where(s == 0, u, 0), velocity, sent)
        return payload, Memory(velocity, jax.tree.map(lambda v, s: v - s, waiting, sent), encoder, echo)

    def decode(payload: Any, state: Memory, like: Any) -> tuple[Any, Memory]:
        update, decoder = codec.decode(payload, state.encoder, like)
        return update, state._replace(encoder=decoder)

    return replace(
        codec,
        init=init,
        encode=encode,
        decode=decode,
        is_identity=False,
        reduction=None,
    )


@register_codec("dgc")
def dgc(
    ratio: Ratio = 0.001,
    momentum: Momentum = 0.9,
    masking: bool = True,  # noqa: FBT001 - parameters of parts are given by name
    nesterov: bool = False,  # noqa: FBT001
    clip: Annotated[float, Field(gt=0)] | None = None,
    warmup_steps: Annotated[int, Field(ge=0)] = 0,
    index_coding: Coding = "raw",
) -> Codec:
    """Send the k largest of the momenta that are waiting (Deep Gradient Compression).

    g <- g min(1, clip / ||g||);  u <- m u + g;  v <- v + u;  send the k largest of v, v <- 0 there, and with `masking`
    u <- 0 there. In a warm-up, 25 %, 6.25 %, 1.5625 % and 0.4 % of the values are sent for a quarter of its steps each,
    or `ratio` if that is more. With momentum 0 and neither clip nor warm-up it is `error_feedback` of `top_k`. Use it
    with an optimizer that has no momentum of its own.
    Wire size: 64k bits with k = max(1, floor(ratio * D)), or that of `top_k` with another `index_coding`.
    Source: Lin et al., "Deep Gradient Compression", ICLR 2018, arXiv 1712.01887.

    Note:
        The whole update is one vector, and its largest values are found exactly; the paper takes each layer apart and
        estimates a threshold on a sample. `layers` takes them apart.

    Args:
        ratio: the share of the values that is sent, k/D.
        momentum: m.
        masking: whether to forget the momentum of what was sent (momentum factor masking).
        nesterov: whether to use Nesterov's momentum.
        clip: the largest norm of an update; for N ranks and a bound B on their mean, the paper takes B / sqrt(N). null
            for no bound.
        warmup_steps: how many steps the warm-up takes; none if 0.
        index_coding: how indices cross the wire, as in `top_k`.
    """
    inner = _warmed_up_top_k(ratio, warmup_steps, index_coding) if warmup_steps else top_k(ratio, index_coding)
    codec = momentum_correction(inner, momentum, masking, nesterov)

    def encode(update: Any, state: Memory, key: jax.Array) -> tuple[Any, Memory]:
        return codec.encode(update if clip is None else _clipped(update, clip), state, key)

    return replace(codec, encode=encode)


def _clipped(update: Any, bound: float) -> Any:
    """Return an update of at most a norm."""
    import jax
    import jax.numpy as jnp

    norm = jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(update)))
    factor = jnp.minimum(1, bound / jnp.maximum(norm, bound))
    return jax.tree.map(lambda leaf: leaf * factor, update)


def _warmed_up_top_k(ratio: float, warmup_steps: int, coding: Coding) -> Codec:
    """Return a `top_k` whose first messages have more values; payloads have room for the largest of them."""
    ratios = [*(max(each, ratio) for each in WARMUP_RATIOS), ratio]
    starts = [-(-stage * warmup_steps // len(WARMUP_RATIOS)) for stage in range(1, len(ratios))]

    def count_at(step: jax.Array, size: int) -> Any:
        import jax.numpy as jnp

        counts = jnp.asarray([num_kept(each, size) for each in ratios], jnp.int32)
        return counts[jnp.sum(step >= jnp.asarray(starts, jnp.int32))]

    def init(_like: jax.Array) -> Any:
        import jax.numpy as jnp

        return jnp.int32(0)

    def encode(update: jax.Array, step: jax.Array, _key: jax.Array) -> tuple[dict[str, Any], jax.Array]:
        import jax.numpy as jnp

        indices = largest_of(update, count_at(step, update.size), num_kept(ratios[0], update.size))
        values = jnp.where(indices < update.size, update[indices], 0)
        return {"indices": indices, "values": values}, jnp.minimum(step + 1, warmup_steps)

    def decode(payload: dict[str, Any], step: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
        return place_values(payload, like), step

    def unpack(payload: Any, like: Any) -> dict[str, Any]:
        import numpy as np

        sparse, room = sparse_unpack(coding)(payload, like), num_kept(ratios[0], like.size)
        missing = room - len(sparse["values"])
        if missing < 0:
            raise CodecError(f"values: damaged: expected at most {room} of them; got {len(sparse['values'])}")
        return {
            "indices": np.pad(sparse["indices"], (0, missing), constant_values=like.size),
            "values": np.pad(sparse["values"], (0, missing)),
        }

    return flat(Codec(init, encode, decode, pack=sparse_pack(coding), unpack=unpack, is_ragged=True))
