"""Small training runs in the simulator, without a run folder: what the checks of strategies are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim.driver import Simulation, run_sim
from psgdsim.trace import Outcome

if TYPE_CHECKING:
    import numpy as np

APART: Final[dict[str, Any]] = {
    "model": {"kind": "quadratic", "dim": 4, "noise": 50.0},
    "batch_size": 1,
    "optimizer": {
        "kind": "sgd",
        "learning_rate": 0.1,
        "schedule": {"kind": "step_decay", "every_steps": 1, "factor": 1e-12},
    },
}
"""Noise sets the ranks apart in the first step; after it, they only mix."""


def run_scenario(scenario: Mapping[str, Any] | Experiment) -> Outcome:
    """Run a scenario, or what was built of one.

    Raises:
        PsgdsimError: it fails.
    """
    outcome = run_sim(scenario if isinstance(scenario, Experiment) else build(from_dict(scenario)))
    if outcome.error is not None:
        raise outcome.error
    return outcome


def run_ranks(scenario: Mapping[str, Any]) -> tuple[np.ndarray, Outcome]:
    """Run a scenario; return the parameters that each rank ends with, `(rank, parameter)`, and the outcome.

    Raises:
        PsgdsimError: it fails.
    """
    import numpy as np

    simulation = Simulation(build(from_dict(scenario)))
    outcome = simulation.run()
    if outcome.error is not None:
        raise outcome.error
    return np.stack([vector_of(node.models[0]) for node in simulation.nodes]), outcome


def vector_of(values: Any) -> np.ndarray:
    """Return the values of a simulation that computes exactly, such as a rank's parameters, as one vector."""
    import jax
    import numpy as np

    return np.concatenate([np.ravel(leaf.numbers) for leaf in jax.tree.leaves(values)])
