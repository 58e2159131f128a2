"""Small training runs in the simulator, without a run folder: what the checks of strategies are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim.driver import Simulation, run_sim
from psgdsim.trace import Outcome

if TYPE_CHECKING:
    import numpy as np


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
    import jax
    import numpy as np

    simulation = Simulation(build(from_dict(scenario)))
    outcome = simulation.run()
    if outcome.error is not None:
        raise outcome.error
    ranks = [np.concatenate([np.ravel(leaf.numbers) for leaf in _leaves(jax, node)]) for node in simulation.nodes]
    return np.stack(ranks), outcome


def _leaves(jax: Any, node: Any) -> list[Any]:
    leaves: list[Any] = jax.tree.leaves(node.models[0])
    return leaves
