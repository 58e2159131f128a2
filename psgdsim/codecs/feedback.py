"""Memories around a codec that bring back what it dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psgdsim.codecs.base import Codec, register_codec

if TYPE_CHECKING:
    import jax


@register_codec("error_feedback")
def error_feedback(codec: Codec) -> Codec:
    """Add what the codec dropped last time to what it is given next.

    p = e + g;  payload = C(p);  e = p - decode(payload). What was sent plus the residual e equals the sum of all
    updates (conservation). Wire size: that of the inner codec.
    Source: Seide et al., Interspeech 2014; Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019,
    arXiv 1901.09847.

    Note:
        The residual is kept in units of gradients, so it is exact at a constant learning rate.

    Args:
        codec: the codec that drops something.
    """

    def init(like: Any) -> tuple[Any, Any, Any]:
        import jax
        import jax.numpy as jnp

        return jax.tree.map(jnp.zeros_like, like), codec.init(like), codec.init(like)

    def encode(update: Any, state: tuple[Any, Any, Any], key: jax.Array) -> tuple[Any, tuple[Any, Any, Any]]:
        import jax

        residual, encoder, echo = state
        compensated = jax.tree.map(lambda e, g: e + g, residual, update)
        payload, encoder = codec.encode(compensated, encoder, key)
        sent, echo = codec.decode(payload, echo, compensated)
        return payload, (jax.tree.map(lambda p, s: p - s, compensated, sent), encoder, echo)

    def decode(payload: Any, state: tuple[Any, Any, Any], like: Any) -> tuple[Any, tuple[Any, Any, Any]]:
        residual, decoder, echo = state
        update, decoder = codec.decode(payload, decoder, like)
        return update, (residual, decoder, echo)

    return Codec(init, encode, decode, is_summable=False)
