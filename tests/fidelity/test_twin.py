"""The central promise: a synchronous scenario ends with the same bits and bytes in both modes."""

from __future__ import annotations

import numpy as np
import pytest
from patience import HEARTBEAT_TIMEOUT

import psgdsim

pytestmark = pytest.mark.real

BASE = "scenarios/plain_8nodes.yaml"
SMALL = ["world_size=3", "model.hidden=[8]", "max_steps=3"]

TWINS = {
    **{f"{name}_8nodes": (f"scenarios/{name}_8nodes.yaml", ["max_steps=3"]) for name in ("plain", "ring", "ccdc")},
    "ccdc_8nodes_sweep": ("scenarios/ccdc_8nodes_sweep.yaml", ["max_steps=2"]),
    "several models": (BASE, [*SMALL, "strategy={kind: coded_shuffle, code: ccdc, redundancy: 1}"]),
    "uncoded over a relay": (
        BASE,
        [*SMALL, "strategy={kind: coded_shuffle, code: combine, redundancy: 2}", "topology.multicast=relay"],
    ),
    "coded all-gather as unicasts": (
        BASE,
        [*SMALL, "strategy={kind: coded_shuffle, code: cdc_all_gather, redundancy: 2}", "topology.multicast=unicast"],
    ),
    "a codec with memory": (BASE, [*SMALL, "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}"]),
    "recursive doubling, one rank folded": (BASE, [*SMALL, "strategy.algorithm=recursive_doubling"]),
    "hierarchical": (
        BASE,
        [*SMALL, "world_size=4", "strategy={kind: all_reduce, algorithm: hierarchical, group_size: 2}"],
    ),
    "low rank, in two rounds of a ring": (
        BASE,
        [
            *SMALL,
            "strategy={kind: all_reduce, algorithm: ring}",
            "codec={kind: error_feedback, codec: {kind: power_sgd, rank: 2}}",
        ],
    ),
    "random places that all ranks share, around a ring": (
        BASE,
        [
            *SMALL,
            "strategy={kind: all_reduce, algorithm: ring}",
            "codec={kind: error_feedback, codec: {kind: random_k, ratio: 0.1}}",
        ],
    ),
    "a scale that all ranks share, around a ring": (
        BASE,
        [*SMALL, "strategy={kind: all_reduce, algorithm: ring}", "codec={kind: terngrad}"],
    ),
    "messages of different lengths, a codec per layer": (
        BASE,
        [
            *SMALL,
            "strategy={kind: all_reduce, algorithm: broadcast}",
            "codec={layers: {'*bias': {kind: identity}, default: {kind: compressed, codec: {kind: dgc, ratio: 0.05, "
            "warmup_steps: 2, index_coding: auto}}}}",
        ],
    ),
    "micro-batches": (BASE, [*SMALL, "strategy={kind: all_reduce, accumulation: 3}"]),
    "buckets, unequal shares, another model": (
        BASE,
        [
            *SMALL,
            "model={kind: cnn}",
            "strategy={kind: all_reduce, bucket_size: 1 KiB}",
            "batch_size=null",
            "global_batch_size=31",
        ],
    ),
    "coded buckets along a tree": (
        BASE,
        [
            *SMALL,
            "world_size=4",
            "strategy={kind: all_reduce, algorithm: halving_doubling, bucket_size: 1 B}",
            "codec={kind: cast, dtype: bfloat16}",
        ],
    ),
    "a double buffer": (BASE, [*SMALL, "max_steps=5", "strategy={kind: all_reduce, double_buffer: true}"]),
    "a double buffer of micro-batches, adam": (
        BASE,
        [
            *SMALL,
            "strategy={kind: all_reduce, algorithm: tree, double_buffer: true, accumulation: 2}",
            "optimizer={kind: adam, learning_rate: 0.01}",
        ],
    ),
    "a parameter server": (BASE, [*SMALL, "strategy={kind: parameter_server}"]),
    "a parameter server, a codec with memory, unequal shares": (
        BASE,
        [
            *SMALL,
            "strategy={kind: parameter_server}",
            "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}",
            "batch_size=null",
            "global_batch_size=31",
            "topology.multicast=relay",
        ],
    ),
    "a parameter server that may lose workers": (
        BASE,
        [*SMALL, "strategy={kind: parameter_server, on_peer_loss: drop}"],
    ),
    "a parameter server that waits for workers that are lost": (
        BASE,
        [*SMALL, "strategy={kind: parameter_server, on_peer_loss: wait}"],
    ),
    "a parameter server in three shards, unequal shares": (
        BASE,
        [
            *SMALL,
            "strategy={kind: parameter_server, servers: 3}",
            "optimizer={kind: momentum, learning_rate: 0.1}",
            "batch_size=null",
            "global_batch_size=31",
        ],
    ),
    "a parameter server in two shards beside the workers, a codec with memory": (
        BASE,
        [
            *SMALL,
            "strategy={kind: parameter_server, servers: 2}",
            "hosts={servers: beside}",
            "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}",
        ],
    ),
    "a parameter server that answers in levels, to signs": (
        BASE,
        [
            *SMALL,
            "strategy={kind: parameter_server, downlink: {kind: qsgd, levels: 16, bucket_size: 64}}",
            "codec={kind: error_feedback, codec: {kind: scaled_sign}}",
            "batch_size=null",
            "global_batch_size=31",
        ],
    ),
    "a parameter server in two shards that answers with few values, packed": (
        BASE,
        [*SMALL, "strategy={kind: ssgd, servers: 2, downlink: {kind: top_k, ratio: 0.1, index_coding: auto}}"],
    ),
    "a parameter server that waits for the first three of three": (
        BASE,
        [
            *SMALL,
            "strategy={kind: parameter_server, sync: k_sync, k: 3}",
            "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}",
        ],
    ),
    "local steps, averaged buffers, unequal shares": (
        BASE,
        [
            *SMALL,
            "max_steps=5",
            "strategy={kind: local_sgd, period: 2, post_local: 1, buffers: average, algorithm: ring}",
            "optimizer={kind: adam, learning_rate: 0.01}",
            "batch_size=null",
            "global_batch_size=31",
        ],
    ),
    "local steps, a slow momentum under a schedule, a codec with memory": (
        BASE,
        [
            *SMALL,
            "max_steps=4",
            "strategy={kind: slow_mo, period: 2, algorithm: broadcast}",
            "optimizer={kind: momentum, learning_rate: 0.1, schedule: {kind: cosine, total_steps: 8}}",
            "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}",
        ],
    ),
    "local steps, a block momentum": (BASE, [*SMALL, "strategy={kind: bmuf, period: 2, nesterov: true}"]),
    "local steps, an outer optimizer": (BASE, [*SMALL, "max_steps=4", "strategy={kind: diloco, period: 2}"]),
    "gossip on a ring, along with the step": (BASE, [*SMALL, "world_size=4", "strategy={kind: d_psgd}"]),
    "gossip on a tree, after the step, over a relay, unequal shares": (
        BASE,
        [
            *SMALL,
            "world_size=4",
            "strategy={kind: d_psgd, graph: custom, edges: [[0, 1], [1, 2], [1, 3]], mix: after_step}",
            "batch_size=null",
            "global_batch_size=31",
            "topology.multicast=relay",
        ],
    ),
    "pushed shares": (BASE, [*SMALL, "world_size=4", "max_steps=4", "strategy={kind: sgp}"]),
    "pushed shares that are late": (
        BASE,
        [
            *SMALL,
            "max_steps=5",
            "strategy={kind: sgp, tau: 2, graph: custom, edges: [[0, 1], [0, 2], [1, 2], [2, 0]]}",
            "codec={kind: cast, dtype: bfloat16}",
            "topology.multicast=unicast",
        ],
    ),
    "gradients that are sent where they have changed": (
        BASE,
        [
            *SMALL,
            "max_steps=6",
            "strategy={kind: lag}",
            "batch_size=null",
            "global_batch_size=31",
            "optimizer={kind: sgd, learning_rate: 0.02, schedule: {kind: cosine, total_steps: 8}}",
            "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}",
        ],
    ),
    "gradients that the server asks for": (BASE, [*SMALL, "max_steps=6", "strategy={kind: lag, trigger: server}"]),
    "gradients that are rounded, and sent where they have changed": (
        BASE,
        [*SMALL, "max_steps=6", "optimizer.learning_rate=0.02", "strategy={kind: laq, bits: 3}"],
    ),
    "gradients that are sent where they have changed, by workers that may be lost": (
        BASE,
        [
            *SMALL,
            "max_steps=6",
            "strategy={kind: lag, on_peer_loss: drop}",
            "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}",
        ],
    ),
    "gradients that are rounded, of workers that may be lost": (
        BASE,
        [*SMALL, "max_steps=6", "optimizer.learning_rate=0.02", "strategy={kind: laq, bits: 3, on_peer_loss: drop}"],
    ),
    "federated averaging of some clients with unequal shards": (
        BASE,
        [
            *SMALL,
            "world_size=4",
            "data={kind: digits, partition: {kind: quantity_skew, alpha: 1.0}}",
            "batch_size=100",
            "strategy={kind: fedavg, client_fraction: 0.5, local_epochs: 2, on_peer_loss: drop, quorum: 0.5}",
            "codec={kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}",
        ],
    ),
    "a model without accuracy": (BASE, ["world_size=3", "max_steps=3", "model={kind: quadratic}", "data={kind: none}"]),
    "redundant blocks, adam, another model": (
        BASE,
        [*SMALL, "strategy.redundancy=2", "model={kind: cnn}", "optimizer={kind: adam, learning_rate: 0.01}"],
    ),
}

