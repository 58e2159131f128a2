"""Nine workers with least-squares problems that are unlike: where lazy gradients save most."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from psgdsim import rng
from psgdsim.data.base import Dataset, Partition
from psgdsim.models.base import Model
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.testing.checks import Check, at_most
from psgdsim.testing.schedules import Spec, tiny_scenario
from psgdsim.testing.training import run_scenario
from psgdsim.trace import Outcome

if TYPE_CHECKING:
    import jax
    import numpy as np

NUM: Final = 9
DIM: Final = 20
SMOOTHNESS: Final = tuple((1.3**m + 1) ** 2 for m in range(1, NUM + 1))
"""The largest eigenvalue of each worker's Hessian, as in Chen, Giannakis, Sun and Yin, NeurIPS 2018."""

CLOSE: Final = 1e-8
"""How near to its minimum, as a share of where it begins, the loss shall come."""


@dataclass(frozen=True, eq=False)
class UnlikeSquares:
    """Worker m minimises (w - c_m)^T H_m (w - c_m) / 2, beginning at w = 0; some directions are flatter than others.

    Attributes:
        hessians: the H_m, `(worker, parameter, parameter)`.
        optima: the c_m, `(worker, parameter)`.
        mean: of the H_m.
        rate: 1 over the largest eigenvalue of that, the learning rate.
        optimum: the w that minimises the mean of all losses.
        gap: by how much that mean is larger at w = 0.
    """

    hessians: np.ndarray
    optima: np.ndarray
    mean: np.ndarray
    rate: float
    optimum: np.ndarray
    gap: float

    @classmethod
    @functools.cache
    def draw(cls) -> UnlikeSquares:
        """Return the problem; there is one only."""
        import numpy as np

        generator, hessians = rng.stream(28, "unlike squares"), []
        optima = generator.standard_normal((NUM, DIM))
        for smoothness in SMOOTHNESS:
            rows = generator.standard_normal((DIM, DIM)) * np.linspace(1.0, 0.5, DIM)
            hessians.append(rows.T @ rows * (smoothness / np.linalg.norm(rows, 2) ** 2))
        mean = np.mean(hessians, axis=0)
        optimum = np.linalg.solve(mean, np.mean([h @ c for h, c in zip(hessians, optima, strict=True)], axis=0))
        gap = float(0.5 * optimum @ mean @ optimum)
        return cls(np.stack(hessians), optima, mean, float(1 / np.linalg.norm(mean, 2)), optimum, gap)

    def run(self, strategy: Spec, **changes: Any) -> Outcome:
        """Train; the test loss is the distance of the mean of all losses from its minimum.

        Args:
            strategy: as in a scenario.
            changes: other keys of the scenario; 80 steps if it does not say otherwise.
        """
        scenario = {
            **tiny_scenario(strategy, NUM),
            "batch_size": 1,
            "optimizer": {"kind": "sgd", "learning_rate": self.rate},
            "evaluate": {"every": "1 step"},
            "max_steps": 80,
            "trace": "steps",
            **changes,
        }
        experiment = build(from_dict(scenario))
        task = replace(experiment.task, model=self._model(), dataset=_ids(), partition=Partition(_in_order))
        return run_scenario(replace(experiment, task=task))

    def num_steps(self, outcome: Outcome) -> int:
        """Return after how many steps of a run the loss was close to its minimum; its last step if it never was."""
        gaps = [row["test_loss"] / self.gap for row in outcome.evals]
        return next((step for step, gap in enumerate(gaps, start=1) if gap <= CLOSE), len(gaps))

    def num_uploads(self, outcome: Outcome) -> int:
        """Return how many gradients workers had sent by then."""
        return sum(uploads_of(outcome)[: self.num_steps(outcome)])

    def _model(self) -> Model:
        def apply(params: Any, ids: jax.Array) -> Any:
            import jax.numpy as jnp

            hessians = jnp.asarray([*self.hessians, self.mean], jnp.float32)
            centres = jnp.asarray([*self.optima, self.optimum], jnp.float32)
            away = params["weight"] - centres[ids]
            return 0.5 * jnp.einsum("ri,rij,rj->r", away, hessians[ids], away)

        def init(_key: Any, _shape: tuple[int, ...], _num_outputs: int) -> Any:
            import jax.numpy as jnp

            return {"weight": jnp.zeros(DIM)}

        return Model(init, apply, loss=lambda outputs, _targets: outputs)


def uploads_of(outcome: Outcome) -> list[int]:
    """Return how many workers sent a gradient in each step of a run of `lag` or `laq`."""
    return [int(row["uploads"]) for row in outcome.reports[NUM].rows]


def _ids() -> Dataset:
    """Return the ids of the workers to train on, and one more to test with: the mean of all."""
    import numpy as np

    ids = np.arange(NUM + 1, dtype=np.int32)
    return Dataset(ids[:NUM], np.zeros(NUM, np.float32), ids[NUM:], np.zeros(1, np.float32), 1)


def _in_order(_targets: np.ndarray, num: int, _stream: np.random.Generator) -> list[np.ndarray]:
    import numpy as np

    return [np.array([block], np.int32) for block in range(num)]


def verify_lazy() -> Iterator[Check]:
    """No more steps than gradient descent, and at most a third of its uploads."""
    problem, source = UnlikeSquares.draw(), "arXiv 1805.09965"
    plain = problem.num_steps(problem.run("parameter_server"))
    for strategy in ({"kind": "lag"}, {"kind": "laq", "bits": 8}):
        outcome = problem.run(strategy)
        name = f"{strategy['kind']}, 9 unlike workers, loss 1e-8"
        yield at_most(f"{name}, steps", plain, problem.num_steps(outcome), source)
        yield at_most(f"{name}, uploads", NUM * plain // 3, problem.num_uploads(outcome), source)
