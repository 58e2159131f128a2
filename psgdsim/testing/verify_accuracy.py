"""Accuracies on MNIST's 10,000 test images, of which 8,000 are trained on; not run where the files are not at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from psgdsim.errors import DatasetError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.testing.checks import Check, at_least
from psgdsim.testing.training import run_scenario

SEEDS: Final = range(1, 5)

DC_ASGD: Final = "arXiv 1609.08326"

_SCENARIO: Final[dict[str, Any]] = {
    "name": "accuracy",
    "model": {"kind": "mlp", "hidden": [128], "activation": "relu"},
    "data": {"kind": "mnist", "split": "t10k"},
    "batch_size": 32,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
    "compute": {"kind": "constant", "time": "1 s"},
    "evaluate": {"every": None},
    "trace": "off",
}


def mean_accuracy(changes: Mapping[str, Any]) -> float:
    """Return the test accuracy at the end of training, the mean over a few seeds [percent].

    Args:
        changes: keys of the scenario: at least `world_size`, `strategy` and when to stop.

    Raises:
        DatasetError: MNIST is not on this machine.
    """
    runs = (run_scenario({**_SCENARIO, **changes, "seed": seed}) for seed in SEEDS)
    return 100 * sum(run.evals[-1]["test_accuracy"] for run in runs) / len(SEEDS)


def has_mnist() -> bool:
    """Whether MNIST is on this machine."""
    try:
        build(from_dict({**_SCENARIO, "seed": 1, "world_size": 1, "strategy": {"kind": "all_reduce"}, "max_steps": 1}))
    except DatasetError:
        return False
    return True


def verify_stale_accuracy() -> Iterator[Check]:
    """With 16 workers in turn, gradients are 15 updates old: at the edge where plain ASGD fails, DC-ASGD does not."""
    name = "N=16 in turn, 992 updates: DC-ASGD-a - ASGD [points]"
    if not has_mnist():
        yield Check(name, "not run", "not run", "there is no MNIST here")
        return
    plain, compensated = (
        mean_accuracy({"world_size": 16, "max_steps": 62, "strategy": {"kind": "parameter_server", **settings}})
        for settings in ({"sync": "async"}, {"sync": "async", "delay_compensation": {"kind": "adaptive"}})
    )
    yield at_least(name, 30.0, compensated - plain, DC_ASGD)
