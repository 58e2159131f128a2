"""Optimizers and learning-rate schedules against hand-computed steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psgdsim import optimizers as opt
from psgdsim.optimizers import LearningRateSchedule, Optimizer

GRADIENTS = [np.float32([3.0, -4.0]), np.float32([1.0, 2.0])]


def directions(optimizer: Optimizer, params: np.ndarray | None = None) -> list[np.ndarray]:
    """Return what is added to the parameters, at learning rate 1, for each of `GRADIENTS`."""
    transform = optimizer.transform()
    weights = jnp.asarray(np.zeros(2, np.float32) if params is None else params)
    state = transform.init(weights)
    made = []
    for gradient in GRADIENTS:
        direction, state = transform.update(jnp.asarray(gradient), state, weights)
        made.append(np.asarray(direction))
    return made


def test_sgd_is_minus_the_gradient() -> None:
    np.testing.assert_array_equal(directions(opt.sgd(0.1)), [-gradient for gradient in GRADIENTS])


def test_the_learning_rate_is_not_in_the_transform() -> None:
    np.testing.assert_array_equal(directions(opt.adam(learning_rate=0.5)), directions(opt.adam(learning_rate=1e-3)))


def test_momentum_sums_gradients() -> None:
    first, second = GRADIENTS
    expected = [-first, -(0.9 * first + second)]
    np.testing.assert_allclose(directions(opt.momentum(0.1)), expected, rtol=1e-6)


def test_nesterov_looks_ahead() -> None:
    first, second = GRADIENTS
    sums = [first, 0.9 * first + second]
    expected = [-(0.9 * total + gradient) for total, gradient in zip(sums, GRADIENTS, strict=True)]
    np.testing.assert_allclose(directions(opt.momentum(0.1, nesterov=True)), expected, rtol=1e-6)


def test_signum_steps_by_the_sign_of_the_sum() -> None:
    np.testing.assert_array_equal(directions(opt.signum(0.1, momentum=0.0)), [[-1, 1], [-1, -1]])
    np.testing.assert_array_equal(directions(opt.signum(0.1)), [[-1, 1], [-1, 1]])  # 0.9 * -4 + 2 < 0


def test_adam_follows_the_paper() -> None:
    mean, square, expected = np.zeros(2), np.zeros(2), []
    for step, gradient in enumerate(GRADIENTS, start=1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected.append(-(mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8))
    np.testing.assert_allclose(directions(opt.adam()), expected, rtol=1e-4)


def test_adamw_decays_beside_the_gradient() -> None:
    params = np.float32([10.0, -10.0])
    decay = np.subtract(directions(opt.adamw(weight_decay=0.01), params), directions(opt.adam(), params))
    np.testing.assert_allclose(decay, [-0.01 * params] * 2, rtol=1e-4)


def test_weight_decay_of_sgd_is_in_the_gradient() -> None:
    params = np.float32([10.0, -10.0])
    expected = [-(gradient + 0.5 * params) for gradient in GRADIENTS]
    np.testing.assert_allclose(directions(opt.sgd(0.1, weight_decay=0.5), params), expected, rtol=1e-6)


def test_clip_shortens_long_gradients_only() -> None:
    clipped = directions(opt.sgd(0.1, clip_norm=2.5))
    np.testing.assert_allclose(clipped, [-GRADIENTS[0] / 2, -GRADIENTS[1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (opt.constant(), {1: 1.0, 1000: 1.0}),
        (opt.step_decay(every_steps=3, factor=0.5), {1: 1.0, 3: 1.0, 4: 0.5, 6: 0.5, 7: 0.25}),
        (opt.cosine(total_steps=10), {5: 0.5, 10: 0.0, 99: 0.0}),
        (opt.cosine(total_steps=12, warmup_steps=2, final_factor=0.2), {1: 0.5, 2: 1.0, 7: 0.6, 12: 0.2, 20: 0.2}),
        (opt.warmup(steps=4), {1: 0.25, 3: 0.75, 4: 1.0, 100: 1.0}),
        (opt.inverse_time(half_life=10), {1: 1.0, 11: 0.5, 31: 0.25}),
        (opt.inverse_time(half_life=1, power=0.5), {1: 1.0, 4: 0.5}),
    ],
)
def test_schedule(schedule: LearningRateSchedule, expected: dict[int, float]) -> None:
    factor = jax.jit(schedule.factor)
    for step, value in expected.items():
        assert float(factor(jnp.int32(step))) == pytest.approx(value, abs=1e-6)
        assert float(schedule.factor(step)) == pytest.approx(value, abs=1e-6)


def test_warm_up_longer_than_the_schedule() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps: expected fewer than total_steps \(5\); got 5"):
        opt.cosine(total_steps=5, warmup_steps=5)
