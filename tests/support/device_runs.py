"""Runs in batches, and where their rows are: `python device_runs.py FILE.npz` writes the models of all of them."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from psgdsim.node import Kernel
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim import execution
from psgdsim.sim.driver import run_sim
from psgdsim.sim.execution.batched import Batched
from psgdsim.sim.values import numbers

TOP_K = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
RUNS: dict[str, dict[str, Any]] = {
    "bsp": {"strategy": {"kind": "parameter_server"}},
    "async": {"strategy": {"kind": "parameter_server", "sync": "async"}, "codec": TOP_K},
    "ring": {"strategy": {"kind": "all_reduce", "algorithm": "ring"}},
    "top_k": {"strategy": {"kind": "all_reduce", "algorithm": "broadcast"}, "codec": TOP_K},
    "local_sgd": {"strategy": {"kind": "local_sgd", "period": 3}},
    "d_psgd": {"strategy": {"kind": "d_psgd", "graph": "ring"}},
}
NUM_ALONE = {"d_psgd": 40, "async": 40}
"""So many calls are made one by one first, on one device: their results meet those of all devices later."""

NUM = 10
"""Rows; no multiple of the number of devices."""

GRADIENT = Kernel("gradient", lambda p, x: jnp.sin(p * x), "gradient")
SUM = Kernel("sum", lambda weights, trees: jnp.tensordot(weights, jnp.stack(trees), 1), is_weighted_sum=True)


def model_of(name: str, kind: str) -> list[Any]:
    """Run a small scenario, and return the parameters of all models."""
    base = {
        "name": "devices",
        "world_size": 6,
        "batch_size": 8,
        "max_steps": 8,
        "model": {"kind": "softmax_regression"},
        "data": {"kind": "synthetic_classification", "num_samples": 200, "num_features": 6, "num_classes": 3},
        "optimizer": {"kind": "momentum", "learning_rate": 0.05},
        "topology": {"kind": "star", "bandwidth": "100 Mbit/s", "latency": "50 us"},
        "compute": {"kind": "exponential", "mean": "1 ms"},
        "evaluate": {"every": None},
        "trace": "off",
    }
    outcome = run_sim(build(from_dict({**base, "execution": kind, **RUNS[name]})))
    if outcome.error is not None:
        raise outcome.error
    return [np.asarray(leaf) for leaf in jax.tree.leaves(outcome.models)]


def places() -> dict[str, Any]:
    """Compute gradients and their sum in one segment; return where they are, and what they are."""
    batched = Batched(1000)
    rows = [batched.call(GRADIENT, (np.float32(1), np.full(5, i, np.float32))) for i in range(NUM)]
    total = batched.call(SUM, ([1.0] * NUM, rows))
    total_array, stack = total.ready.array, rows[0].ready
    together = [row.ready is stack for row in rows]
    shards = stack.array.addressable_shards
    return {
        "one stack": all(together),
        "rows": stack.num,
        "rows per device": {str(shard.device.id): shard.data.shape[0] for shard in shards},
        "total": len(total_array.sharding.device_set),
        "total is on each": total_array.is_fully_replicated,
        "numbers": [float(numbers(row)[0]) for row in rows],
        "sum": float(numbers(total)[0]),
    }


if __name__ == "__main__":
    models = {}
    for name in RUNS:
        execution.NUM_ALONE = NUM_ALONE.get(name, 0)  # type: ignore[misc]
        models.update({f"{name} {i}": leaf for i, leaf in enumerate(model_of(name, "batched"))})
    np.savez(sys.argv[1], **models)
    print(json.dumps(places()))