BESIDE = {name for name in TWINS if name.startswith("a double buffer")}
"""What sends while the next step is computed: how much it has sent when a step ends is a matter of time."""


@pytest.mark.parametrize("name", TWINS)
def test_both_modes_end_with_the_same_bits_and_bytes(name, tmp_path):
    path, overrides = TWINS[name]
    overrides = [*overrides, "evaluate.every=2 steps", f"real.heartbeat_timeout={HEARTBEAT_TIMEOUT}"]
    sim, real = (psgdsim.run(path, mode=mode, out=tmp_path / mode, overrides=overrides) for mode in ("sim", "real"))
    assert real.summary["params_sha256"] == sim.summary["params_sha256"]
    for column in ("rank", "step", "loss", "staleness", *(() if name in BESIDE else ("bytes",))):
        np.testing.assert_array_equal(real.steps[column], sim.steps[column])
    for counted in ("sent", "total", "payload_total", "relay_total"):
        assert real.summary["bytes"][counted] == sim.summary["bytes"][counted]
    for column in ("step", "model", "train_loss", "test_loss", "test_accuracy"):
        np.testing.assert_array_equal(real.evals[column], sim.evals[column])
    assert real.summary.get("coded") == sim.summary.get("coded")
    assert set(real.params) == set(sim.params)
    assert all(np.array_equal(real.params[key], sim.params[key]) for key in sim.params)
    assert real.summary["bytes"]["control_total"] > 0
