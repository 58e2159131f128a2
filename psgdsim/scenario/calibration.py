"""What compute-time models ask of the task and of the machine, before a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from psgdsim.errors import ScenarioError
from psgdsim.scenario.families import FAMILIES
from psgdsim.scenario.schema import Scenario
from psgdsim.scenario.spec import PartSpec, read_spec
from psgdsim.task import Task
from psgdsim.units import TIME

Clock = Callable[[], float]


class TaskOnThisMachine:
    """The gradient of one rank's batch, counted and timed.

    Args:
        task: what is trained.
        rank_rows: rows per rank and step; where that is no whole number, the nearest is taken and scaled.
        clock: a clock that runs steadily [s], or None where there is none.
    """

    def __init__(self, task: Task, rank_rows: float, clock: Clock | None) -> None:
        self._task, self._clock = task, clock
        self._rows = max(1, round(rank_rows))
        self._scale = rank_rows / self._rows

    def flops(self) -> float:
        """Return the floating-point operations by XLA's cost analysis, before its optimizations."""
        import jax

        task, data = self._task, self._task.dataset
        shape_of: Any = jax.ShapeDtypeStruct
        inputs, targets = (
            shape_of((self._rows, *rows.shape[1:]), rows.dtype) for rows in (data.train_inputs, data.train_targets)
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        params = jax.eval_shape(lambda key: task.model.init(key, data.input_shape, data.num_outputs), key)

        def mean_loss(params: Any, inputs: Any, targets: Any) -> Any:
            return task.model.loss(task.model.apply(params, inputs), targets).mean()

        lowered: Any = jax.jit(jax.value_and_grad(mean_loss)).lower(params, inputs, targets)
        return float(lowered.cost_analysis().get("flops", 0.0)) * self._scale

    def seconds(self, repeats: int) -> float:
        """Return the median time of the kernel that ranks run; one call before the first compiles it."""
        import jax
        import numpy as np

        if self._clock is None:
            raise ScenarioError("compute: measured times need a clock; start the scenario with psgdsim.run")
        finish: Any = jax.block_until_ready
        params = self._task.init.function(0, None).params
        ids = np.arange(self._rows)
        times = []
        for _ in range(repeats + 1):
            start = self._clock()
            finish(self._task.gradients.function([params], [ids]))
            times.append(self._clock() - start)
        return statistics.median(times[1:]) * self._scale


def resolve_compute(scenario: Scenario, task: Task, clock: Clock | None) -> Scenario:
    """Return the scenario with a compute model that depends on the task or the machine replaced by a constant.

    Args:
        scenario: any scenario; one whose compute model depends on neither comes back as it is.
        task: what it trains.
        clock: for models that measure.

    Raises:
        ScenarioError: the model measures, and there is no clock.
    """
    resolve = scenario.compute.build().resolve
    if resolve is None:
        return scenario
    seconds = resolve(TaskOnThisMachine(task, task.global_rows / scenario.world_size, clock))
    constant: PartSpec = read_spec(FAMILIES["compute"], {"kind": "constant", "time": TIME.format(seconds)})
    return scenario.model_copy(update={"compute": constant})
