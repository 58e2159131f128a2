"""The laws of strategies, as one function that a user calls on his own: `check_strategy("my_strategy")`."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from psgdsim import rng
from psgdsim.data.order import SampleOrder
from psgdsim.errors import PsgdsimError
from psgdsim.scenario.experiment import Experiment
from psgdsim.sim.driver import run_sim
from psgdsim.strategies.base import strategies
from psgdsim.task import Task
from psgdsim.testing.schedules import RandomSchedules, Spec, tiny_scenario
from psgdsim.trace import Outcome

SINGLE: Final = 2e-6
"""How far float32 sums of a few numbers of about 1 may differ when they are added in another order: some 2^-23 each."""


def check_strategy(
    strategy: Spec,
    *,
    world_size: int = 4,
    num_schedules: int = 100,
    alone: Spec | None = None,
    is_symmetric: bool = False,
    has_twin: bool = False,
) -> None:
    """Check that a strategy keeps the contract of `psgdsim.strategies`, and what it promises besides.

    Always, on a noisy bowl with two parameters: under random compute times and message delays (see
    `psgdsim.testing.schedules`) it comes to its end, no message is lost or left unread, and with `is_replicated` all
    ranks that lead end with the same bits; cancelled at random times, it leaves nothing behind; in lock step, times do
    not change what is computed.

    Args:
        strategy: its name, or a spec with its parameters such as `{"kind": "my_strategy", "fan_out": 2}`.
        world_size: with how many workers to try it.
        num_schedules: how many random schedules there are; a tenth as many runs are cancelled.
        alone: the same for one worker, if it is plain SGD then.
        is_symmetric: whether it promises that it does not matter which worker has which rows.
        has_twin: whether to run it for real, too, as processes over TCP: it must end with the same bits and bytes. That
            takes some seconds; the module that registers it must be importable.

    Raises:
        AssertionError: a law is broken; the message says which, and how to see it again.
        PsgdsimError: there is no such strategy, or it cannot run so.

    Example:
        >>> from psgdsim.testing import check_strategy
        >>> check_strategy({"kind": "sgp", "tau": 1}, num_schedules=10)
        >>> check_strategy("all_reduce", alone="all_reduce", is_symmetric=True, num_schedules=10)
    """
    schedules = RandomSchedules.of(strategy, world_size)
    _check_schedules(schedules, num_schedules)
    _check_cancelling(schedules, max(1, num_schedules // 10))
    if schedules.experiment.strategy.is_lock_step:
        _check_times(schedules)
    if alone is not None:
        _check_alone(alone)
    if is_symmetric:
        _check_symmetry(strategy, world_size)
    if has_twin:
        _check_twin(strategy, world_size)


def _law(is_kept: bool, law: str, what: object) -> None:  # noqa: FBT001 - reads as a sentence at the call
    if not is_kept:
        raise AssertionError(f"the strategy breaks the law that {law}: {what}")


# --- schedules ----------------------------------------------------------------------------------------------------


def _check_schedules(schedules: RandomSchedules, num: int) -> None:
    failure = next(iter(schedules.failures(range(num))), None)
    law = "it comes to its end with every message received, and replicas equal, whatever takes how long"
    _law(failure is None, law, failure)


def _check_cancelling(schedules: RandomSchedules, num: int) -> None:
    law = "a run that is cancelled leaves nothing behind"
    for seed in range(num):
        end = schedules.run(seed).time
        when = end * rng.stream(seed, "cancelling").random()
        try:
            schedules.run(seed, cancel_at=when)
        except AssertionError as failure:
            _law(False, law, failure)


def _check_times(schedules: RandomSchedules) -> None:
    stop = schedules.experiment.task.schedule
    digests = {schedules.run(seed, stop=stop).reports[0].digest for seed in range(5)}
    _law(len(digests) == 1, "in lock step, times do not change what is computed", "5 schedules end differently")


# --- limits and symmetries ----------------------------------------------------------------------------------------


def _check_alone(strategy: Spec) -> None:
    experiment = RandomSchedules.of(strategy, 1).experiment
    task = experiment.task
    state = task.init.function(0, None)
    for step in task.steps():
        _, [gradient] = task.gradients.function([state.params], [task.blocks(1).ids(step, 0)])
        state = task.apply.function(state, gradient)
    _compare("one worker alone is plain SGD", _run(experiment).models, [state.params])


def _check_symmetry(strategy: Spec, world_size: int) -> None:
    experiment = RandomSchedules.of(strategy, world_size).experiment
    turned = _TurnedTask(**{field.name: getattr(experiment.task, field.name) for field in fields(Task)})
    vars(turned).update(vars(experiment.task))  # the very same kernels: nothing is compiled again
    models = [_run(each).models for each in (replace(experiment, task=turned), experiment)]
    _compare("it does not matter which worker has which rows", *models)


class _TurnedTask(Task):
    """A task whose blocks have changed their places."""

    def blocks(self, num_blocks: int) -> SampleOrder:
        """Return the order with block i + 1 in the place of block i."""
        return _TurnedOrder(super().blocks(num_blocks), num_blocks)


class _TurnedOrder(SampleOrder):
    def __init__(self, order: SampleOrder, num_blocks: int) -> None:
        self._order, self._num_blocks = order, num_blocks

    def ids(self, step: int, block: Any) -> Any:
        return self._order.ids(step, (block + 1) % self._num_blocks)


def _run(experiment: Experiment) -> Outcome:
    outcome = run_sim(experiment)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def _compare(law: str, got: Sequence[Any], expected: Sequence[Any]) -> None:
    import jax
    import numpy as np

    leaves: list[list[Any]] = [jax.tree.leaves(list(models)) for models in (got, expected)]
    for one, other in itertools.zip_longest(*leaves):
        is_close = one is not None and other is not None and np.allclose(one, other, rtol=SINGLE, atol=SINGLE)
        _law(is_close, law, f"expected {np.asarray(other).tolist()}; got {np.asarray(one).tolist()}")


# --- twins --------------------------------------------------------------------------------------------------------


def _check_twin(strategy: Spec, world_size: int) -> None:
    import psgdsim

    kind = strategy if isinstance(strategy, str) else strategy["kind"]
    module = strategies[kind].module
    if module == "__main__":
        raise PsgdsimError(f"strategy {kind!r}: expected it in a module that other processes can import; got __main__")
    plugins = [] if module.startswith("psgdsim.") else [module]
    scenario: Mapping[str, Any] = {**tiny_scenario(strategy, world_size), "plugins": plugins}
    with tempfile.TemporaryDirectory() as folder:
        sim, real = (psgdsim.run(scenario, mode=mode, out=Path(folder) / mode) for mode in ("sim", "real"))
        law = "both modes end with the same bits and bytes"
        for name in ("params_sha256", "steps"):
            _law(real.summary[name] == sim.summary[name], law, f"{name}: {real.summary[name]}, {sim.summary[name]}")
        sent = [run.summary["bytes"]["sent"] for run in (real, sim)]
        _law(sent[0] == sent[1], law, f"bytes by rank: {sent[0]} for real, {sent[1]} in simulation")
