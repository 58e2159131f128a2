"""Local steps with an outer optimizer: the mean change of a round is a gradient for a slower, common step."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from pydantic import Field

from psgdsim.compilation import lazy_jit
from psgdsim.node import Kernel, Node
from psgdsim.optimizers import LearningRateSchedule
from psgdsim.strategies.addition import Addition, Algorithm
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.local_sgd import Buffers, Period, Rounds, Synced
from psgdsim.task import Task, TrainState

Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
GroupSize = Annotated[int, Field(ge=1)]
Segments = Annotated[int, Field(ge=1, le=4096)]


@register_strategy("slow_mo")
def slow_mo(
    period: Period = 12,
    *,
    slow_learning_rate: Positive = 1.0,
    slow_momentum: Momentum = 0.7,
    buffers: Buffers = "reset",
    algorithm: Algorithm = "ring",
    group_size: GroupSize | None = None,
    segments: Segments | None = None,
) -> Strategy:
    """Step on local rows, average, and then step with a slow momentum: SlowMo on local SGD.

    After tau local steps from x_0 to the workers' mean x_tau, with gamma the learning rate of the optimizer:
    u <- beta * u + (x_0 - x_tau) / gamma; x_0 <- x_0 - alpha * gamma * u. Bytes and weights are those of `local_sgd`.
    alpha = 1 and beta = 0 is `local_sgd`; tau = 1 and alpha = 1 on plain SGD is synchronous SGD with momentum beta; one
    worker and beta = 0 is Lookahead.
    Source: Wang, Tantia, Ballas and Rabbat, ICLR 2020 (arXiv 1910.00643), algorithm 1.

    Note:
        gamma is constant within a round in the paper; under a schedule it is here the rate of the round's last step.

    Args:
        period: local steps per round, tau.
        slow_learning_rate: alpha.
        slow_momentum: beta; the paper uses 0.4 to 0.8.
        buffers: the memory of a worker's optimizer at the end of a round, as in `local_sgd`; the paper resets that of
            SGD with momentum and maintains that of Adam.
        algorithm: how the changes are added up, as in `all_reduce`.
        group_size: ranks per group, for algorithms `hierarchical` and `leaders`.
        segments: into how many segments `pipelined_tree` cuts each half; 8 if null.
    """
    addition = Addition(algorithm, group_size, segments)
    rate_kernel = functools.cache(_rate_kernel)

    async def step(node: Node, task: Task, state: TrainState, before: Synced, change: Any) -> Synced:
        rate, schedule = state.learning_rate, task.optimizer.schedule
        if schedule is not None:
            rate = await node.compute(rate_kernel(schedule), rate, state.step)
        memory = await _memory(node, before)
        settings = rate, slow_learning_rate, slow_momentum
        params, memory = await node.compute(SLOW_MOMENTUM, before.model, memory, change, *settings)
        return Synced(params, params, memory)

    return Strategy(Rounds(period, buffers, addition).program(step), addition.check)


@register_strategy("bmuf")
def bmuf(
    period: Period = 8,
    *,
    block_learning_rate: Positive = 1.0,
    block_momentum: Momentum | None = None,
    nesterov: bool = False,
    buffers: Buffers = "maintain",
    algorithm: Algorithm = "ring",
    group_size: GroupSize | None = None,
    segments: Segments | None = None,
) -> Strategy:
    """Step on local rows and filter the mean change with a block momentum: blockwise model-update filtering.

    With W_b what the workers began the round with and G the mean of w_i - W_b: Delta <- eta * Delta + zeta * G;
    W <- W + Delta; the next round begins with W (classical block momentum) or W + eta * Delta (`nesterov`). The model
    that is evaluated is W. Bytes and weights are those of `local_sgd`. A constant G moves W by G zeta / (1 - eta) per
    round, which is N G by default. At a constant learning rate classical BMUF is `slow_mo` with beta = eta and
    alpha = zeta.
    Source: Chen and Huo, ICASSP 2016.

    Args:
        period: local steps per round (a block).
        block_learning_rate: zeta.
        block_momentum: eta; 1 - 1 / world_size if null.
        nesterov: whether a round begins one momentum step ahead.
        buffers: the memory of a worker's optimizer at the end of a round, as in `local_sgd`.
        algorithm: how the changes are added up, as in `all_reduce`.
        group_size: ranks per group, for algorithms `hierarchical` and `leaders`.
        segments: into how many segments `pipelined_tree` cuts each half; 8 if null.
    """
    addition = Addition(algorithm, group_size, segments)

    async def step(node: Node, _task: Task, _state: TrainState, before: Synced, change: Any) -> Synced:
        momentum = 1 - 1 / node.world_size if block_momentum is None else block_momentum
        memory, ahead = await _memory(node, before), momentum if nesterov else 0.0
        settings = block_learning_rate, momentum, ahead
        return Synced(*await node.compute(BLOCK_MOMENTUM, before.model, memory, change, *settings))

    return Strategy(Rounds(period, buffers, addition).program(step), addition.check)


@register_strategy("diloco")
def diloco(
    period: Period = 500,
    *,
    outer_learning_rate: Positive = 0.7,
    outer_momentum: Momentum = 0.9,
    nesterov: bool = True,
    algorithm: Algorithm = "ring",
    group_size: GroupSize | None = None,
    segments: Segments | None = None,
) -> Strategy:
    """Step long on local rows, and take the mean change for the gradient of an outer optimizer with momentum: DiLoCo.

    After H steps of the scenario's optimizer (AdamW in the paper), whose memory each worker keeps to itself, the outer
    gradient is Delta = mean of theta - theta_i; b <- mu * b + Delta; theta <- theta - lr * (Delta + mu * b), or
    theta - lr * b without `nesterov`. Bytes and weights are those of `local_sgd`. lr = 1 and mu = 0 is `local_sgd`.
    Source: Douillard et al., "DiLoCo", arXiv 2311.08105.

    Args:
        period: local steps per round, H.
        outer_learning_rate: lr.
        outer_momentum: mu.
        nesterov: whether the outer momentum is Nesterov's.
        algorithm: how the changes are added up, as in `all_reduce`.
        group_size: ranks per group, for algorithms `hierarchical` and `leaders`.
        segments: into how many segments `pipelined_tree` cuts each half; 8 if null.
    """
    addition = Addition(algorithm, group_size, segments)
    kernel = NESTEROV if nesterov else HEAVY_BALL

    async def step(node: Node, _task: Task, _state: TrainState, before: Synced, change: Any) -> Synced:
        memory, settings = await _memory(node, before), (outer_learning_rate, outer_momentum)
        params, memory = await node.compute(kernel, before.model, memory, change, *settings)
        return Synced(params, params, memory)

    return Strategy(Rounds(period, "maintain", addition).program(step), addition.check)


async def _memory(node: Node, before: Synced) -> Any:
    """Return the momentum so far, zeros at first."""
    return await node.compute(ZEROS, before.model) if before.memory is None else before.memory


# --- kernels ------------------------------------------------------------------------------------------------------


def _rate_kernel(schedule: LearningRateSchedule) -> Kernel:
    """Return `(learning_rate, step) -> rate`: that of a step under a schedule."""
    return Kernel("rate", lazy_jit(lambda learning_rate, step: learning_rate * schedule.factor(step)))


def _zeros(tree: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.tree.map(jnp.zeros_like, tree)


def _slow_momentum(model: Any, memory: Any, change: Any, rate: Any, alpha: Any, beta: Any) -> tuple[Any, Any]:
    import jax

    memory = jax.tree.map(lambda u, c: beta * u - c / rate, memory, change)
    return jax.tree.map(lambda x, u: x - alpha * rate * u, model, memory), memory


def _block_momentum(model: Any, memory: Any, change: Any, zeta: Any, eta: Any, ahead: Any) -> tuple[Any, Any, Any]:
    import jax

    memory = jax.tree.map(lambda d, g: eta * d + zeta * g, memory, change)
    model = jax.tree.map(lambda w, d: w + d, model, memory)
    return jax.tree.map(lambda w, d: w + ahead * d, model, memory), model, memory


def _heavy_ball(model: Any, memory: Any, change: Any, rate: Any, momentum: Any) -> tuple[Any, Any]:
    import jax

    memory = jax.tree.map(lambda b, c: momentum * b - c, memory, change)
    return jax.tree.map(lambda x, b: x - rate * b, model, memory), memory


def _nesterov(model: Any, memory: Any, change: Any, rate: Any, momentum: Any) -> tuple[Any, Any]:
    import jax

    memory = jax.tree.map(lambda b, c: momentum * b - c, memory, change)
    return jax.tree.map(lambda x, b, c: x - rate * (momentum * b - c), model, memory, change), memory


ZEROS = Kernel("zeros", lazy_jit(_zeros))
SLOW_MOMENTUM = Kernel("slow_momentum", lazy_jit(_slow_momentum))
BLOCK_MOMENTUM = Kernel("block_momentum", lazy_jit(_block_momentum))
HEAVY_BALL = Kernel("heavy_ball", lazy_jit(_heavy_ball))
NESTEROV = Kernel("nesterov", lazy_jit(_nesterov))
