"""Delay compensation: correct a stale gradient to first order, by how far the model has moved since it was read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from psgdsim.compilation import lazy_jit
from psgdsim.node import Kernel
from psgdsim.registry import Family

Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class DelayCompensation:
    """A way to correct gradients that were computed at parameters of before; a server applies it, nothing is sent.

    Args:
        init: `(like) -> memory`: what is kept for each worker, besides the parameters that were sent to it.
        correct: `(gradient, params, read, memory) -> (gradient, memory)`: about what the gradient would be at `params`,
            given that at `read`; all are pytrees of the same shapes.
    """

    init: Callable[[Any], Any]
    correct: Callable[[Any, Any, Any, Any], tuple[Any, Any]]

    @cached_property
    def start(self) -> Kernel:
        """`init` as a kernel."""
        return Kernel("init_compensation", lazy_jit(self.init))

    @cached_property
    def compensate(self) -> Kernel:
        """`correct` as a kernel."""
        return Kernel("compensate", lazy_jit(self.correct))


delay_compensations = Family("delay compensation", product=DelayCompensation)
register_delay_compensation = delay_compensations.register


@register_delay_compensation("constant")
def constant(lambda0: Strength = 0.04) -> DelayCompensation:
    """Correct by the outer product in the place of the Hessian: g + lambda0 g * g * (w - w_read), by coordinate.

    `lambda0: 0` corrects nothing. The server keeps the D parameters that it has sent last to each worker.
    Source: Zheng et al., ICML 2017, arXiv 1609.08326 (DC-ASGD-c).

    Args:
        lambda0: the strength.
    """

    def correct(gradient: Any, params: Any, read: Any, memory: Any) -> tuple[Any, Any]:
        import jax

        return jax.tree.map(lambda g, now, then: g + lambda0 * g * g * (now - then), gradient, params, read), memory

    return DelayCompensation(lambda _like: (), correct)


@register_delay_compensation("adaptive")
def adaptive(
    lambda0: Strength = 2.0,
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.95,
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-7,
) -> DelayCompensation:
    """Correct less where gradients are large: g + lambda0 / sqrt(m + eps) g * g * (w - w_read), by coordinate.

    m <- decay m + (1 - decay) g * g is a mean over the gradients of one worker, with this one. `lambda0: 0` corrects
    nothing. The server keeps 2 D numbers for each worker.
    Source: Zheng et al., ICML 2017, arXiv 1609.08326 (DC-ASGD-a).

    Note:
        The paper's algorithm has one m; here, as in its authors' code, each worker has one of its own.

    Args:
        lambda0: the strength.
        decay: how much of the mean is kept for each gradient.
        eps: added to the mean under the root.
    """

    def init(like: Any) -> Any:
        import jax
        import jax.numpy as jnp

        return jax.tree.map(jnp.zeros_like, like)

    def correct(gradient: Any, params: Any, read: Any, memory: Any) -> tuple[Any, Any]:
        import jax

        squares = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g * g, memory, gradient)
        corrected = jax.tree.map(
            lambda g, now, then, m: g + lambda0 / (m + eps) ** 0.5 * g * g * (now - then),
            gradient,
            params,
            read,
            squares,
        )
        return corrected, squares

    return DelayCompensation(init, correct)
