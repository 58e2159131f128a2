"""Codecs of differences: what is sent is how an update differs from what both ends remember."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.codecs.base import Codec, register_codec

if TYPE_CHECKING:
    import jax


@register_codec("ef21")
def ef21(codec: Codec) -> Codec:
    """Send how an update differs from the last one as the receiver knows it.

    c = C(x - g);  g <- g + c at both ends, and g is what is decoded. Wire size: that of the inner codec. With a
    contraction, g follows x where x settles, so full gradients converge where error feedback with a constant learning
    rate stays at a distance. The receiver's g is the sum of all it has received;
    but for the codec `identity`, payloads are not added on their way, lest rounding drives the ends apart.
    Source: Richtarik, Sokolov and Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
    Feedback", NeurIPS 2021, arXiv 2106.05203.

    Args:
        codec: a contraction, such as `top_k`; it codes the difference.
    """
    return _differences(codec, 1.0)


@register_codec("diana")
def diana(codec: Codec, alpha: Annotated[float, Field(gt=0, le=1)] = 0.1) -> Codec:
    """Send how an update differs from a slow memory of the updates before.

    m = C(x - h);  h + m is what is decoded;  h <- h + alpha m at both ends. Wire size: that of the inner codec. With an
    unbiased codec of U(omega) and alpha <= 1 / (1 + omega), what is decoded is unbiased, and its variance goes to zero
    where updates settle. With alpha = 1, `ef21`. Payloads are added on their way only where those of `ef21` are.
    Source: Mishchenko, Gorbunov, Takac and Richtarik, "Distributed Learning with Compressed Gradient Differences",
    arXiv 1901.09269.

    Args:
        codec: an unbiased codec, such as `qsgd`; it codes the difference.
        alpha: how fast the memory follows.
    """
    return _differences(codec, alpha)


def _differences(codec: Codec, alpha: float) -> Codec:
    """Return a codec of differences.

    Memories begin at zero, so payloads would add up where the inner codec's do; but a sum that is rounded on its way is
    not what the senders remember, and memories would drift apart. So they add up only where nothing is coded.
    """

    def init(like: Any) -> tuple[Any, Any, Any]:
        import jax
        import jax.numpy as jnp

        return jax.tree.map(jnp.zeros_like, like), codec.init(like), codec.init(like)

    def learn(memory: Any, received: Any) -> Any:
        import jax

        return jax.tree.map(lambda h, m: h + (m if alpha == 1 else alpha * m), memory, received)

    def encode(update: Any, state: tuple[Any, Any, Any], key: jax.Array) -> tuple[Any, tuple[Any, Any, Any]]:
        import jax

        memory, encoder, echo = state
        difference = jax.tree.map(lambda x, h: x - h, update, memory)
        payload, encoder = codec.encode(difference, encoder, key)
        received, echo = codec.decode(payload, echo, update)
        return payload, (learn(memory, received), encoder, echo)

    def decode(payload: Any, state: tuple[Any, Any, Any], like: Any) -> tuple[Any, tuple[Any, Any, Any]]:
        import jax

        memory, encoder, decoder = state
        received, decoder = codec.decode(payload, decoder, like)
        update = jax.tree.map(lambda h, m: h + m, memory, received)
        return update, (learn(memory, received), encoder, decoder)

    return replace(
        codec,
        init=init,
        encode=encode,
        decode=decode,
        is_summable=codec.is_identity,
        is_identity=False,
        reduction=None,
    )
