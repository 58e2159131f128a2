"""What simulated training is measured against: the same arithmetic in plain jax, without messages, times or metrics.

The model is a perceptron 784-128-128-10 with tanh, the batch 32 rows per worker, float32. Imported by `sync_sgd.py`,
`codec_sgd.py` and `async_sgd.py`; not a benchmark of its own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZES, ROWS, RATE = (784, 128, 128, 10), 32, 0.05


def init(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """Return parameters."""
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    return [
        {"weight": jax.random.normal(key, (n, m)) * n**-0.5, "bias": jnp.zeros(m)}
        for key, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def data(num: int = 10_000, features: int = SIZES[0]) -> tuple[Any, Any]:
    """Return inputs and targets."""
    generator = np.random.default_rng(0)
    return jnp.asarray(generator.random((num, features), np.float32)), jnp.asarray(generator.integers(0, 10, num))


def _loss(params: Any, inputs: Any, targets: Any) -> Any:
    for i, layer in enumerate(params):
        inputs = inputs @ layer["weight"] + layer["bias"]
        inputs = jnp.tanh(inputs) if i < len(params) - 1 else inputs
    return -jnp.mean(jax.nn.log_softmax(inputs)[jnp.arange(len(targets)), targets])


def gradient(params: Any, inputs: Any, targets: Any, ids: Any) -> Any:
    """Return the loss and the gradient on some rows."""
    return jax.value_and_grad(_loss)(params, inputs[ids], targets[ids])


def mean(rows: Any) -> Any:
    """Return the mean over the first axis, as a product with a vector."""
    weights = jnp.full(rows.shape[0], 1 / rows.shape[0])
    return (weights @ rows.reshape(rows.shape[0], -1)).reshape(rows.shape[1:])


def apply(params: Any, direction: Any) -> Any:
    """Return the parameters after a step of SGD."""
    return jax.tree.map(lambda p, g: p - RATE * g, params, direction)


@jax.jit
def by_vmap(params: Any, inputs: Any, targets: Any, ids: Any) -> Any:
    """One round: all gradients at once, their mean as a product with a vector."""
    losses, gradients = jax.vmap(gradient, (None, None, None, 0))(params, inputs, targets, ids)
    return losses, apply(params, jax.tree.map(mean, gradients))


@jax.jit
def by_one_batch(params: Any, inputs: Any, targets: Any, ids: Any) -> Any:
    """One round: the gradient of the mean loss over the rows of all workers; nobody's own loss or gradient is known."""
    loss, total = gradient(params, inputs, targets, ids.reshape(-1))
    return loss, apply(params, total)


@functools.partial(jax.jit, static_argnums=4)
def by_chunks(params: Any, inputs: Any, targets: Any, ids: Any, size: int) -> Any:
    """One round: gradients in chunks, with a running mean."""
    num = len(ids) // size

    def step(total: Any, chunk: Any) -> Any:
        losses, gradients = jax.vmap(gradient, (None, None, None, 0))(params, inputs, targets, chunk)
        return jax.tree.map(lambda t, g: t + mean(g) / num, total, gradients), losses

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, losses = jax.lax.scan(step, zeros, ids.reshape(num, size, -1))
    return losses, apply(params, total)


@jax.jit
def by_scan(params: Any, inputs: Any, targets: Any, ids: Any) -> Any:
    """One round: one gradient after the other, with a running mean."""

    def step(total: Any, rows: Any) -> Any:
        loss, one = gradient(params, inputs, targets, rows)
        return jax.tree.map(lambda t, g: t + g / len(ids), total, one), loss

    total, losses = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, params), ids)
    return losses, apply(params, total)


@jax.jit
def asynchronous(params: Any, versions: Any, inputs: Any, targets: Any, order: Any, ids: Any) -> Any:
    """Updates in a known order of arrival: each gradient at what its worker read last."""

    def step(state: Any, update: Any) -> Any:
        (params, versions), (worker, rows) = state, update
        loss, one = gradient(jax.tree.map(lambda v: v[worker], versions), inputs, targets, rows)
        params = apply(params, one)
        return (params, jax.tree.map(lambda v, p: v.at[worker].set(p), versions, params)), loss

    return jax.lax.scan(step, (params, versions), (order, ids))


def round_times(num_workers: int, seconds: float = 2.0) -> dict[str, float]:
    """Return the time of one synchronous round for each way to compute it [s]."""
    params, (inputs, targets), generator = init(), data(), np.random.default_rng(1)
    ways: dict[str, Callable[[Any, Any], Any]] = {"scan": lambda p, ids: by_scan(p, inputs, targets, ids)}
    if num_workers <= 512:
        ways["vmap"] = lambda p, ids: by_vmap(p, inputs, targets, ids)
    for size in (16, 64):
        if num_workers > size:
            ways[f"vmap_in_chunks_of_{size}"] = lambda p, ids, size=size: by_chunks(p, inputs, targets, ids, size)
    return {name: _round_time(way, params, num_workers, generator, seconds) for name, way in ways.items()}


def one_batch_time(num_workers: int, seconds: float = 2.0) -> float:
    """Return the time of one synchronous round as one big batch [s].

    That is less than a simulation has to do, which knows each worker's loss.
    """
    inputs, targets = data()
    generator = np.random.default_rng(1)
    return _round_time(lambda p, ids: by_one_batch(p, inputs, targets, ids), init(), num_workers, generator, seconds)


def _round_time(
    way: Callable[[Any, Any], Any], params: Any, num_workers: int, generator: np.random.Generator, seconds: float
) -> float:
    jax.block_until_ready(way(params, generator.integers(0, 10_000, (num_workers, ROWS))))
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        _, params = way(params, generator.integers(0, 10_000, (num_workers, ROWS)))
        jax.block_until_ready(params)
        count += 1
    return (time.perf_counter() - start) / count


def update_time(num_workers: int, seconds: float = 2.0, sizes: tuple[int, ...] = SIZES) -> float:
    """Return the time of one asynchronous update in a scan over a known order of arrival [s]."""
    params, (inputs, targets) = init(sizes), data(features=sizes[0])
    versions = jax.tree.map(lambda p: jnp.stack([p] * num_workers), params)
    generator = np.random.default_rng(1)
    length = max(512, num_workers)
    order = np.arange(length) % num_workers

    def once() -> None:
        ids = generator.integers(0, 10_000, (length, ROWS))
        jax.block_until_ready(asynchronous(params, versions, inputs, targets, order, ids))

    once()
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        once()
        count += 1
    return (time.perf_counter() - start) / count / length
