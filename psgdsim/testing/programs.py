"""Run programs by themselves, without a training run around them: for tests of what goes over the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, NamedTuple

from psgdsim import wire
from psgdsim.network_model import NetworkModel
from psgdsim.node import Kernel, Node
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim.driver import Simulation
from psgdsim.sim.node import SimNode
from psgdsim.sim.values import Computed, Value, unwrap, wrap
from psgdsim.strategies.base import Strategy
from psgdsim.task import Task
from psgdsim.topologies.base import TopologyPart
from psgdsim.trace import RankReport

Program = Callable[[Node], Coroutine[Any, Any, Any]]
"""What every rank runs."""


class ProgramRun(NamedTuple):
    """What came of a program.

    Attributes:
        time: until the last rank has ended [s].
        results: what the program returned on each rank.
        reports: what each rank did.
    """

    time: float
    results: list[Any]
    reports: list[RankReport]

    @property
    def sent(self) -> list[int]:
        """Bytes sent by each rank."""
        return [report.sent_nbytes for report in self.reports]


def run_program(
    program: Program, num_ranks: int, topology: TopologyPart, model: NetworkModel | None = None
) -> ProgramRun:
    """Run a program on every rank in the simulator; kernels take no time.

    Args:
        program: an `async def` over a node.
        num_ranks: how many ranks run it.
        topology: the network; rank i lives on its host i.
        model: how messages share it; plain max-min fairness by default.

    Returns:
        The run; tensors in its results are handles with the array inside (`array`).

    Raises:
        PsgdsimError: the program fails, or waits for what nobody sends.
    """
    return _run(program, num_ranks, topology, model, SimNode)


def time_program(
    program: Program, num_ranks: int, topology: TopologyPart, model: NetworkModel | None = None
) -> ProgramRun:
    """Run a program on every rank by sizes alone, with vectors from `sized` in the place of numbers.

    Kernels take no time and compute nothing; a message is as large as its vectors, without any header, so that times
    and bytes are exactly those of a formula in the size of the vectors.

    Args:
        program: as in `run_program`.
        num_ranks: likewise.
        topology: likewise.
        model: likewise.

    Raises:
        PsgdsimError: likewise.

    Example:
        >>> from psgdsim import collectives
        >>> from psgdsim.topologies import star
        >>> vector = sized(1000)
        >>> def program(node):
        ...     return collectives.ring_all_reduce(node, vector, tag="sum")
        >>> run = time_program(program, 4, star(bandwidth=8e6, latency=0.25))
        >>> round(run.time, 9), run.sent
        (1.5015, [1500, 1500, 1500, 1500])
    """
    return _run(program, num_ranks, topology, model, _SizedNode)


def sized(nbytes: int) -> Value:
    """Return a vector of so many bytes that has no numbers."""
    import jax
    import numpy as np

    shape: Any = jax.ShapeDtypeStruct
    return Computed(shape((nbytes,), np.uint8))


def _run(
    program: Program, num_ranks: int, topology: TopologyPart, model: NetworkModel | None, kind: type[SimNode]
) -> ProgramRun:
    results: dict[int, Any] = {}

    async def worker(node: Node, _task: Task) -> None:
        results[node.rank] = await program(node)
        await node.checkpoint(1, [])

    experiment = _experiment(num_ranks)
    scenario = experiment.scenario if model is None else experiment.scenario.model_copy(update={"network": model})
    simulation = Simulation(replace(experiment, scenario=scenario, strategy=Strategy(worker), topology=topology))
    simulation.nodes[:] = [kind(simulation, rank) for rank in range(num_ranks)]
    outcome = simulation.run()
    if outcome.error is not None:
        raise outcome.error
    return ProgramRun(outcome.time, [results[rank] for rank in range(num_ranks)], outcome.reports)


class _SizedNode(SimNode):
    """A rank in virtual time whose values have shapes alone."""

    async def compute(self, kernel: Kernel, *arguments: Any) -> Any:
        """Return the shapes of what the kernel would return."""
        import jax

        leaves, structure = jax.tree.flatten(unwrap(arguments))
        shapes = ((tuple(leaf.shape), leaf.dtype) if hasattr(leaf, "dtype") else leaf for leaf in leaves)
        return wrap(_shapes_of(kernel, structure, tuple(shapes)))

    def frame_sizes(self, payload: Any) -> tuple[int, int]:
        """Return the size of the tensors alone."""
        return (wire.tensor_nbytes(payload),) * 2


@functools.lru_cache(4096)
def _shapes_of(kernel: Kernel, structure: Any, leaves: tuple[Any, ...]) -> Any:
    """Return the shapes of what a kernel returns for arguments whose arrays are given as `(shape, dtype)`."""
    import jax

    arrays = {i: jax.ShapeDtypeStruct(*leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, tuple)}  # type: ignore[no-untyped-call]

    def call(*values: Any) -> Any:
        known = dict(zip(arrays, values, strict=True))
        return kernel.function(*jax.tree.unflatten(structure, [known.get(i, leaf) for i, leaf in enumerate(leaves)]))

    return jax.eval_shape(call, *arrays.values())


def _experiment(num_ranks: int) -> Experiment:
    """Return an experiment of which nothing but the number of ranks matters."""
    return build(
        from_dict(
            {
                "name": "timing",
                "world_size": num_ranks,
                "model": {"kind": "quadratic", "dim": 1},
                "data": {"kind": "none"},
                "batch_size": 1,
                "optimizer": {"kind": "sgd", "learning_rate": 0.1},
                "strategy": {"kind": "all_reduce"},
                "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
                "max_steps": 1,
                "execution": "exact",
                "evaluate": {"every": None},
            }
        )
    )
