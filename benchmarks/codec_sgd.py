"""Measure what a synchronous round with coded gradients costs in simulation, against the arithmetic of its workers.

Parameter server (bsp), execution `batched`, real messages per node and metrics on. The floor, in the same process, is
the best of: `vmap` over gradient, encoding and decoding of each worker with a matmul mean, and a `scan` over them with
a running mean; the codecs' functions are the same.

    python benchmarks/codec_sgd.py [--workers 8,64]

Prints JSON; wall times in seconds. Compiling is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

CODECS: dict[str, dict[str, Any]] = {
    "top_k 1 %": {"kind": "top_k", "ratio": 0.01},
    "qsgd 4 bits": {"kind": "qsgd", "levels": 7, "bucket_size": 512},
    "power_sgd rank 2": {"kind": "power_sgd", "rank": 2},
}


def floor_times(num_workers: int, codec: Any, seconds: float = 2.0) -> dict[str, float]:
    """Return the time of a round for each way to compute it [s]."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from execution_floors import apply, data, gradient, init, mean

    inputs, targets = data()

    def sent(params: Any, state: Any, ids: Any, key: Any) -> tuple[Any, Any, Any]:
        loss, update = gradient(params, inputs, targets, ids)
        payload, encoder = codec.encode(update, state[0], key)
        decoded, decoder = codec.decode(payload, state[1], update)
        return loss, decoded, (encoder, decoder)

    @jax.jit
    def by_vmap(params: Any, states: Any, ids: Any, keys: Any) -> Any:
        losses, updates, states = jax.vmap(sent, (None, 0, 0, 0))(params, states, ids, keys)
        return losses, apply(params, jax.tree.map(mean, updates)), states

    @jax.jit
    def by_scan(params: Any, states: Any, ids: Any, keys: Any) -> Any:
        def step(total: Any, worker: Any) -> Any:
            loss, update, state = sent(params, *worker)
            return jax.tree.map(lambda t, g: t + g / num_workers, total, update), (loss, state)

        total, (losses, after) = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, params), (states, ids, keys))
        return losses, apply(params, total), after

    generator, found = np.random.default_rng(1), {}
    for name, way in {"vmap": by_vmap, "scan": by_scan}.items():
        params = init()
        one = (codec.init(params), codec.init(params))
        states = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_workers), one)
        keys = jax.random.split(jax.random.key(0), num_workers)
        count, start = -1, 0.0  # the first round compiles
        while count < 2 or time.perf_counter() - start < seconds:
            _, params, states = way(params, states, generator.integers(0, 10_000, (num_workers, 32)), keys)
            jax.block_until_ready(params)
            count += 1
            start = start or time.perf_counter()
        found[name] = (time.perf_counter() - start) / count
    return found


def main() -> None:
    """Measure and print JSON."""
    from sync_sgd import STRATEGIES, num_steps, round_time, scenario_of

    from psgdsim.compilation import use_cache_on_disk
    from psgdsim.results import versions
    from psgdsim.scenario import from_dict

    parser = argparse.ArgumentParser(description="Measure simulated synchronous SGD with codecs.")
    parser.add_argument("--workers", default="8,64")
    use_cache_on_disk()
    rows = []
    for num in map(int, parser.parse_args().workers.split(",")):
        for name, spec in CODECS.items():
            strategy = STRATEGIES["parameter_server"]
            codec = from_dict({**scenario_of(num, strategy, 1), "codec": spec}).codec.build()
            floors = floor_times(num, codec)
            seconds = round_time(num, strategy, num_steps(num), codec=spec)
            ratio = seconds / min(floors.values())
            rows.append({"workers": num, "codec": name, "floors_s": floors, "round_s": seconds, "ratio": ratio})
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
