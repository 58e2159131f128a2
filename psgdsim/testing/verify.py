"""Laws and published numbers, computed afresh: what `psgdsim verify` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from psgdsim.errors import ScenarioError, nearest
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim
from psgdsim.testing.checks import Check
from psgdsim.testing.verify_codecs import verify_codecs
from psgdsim.testing.verify_execution import verify_execution
from psgdsim.testing.verify_network import verify_network
from psgdsim.testing.verify_strategies import NUM_SCHEDULES, NUM_UPDATES, verify_strategies

CCDC_LOADS = {(4, 2): "3/4", (4, 3): "1/3", (5, 2): "9/10", (5, 3): "8/15", (6, 2): "1", (6, 3): "2/3", (6, 5): "1/5"}
COMBINE_LOADS = {(4, 2): "5/4", (6, 3): "4/3"}
CDC_PACKETS = {(4, 2): "12", (5, 2): "30", (5, 3): "20", (5, 4): "5"}


def verify_coded() -> Iterator[Check]:
    """Run every coded shuffle for a step in the simulator and compare what it multicast with theory.

    Loads are bytes of coded words, a multicast counted once, per byte of values wanted, as exact fractions.
    """
    for (k, r), load in CCDC_LOADS.items():
        yield Check(f"ccdc K={k} r={r} load", load, _coded("ccdc", k, r)["load_shuffle"], "arXiv 1805.01993")
    for (k, r), load in COMBINE_LOADS.items():
        yield Check(f"combine K={k} r={r} load", load, _coded("combine", k, r)["load_shuffle"], "(2K-r-1)/K")
    for (k, r), packets in CDC_PACKETS.items():
        coded = _coded("cdc_all_gather", k, r)
        yield Check(f"cdc_all_gather K={k} r={r} packets", packets, coded["packets_per_step"], "(r+1) C(K,r+1)")
        yield Check(
            f"cdc_all_gather K={k} r={r} load", coded["load_expected"], coded["load_shuffle"], "arXiv 1604.07086"
        )


def _coded(code: str, world_size: int, redundancy: int) -> dict[str, Any]:
    experiment = build(
        from_dict(
            {
                "name": "verify-coded",
                "world_size": world_size,
                "model": {"kind": "softmax_regression"},
                "data": {"kind": "synthetic_classification"},
                "global_batch_size": 60,
                "optimizer": {"kind": "sgd", "learning_rate": 0.1},
                "strategy": {"kind": "coded_shuffle", "code": code, "redundancy": redundancy},
                "topology": {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "50 us", "multicast": "native"},
                "max_steps": 1,
                "evaluate": {"every": None},
            }
        )
    )
    outcome = run_sim(experiment)
    if outcome.error is not None:
        raise outcome.error
    rows = [row for report in outcome.reports for row in report.rows]
    summary: dict[str, Any] = experiment.strategy.summarize(world_size, rows)["coded"]
    return summary


def verify(
    subjects: Sequence[str], num_schedules: int = NUM_SCHEDULES, num_updates: int = NUM_UPDATES
) -> Iterator[Check]:
    """Run the checks of some subjects, or of all if none is named.

    Args:
        subjects: names in `SUBJECTS`.
        num_schedules: how many random schedules each strategy is run through.
        num_updates: how many gradients workers compute in the longest runs that are left to chance.

    Raises:
        ScenarioError: there is no such subject.
    """
    for subject in subjects:
        if subject not in SUBJECTS:
            raise ScenarioError(f"nothing to verify is called {subject!r}; {nearest(subject, SUBJECTS)}")
    for subject in subjects or SUBJECTS:
        yield from SUBJECTS[subject](num_schedules, num_updates)


SUBJECTS: dict[str, Callable[[int, int], Iterator[Check]]] = {
    "coded": lambda _schedules, _updates: verify_coded(),
    "codecs": lambda _schedules, _updates: verify_codecs(),
    "execution": lambda _schedules, _updates: verify_execution(),
    "network": lambda _schedules, _updates: verify_network(),
    "strategies": verify_strategies,
}
"""What can be verified, by name; random schedules per strategy and updates of long runs -> the checks."""
