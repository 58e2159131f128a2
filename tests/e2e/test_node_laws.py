"""One interface, two drivers: both obey every law of `Node`."""

from __future__ import annotations

import pytest
from patience import PATIENT

import psgdsim
from psgdsim.testing.loss_laws import LOSS_LAWS
from psgdsim.testing.node_laws import LAWS


def scenario(law, multicast="unicast", **changes):
    return {
        "name": f"law-{law}"[:60],
        "world_size": 3,
        "plugins": ["psgdsim.testing.node_laws"],
        "model": {"kind": "quadratic", "dim": 2},
        "data": {"kind": "none"},
        "batch_size": 1,
        "optimizer": {"kind": "sgd", "learning_rate": 0.1},
        "strategy": {"kind": "node_law", "law": law, "num_servers": 1},
        "topology": {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "50 us", "multicast": multicast},
        "max_steps": 1,
        **PATIENT,
        **changes,
    }


def loss_scenario(law, plugin, **changes):
    strategy = {"kind": "loss_law", "law": law}
    return scenario(law, strategy=strategy, plugins=[plugin], max_steps=3, **changes)


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


@pytest.mark.parametrize("law", LOSS_LAWS)
def test_the_simulator_obeys_the_laws_of_losses(law, tmp_path):
    faults = [{"kind": "crash", "rank": 1, "at": "1 s"}]
    crashing = loss_scenario(law, "psgdsim.testing.loss_laws", faults=faults)
    result = psgdsim.run(crashing, mode="sim", out=tmp_path / "run")
    assert list(result.steps["rank"][result.steps["step"] == 3]) == [0, 2]


@pytest.mark.real
@pytest.mark.parametrize("law", LOSS_LAWS)
def test_real_mode_obeys_the_laws_of_losses(law, tmp_path):
    result = psgdsim.run(loss_scenario(law, "lost_rank"), mode="real", out=tmp_path / "run")
    assert list(result.steps["rank"][result.steps["step"] == 3]) == [0, 2]
    assert "rank 1 is lost: " in (result.folder / "log.txt").read_text()
