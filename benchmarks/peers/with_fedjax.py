"""Synchronous SGD in FedJAX, as in its example of federated averaging, with one local step per round.

Its own `fed_avg` algorithm on in-memory clients that hold equal shards of the rows; every client takes part in every
round with 32 rows drawn anew. Its default back end runs one jitted client step after the other; the one that uses
`pmap` is for several devices, and a CPU is one.

The last FedJAX (2023) calls `jax.tree_map`, which jax has since moved; it is given back its old name here, so that both
sides run on the same jax.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

ROWS, RATE = 32, 0.05

jax.tree_map = jax.tree.map


def _model() -> Any:
    network = hk.transform(lambda batch: hk.nets.MLP([128, 128, 10], activation=jnp.tanh)(batch["x"]))
    sample = {"x": np.zeros((1, 784), np.float32), "y": np.zeros(1, np.int32)}
    return fedjax.create_model_from_haiku(
        network, sample, lambda batch, outputs: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], outputs)
    )


def run_rounds(
    inputs: np.ndarray, targets: np.ndarray, num_clients: int, num_rounds: int, after_round: Callable[[Any], None]
) -> list[float]:
    """Train; see `program.py`."""
    shards = {str(i): {"x": inputs[i::num_clients], "y": targets[i::num_clients]} for i in range(num_clients)}
    sampler = fedjax.client_samplers.UniformGetClientSampler(
        fedjax.InMemoryFederatedData(shards), num_clients=num_clients, seed=0
    )
    model = _model()
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        client_optimizer=fedjax.optimizers.sgd(learning_rate=RATE),
        server_optimizer=fedjax.optimizers.sgd(learning_rate=1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=ROWS, num_epochs=None, num_steps=1),
    )
    state = algorithm.init(model.init(jax.random.PRNGKey(0)))

    def loss() -> float:
        batch = {"x": inputs, "y": targets}
        return float(jnp.mean(model.train_loss(batch, model.apply_for_eval(state.params, batch))))

    losses = [loss()]
    for _ in range(num_rounds):
        state, _ = algorithm.apply(state, sampler.sample())
        after_round(functools.partial(jax.block_until_ready, state.params))
    return [*losses, loss()]
