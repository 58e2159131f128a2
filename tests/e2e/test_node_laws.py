"""One interface, two drivers: both obey every law of `Node`."""

from __future__ import annotations

import pytest

import psgdsim
from psgdsim.testing.node_laws import LAWS


def scenario(law, multicast="unicast"):
    return {
        "name": f"law-{law}"[:60],
        "world_size": 3,
        "plugins": ["psgdsim.testing.node_laws"],
        "model": {"kind": "quadratic", "dim": 2},
        "data": {"kind": "none"},
        "batch_size": 1,
        "optimizer": {"kind": "sgd", "learning_rate": 0.1},
        "strategy": {"kind": "node_law", "law": law},
        "topology": {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "50 us", "multicast": multicast},
        "max_steps": 1,
    }


@pytest.mark.parametrize("law", LAWS)
def test_the_simulator_obeys(law, tmp_path):
    assert psgdsim.run(scenario(law), mode="sim", out=tmp_path / "run").summary["status"] == "completed"


@pytest.mark.real
@pytest.mark.parametrize("multicast", ["unicast", "native"])
def test_real_mode_obeys_them_all(multicast, tmp_path):
    result = psgdsim.run(scenario("all", multicast), mode="real", out=tmp_path / "run")
    assert result.summary["status"] == "completed"


@pytest.mark.parametrize("multicast", ["native", "relay"])
def test_the_simulator_multicasts(multicast, tmp_path):
    law = "a_multicast_reaches_all_and_only_those_named"
    assert psgdsim.run(scenario(law, multicast), mode="sim", out=tmp_path / "run").summary["status"] == "completed"
