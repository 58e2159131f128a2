"""Memories around a codec that bring back what it dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psgdsim.codecs.base import Codec, Reduction, register_codec

if TYPE_CHECKING:
    import jax


@register_codec("error_feedback")
def error_feedback(codec: Codec) -> Codec:
    """Add what the codec dropped last time to what it is given next.

    p = e + g;  payload = C(p);  e = p - decode(payload). What was sent plus the residual e equals the sum of all
    updates (conservation). Wire size: that of the inner codec. Where a codec adds up over N ranks in rounds
    (`power_sgd`), e = p - sum / N with the sum that all of them decode.
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

    return replace(
        codec,
        init=init,
        encode=encode,
        decode=decode,
        is_identity=False,
        reduction=None if codec.reduction is None else _compensated(codec.reduction),
    )


def _compensated(reduction: Reduction) -> Reduction:
    """Return a reduction of what a rank has left over plus its update."""

    def compensate(update: Any, state: tuple[Any, Any, Any]) -> Any:
        import jax

        return jax.tree.map(lambda e, g: e + g, state[0], update)

    def of_compensated(start: Callable[..., Any]) -> Callable[..., Any]:
        def payload(update: Any, state: tuple[Any, Any, Any], totals: tuple[Any, ...], key: jax.Array) -> Any:
            return start(compensate(update, state), state[1], totals, key)

        return payload

    def finish(update: Any, state: tuple[Any, Any, Any], totals: tuple[Any, ...], world_size: Any) -> tuple[Any, Any]:
        import jax

        compensated = compensate(update, state)
        total, encoder = reduction.finish(compensated, state[1], totals, world_size)
        residual = jax.tree.map(lambda p, s: p - s / world_size, compensated, total)
        return total, (residual, encoder, state[2])

    return replace(reduction, rounds=tuple(of_compensated(start) for start in reduction.rounds), finish=finish)
