"""Optimizers (from optax) and learning-rate schedules.

An optimizer turns a gradient into a direction; the learning rate is applied in one place, by the task:
`params + learning_rate * factor(step) * direction`. So `transform()` is optax's optimizer at learning rate 1,
sign included, and jobs that differ only in their learning rate share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.registry import Family

if TYPE_CHECKING:
    import jax
    import optax

LearningRate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Steps = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class LearningRateSchedule:
    """How the learning rate changes from step to step.

    Args:
        factor: step (1-based, a scalar array or number) -> what the learning rate is multiplied by; can be
            jitted.
    """

    factor: Callable[[jax.Array | int], jax.Array | float]


@dataclass(frozen=True)
class Optimizer:
    """A way to step.

    Args:
        learning_rate: the learning rate, before the schedule's factor.
        transform: makes the optax transformation for learning rate 1: what it returns is added to the
            parameters times the learning rate.
        schedule: how the learning rate changes, or None if it does not.
    """

    learning_rate: float
    transform: Callable[[], optax.GradientTransformation]
    schedule: LearningRateSchedule | None = None


optimizers = Family("optimizer", product=Optimizer)
register_optimizer = optimizers.register

schedules = Family("schedule", product=LearningRateSchedule)
register_schedule = schedules.register


def _transform(
    direction: Callable[[Any], Any], clip_norm: float | None, weight_decay: float | None = None
) -> Callable[[], optax.GradientTransformation]:
    """Return a maker of: clip, add the decay to the gradient, find the direction.

    Args:
        direction: the optax module -> the optimizer at learning rate 1.
        clip_norm: longest gradient that is let through whole.
        weight_decay: coefficient of the L2 penalty's gradient.
    """

    def transform() -> optax.GradientTransformation:
        import optax

        parts = []
        if clip_norm is not None:
            parts.append(optax.clip_by_global_norm(clip_norm))
        if weight_decay:
            parts.append(optax.add_decayed_weights(weight_decay))
        return optax.chain(*parts, direction(optax))

    return transform


@register_optimizer("sgd")
def sgd(
    learning_rate: LearningRate,
    *,
    weight_decay: NonNegative = 0.0,
    clip_norm: Positive | None = None,
    schedule: LearningRateSchedule | None = None,
) -> Optimizer:
    """Step against the gradient: w <- w - learning_rate * g.

    Args:
        learning_rate: the size of a step.
        weight_decay: adds this times the parameters to the gradient (an L2 penalty).
        clip_norm: longer gradients are shortened to this norm; null for no limit.
        schedule: how the learning rate changes; null for not at all.
    """
    transform = _transform(lambda optax: optax.sgd(1.0), clip_norm, weight_decay)
    return Optimizer(learning_rate, transform, schedule)


@register_optimizer("momentum")
def momentum(
    learning_rate: LearningRate,
    *,
    momentum: Decay = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 0.0,
    clip_norm: Positive | None = None,
    schedule: LearningRateSchedule | None = None,
) -> Optimizer:
    """Step along a decaying sum of gradients: m <- momentum * m + g; w <- w - learning_rate * m.

    Source: Polyak 1964 (heavy ball); Sutskever et al., ICML 2013, for Nesterov's form.

    Args:
        learning_rate: the size of a step.
        momentum: how much of the sum is kept each step.
        nesterov: look one step ahead.
        weight_decay: adds this times the parameters to the gradient (an L2 penalty).
        clip_norm: longer gradients are shortened to this norm; null for no limit.
        schedule: how the learning rate changes; null for not at all.
    """
    transform = _transform(lambda optax: optax.sgd(1.0, momentum=momentum, nesterov=nesterov), clip_norm, weight_decay)
    return Optimizer(learning_rate, transform, schedule)


@register_optimizer("adam")
def adam(
    *,
    learning_rate: LearningRate = 1e-3,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    clip_norm: Positive | None = None,
    schedule: LearningRateSchedule | None = None,
) -> Optimizer:
    """Scale each coordinate by its own running magnitude.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv 1412.6980.

    Args:
        learning_rate: the size of a step.
        b1: decay of the mean of gradients.
        b2: decay of the mean of their squares.
        eps: added to the root of the latter.
        clip_norm: longer gradients are shortened to this norm; null for no limit.
        schedule: how the learning rate changes; null for not at all.
    """
    transform = _transform(lambda optax: optax.adam(1.0, b1=b1, b2=b2, eps=eps), clip_norm)
    return Optimizer(learning_rate, transform, schedule)


@register_optimizer("adamw")
def adamw(
    *,
    learning_rate: LearningRate = 1e-3,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 1e-4,
    clip_norm: Positive | None = None,
    schedule: LearningRateSchedule | None = None,
) -> Optimizer:
    """Use Adam with weight decay beside the gradient instead of in it; the learning rate multiplies both.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv 1711.05101.

    Args:
        learning_rate: the size of a step.
        b1: decay of the mean of gradients.
        b2: decay of the mean of their squares.
        eps: added to the root of the latter.
        weight_decay: the share of the parameters that a step at learning rate 1 takes away.
        clip_norm: longer gradients are shortened to this norm; null for no limit.
        schedule: how the learning rate changes; null for not at all.
    """
    transform = _transform(lambda optax: optax.adamw(1.0, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay), clip_norm)
    return Optimizer(learning_rate, transform, schedule)


@register_optimizer("signum")
def signum(
    learning_rate: LearningRate,
    *,
    momentum: Decay = 0.9,
    schedule: LearningRateSchedule | None = None,
) -> Optimizer:
    """Step by the sign of a decaying sum of gradients: m <- momentum * m + g; w <- w - learning_rate * sign(m).

    With `momentum: 0` it is signSGD, and with the codec `sign`, from which it gets a mean of signs, majority vote:
    every coordinate goes where most workers want it. The sign of 0, a draw between an even number of workers, is 0.
    Source: Bernstein et al., ICML 2018, arXiv 1802.04434; majority vote: ICLR 2019, arXiv 1810.05291.

    Args:
        learning_rate: by how much each parameter changes in a step.
        momentum: how much of the sum is kept each step.
        schedule: how the learning rate changes; null for not at all.
    """

    def direction(optax: Any) -> optax.GradientTransformation:
        steps = [optax.trace(momentum)] if momentum else []
        return optax.chain(*steps, optax.scale_by_sign(), optax.scale(-1.0))

    return Optimizer(learning_rate, _transform(direction, None), schedule)


@register_schedule("constant")
def constant() -> LearningRateSchedule:
    """Keep the learning rate as it is."""
    return LearningRateSchedule(lambda _step: 1.0)


@register_schedule("step_decay")
def step_decay(every_steps: Steps, factor: Positive = 0.1) -> LearningRateSchedule:
    """Multiply the learning rate by a factor after every so many steps.

    Args:
        every_steps: how many steps share one learning rate.
        factor: what each change multiplies it by.
    """

    def value(step: jax.Array | int) -> jax.Array:
        import jax.numpy as jnp

        return jnp.asarray(factor, jnp.float32) ** ((jnp.asarray(step) - 1) // every_steps)

    return LearningRateSchedule(value)


@register_schedule("cosine")
def cosine(
    total_steps: Steps,
    warmup_steps: Annotated[int, Field(ge=0)] = 0,
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> LearningRateSchedule:
    """Fall along half a cosine from 1 to `final_factor`, after a linear warm-up; constant afterwards.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, arXiv 1608.03983 (without restarts).

    Args:
        total_steps: the step at which the final factor is reached.
        warmup_steps: step s of these has the factor s / warmup_steps.
        final_factor: the factor at the end.
    """
    if warmup_steps >= total_steps:
        raise ValueError(f"warmup_steps: expected fewer than total_steps ({total_steps}); got {warmup_steps}")

    def value(step: jax.Array | int) -> jax.Array:
        import jax.numpy as jnp

        progress = jnp.clip((jnp.asarray(step) - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        falling = final_factor + (1.0 - final_factor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.minimum(falling, jnp.asarray(step) / max(warmup_steps, 1))

    return LearningRateSchedule(value)


@register_schedule("warmup")
def warmup(steps: Steps) -> LearningRateSchedule:
    """Rise linearly over the first steps, then stay (Goyal et al. 2017, arXiv 1706.02677, section 2.2).

    Args:
        steps: step s of these has the factor s / steps.
    """

    def value(step: jax.Array | int) -> jax.Array:
        import jax.numpy as jnp

        return jnp.minimum(jnp.asarray(step) / steps, 1.0)

    return LearningRateSchedule(value)


@register_schedule("inverse_time")
def inverse_time(half_life: Steps, power: Positive = 1.0) -> LearningRateSchedule:
    """Decay as (1 + (step - 1) / half_life) ** -power (Robbins and Monro 1951 at power 1).

    Args:
        half_life: after this many steps the base has doubled: the learning rate has halved at power 1.
        power: the exponent.
    """

    def value(step: jax.Array | int) -> jax.Array:
        import jax.numpy as jnp

        return (1.0 + (jnp.asarray(step) - 1) / half_life) ** -power

    return LearningRateSchedule(value)
