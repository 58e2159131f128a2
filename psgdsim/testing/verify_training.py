"""What strategies compute, and how long coded steps take, against closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from psgdsim import rng
from psgdsim.compute_times import ComputeTime
from psgdsim.data.base import Partition
from psgdsim.models.base import Model
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.strategies.delay_compensation import constant
from psgdsim.strategies.gradient_codes import CodeName, make_code
from psgdsim.strategies.gradient_codes_approximate import StochasticCode
from psgdsim.testing.checks import Check, compare
from psgdsim.testing.schedules import Spec, tiny_scenario
from psgdsim.testing.server_times import OrderStatistic, four_errors, run_timed
from psgdsim.testing.training import APART, run_ranks, run_scenario

if TYPE_CHECKING:
    import jax
    import numpy as np

TANDON: Final = "arXiv 1612.03301"
FLOAT32: Final = 1e-6
"""How far apart two ways of some 30 steps may end on weights of about 1: each step rounds by 2^-24."""


def _built(strategy: Spec, world_size: int, **changes: Any) -> Experiment:
    return build(from_dict({**tiny_scenario(strategy, world_size), **changes}))


def verify_gradient_codes() -> Iterator[Check]:
    """From every set of survivors, the sum over all blocks; then how long a step lasts, and when coding pays."""
    import numpy as np

    codes: tuple[CodeName, ...] = ("cyclic_repetition", "fractional_repetition")
    gradients = rng.stream(1, "verify codes").standard_normal((6, 5))
    for name in codes:
        code = make_code(name, 6, 2)
        sums = [sum(weight * gradients[block] for block, weight in code.row(worker).items()) for worker in range(6)]
        worst = 0.0
        for survivors in itertools.combinations(range(6), 4):
            weights = code.weights(survivors) or {}
            decoded = sum((weight * sums[worker] for worker, weight in weights.items()), np.zeros(5))
            worst = max(worst, np.abs(decoded - gradients.sum(axis=0)).max() / max(map(abs, weights.values())))
        yield compare(f"{name} n=6 s=2, worst error / max a", 0.0, worst, TANDON, 1e-9)
    law, steps = OrderStatistic(4, 6), 600
    got = _step_time("cyclic_repetition", 6, 2, steps, lambda load, tail: load * tail)
    yield compare("n=6 s=2, Exp(1) per block [s]", 3 * law.mean, got, TANDON, four_errors(law.variation, steps))


def verify_stochastic_codes() -> Iterator[Check]:
    """Workers that are missing independently leave the mean, and p / (1 - p) sum_j |u_j|^2 of variance."""
    import numpy as np

    n, p, draws, source = 12, 0.2, 200_000, "arXiv 1905.05383"
    code, generator = StochasticCode(n, 0, 3, probability=p), rng.stream(1, "verify stochastic codes")
    gradients = generator.standard_normal((n, 5))
    parts = np.stack([sum(c * gradients[block] for block, c in code.row(worker).items()) for worker in range(n)])
    weights = np.array(list(code.weights(range(n)).values()))
    estimates = (generator.random((draws, n)) >= p) @ (weights[:, None] * parts)
    off = np.abs(estimates.mean(axis=0) - gradients.sum(axis=0)) / (estimates.std(axis=0) / math.sqrt(draws))
    yield compare("stochastic n=12 d=3 p=0.2, mean - gradient [standard errors]", 0.0, float(off.max()), source, 4.0)
    variance = p / (1 - p) * float((parts**2).sum())
    yield compare("stochastic n=12 d=3 p=0.2, variance", variance, float(estimates.var(axis=0).sum()), source, 0.02)


def verify_when_coding_pays() -> Iterator[Check]:
    """(s + 1) c + H_n - H_s, where the tail does not grow with the load; if it does, all of it times s + 1."""
    n, c, steps = 20, 0.1, 200
    for s in (0, 1, 3, 4):
        law = OrderStatistic(n - s, n)
        tolerance = four_errors(law.variation, steps)
        got = _step_time("fractional_repetition", n, s, steps, lambda load, tail: c * load + tail)
        yield compare(f"coded n=20 s={s}, tail beside the load [s]", (s + 1) * c + law.mean, got, TANDON, tolerance)
        got = _step_time("fractional_repetition", n, s, steps, lambda load, tail: load * (c + tail))
        yield compare(f"coded n=20 s={s}, tail of the load [s]", (s + 1) * (c + law.mean), got, TANDON, tolerance)


def _step_time(code: CodeName, n: int, s: int, steps: int, seconds: Any) -> float:
    """Return the mean time of a coded step [s]; `(load, draw from Exp(1))` -> how long a computation takes [s]."""
    strategy = {"kind": "gradient_coding", "stragglers": s, "code": code}
    compute = ComputeTime(lambda _rank, stream: lambda _now, load: seconds(load, float(stream.exponential())), math.nan)
    experiment = replace(_built(strategy, n, max_steps=steps, batch_size=1), compute=compute)
    return run_timed(experiment).time / steps


def verify_delay_compensation() -> Iterator[Check]:
    """On a w^2 / 2, lambda = a / g^2 makes the outer product the Hessian: sequential SGD, whatever the delay."""
    import numpy as np

    stream, a, eta = rng.stream(1, "verify delays"), 0.7, np.float64(0.1)
    models = [np.float64(3.0)]
    for _ in range(60):
        read = models[int(stream.integers(max(0, len(models) - 8), len(models)))]
        gradient, _ = constant(a / (a * read) ** 2).correct(a * read, models[-1], read, ())
        models.append(models[-1] - eta * gradient)
    expected = 3.0 * (1 - float(eta) * a) ** 60
    yield compare("DC-ASGD with lambda = a/g^2, w after 60 steps", expected, float(models[-1]), "arXiv 1609.08326")


# --- local SGD ----------------------------------------------------------------------------------------------------


def verify_local_sgd() -> Iterator[Check]:
    """With the same Hessian, local steps change nothing; with two bowls, the fixed point moves."""
    import numpy as np

    sync = run_scenario({**tiny_scenario("all_reduce", 4), "max_steps": 30}).models[0]["weight"]
    for period in (1, 5, 10):
        local = {"kind": "local_sgd", "period": period}
        weight = run_scenario({**tiny_scenario(local, 4), "max_steps": 30}).models[0]["weight"]
        far = float(np.abs(weight - sync).max())
        yield compare(f"local_sgd H={period} - all_reduce, one bowl", 0.0, far, "arXiv 1805.09767", FLOAT32)
    for period, point, rate in ((1, -0.6, 0.75), (10, -0.208252, 0.177363), (100, -1.33e-5, None)):
        ends = [_between_bowls(period, rounds) for rounds in (2, 3, max(3, 120 // period))]
        source = "sum (1 - q) c / sum (1 - q)"
        yield compare(f"local_sgd H={period}, two bowls", point, ends[-1], source, 2e-6 / abs(point))
        if rate is not None:
            got = (ends[1] - point) / (ends[0] - point)
            yield compare(f"local_sgd H={period}, two bowls, contraction", rate, got, "mean of (1 - eta a)^H", 1e-4)


def _between_bowls(period: int, rounds: int) -> float:
    """Return where two workers on (x - 1)^2 / 2 and 4 (x + 1)^2 / 2 meet after some rounds from 1."""
    strategy = {"kind": "local_sgd", "period": period}
    experiment = _built(strategy, 2, max_steps=period * rounds)
    task = replace(experiment.task, model=_two_bowls(), partition=Partition(_by_remainder))
    return float(run_scenario(replace(experiment, task=task)).models[0]["weight"][0])


def _two_bowls() -> Model:
    def apply(params: Any, ids: jax.Array) -> Any:
        import jax.numpy as jnp

        is_odd = ids % 2 == 1
        return 0.5 * jnp.where(is_odd, 4.0, 1.0) * (params["weight"][0] - jnp.where(is_odd, -1.0, 1.0)) ** 2

    def init(_key: Any, _shape: tuple[int, ...], _num_outputs: int) -> Any:
        import jax.numpy as jnp

        return {"weight": jnp.ones(1)}

    return Model(init, apply, loss=lambda outputs, _targets: outputs)


def _by_remainder(targets: np.ndarray, num: int, _stream: np.random.Generator) -> list[np.ndarray]:
    import numpy as np

    return [np.arange(block, len(targets), num, dtype=np.int32) for block in range(num)]


def verify_stationary_variance() -> Iterator[Check]:
    """Synchronous SGD ends eta sigma^2 / (N a (2 - eta a)) around the optimum: twice the workers, half of that."""
    import numpy as np

    dim = 8_000
    for n, expected in ((8, 0.0138889), (16, 0.00694444)):
        scenario = {
            **tiny_scenario("all_reduce", n),
            "model": {"kind": "quadratic", "dim": dim, "noise": 1.0, "start": 0.0},
            "data": {"kind": "none", "num_samples": 1024},  # more than are used: no row comes twice
            "batch_size": 1,
            "optimizer": {"kind": "sgd", "learning_rate": 0.2},
            "max_steps": 60,
        }
        got = float(np.mean(run_scenario(scenario).models[0]["weight"] ** 2))
        # Each coordinate is one independent, normal sample: the deviation of its square is sqrt(2) of the mean.
        name = f"all_reduce N={n}, variance around the optimum"
        yield compare(name, expected, got, "eta s^2 / (N a (2 - eta a))", four_errors(math.sqrt(2), dim))


# --- gossip -------------------------------------------------------------------------------------------------------


def verify_gossip() -> Iterator[Check]:
    """How ranks come together that only mix: by the second eigenvalue per step, or all at once."""
    import numpy as np

    # Other modes have died out by the first of the two steps that are compared.
    for n, expected, first in ((8, 0.80474, 12), (16, 0.94925, 60)):
        early, late = (_distance(_mixed("d_psgd", n, steps)[0]) for steps in (first, first + 4))
        yield compare(f"d_psgd ring N={n}, distance per step", expected, (late / early) ** 0.25, "lambda_2", 2e-4)
    for n in (2, 8, 16):
        steps = n.bit_length() - 1
        start, _ = _mixed("all_reduce", n, 1)
        models, weights = _mixed("sgp", n, steps)
        far = float(np.abs(models - start[0]).max() / np.abs(start).max())
        yield compare(f"sgp N={n}, off the mean after {steps} steps", 0.0, far, "arXiv 1811.10792", FLOAT32)
        yield compare(f"sgp N={n}, sum of weights", n, sum(weights), "conservation")


def _mixed(kind: str, n: int, steps: int) -> tuple[np.ndarray, list[float]]:
    """Return the parameters of ranks that only mix, and the weights of their last step."""
    models, outcome = run_ranks({**tiny_scenario(kind, n), **APART, "trace": "steps", "max_steps": steps})
    return models, [report.rows[-1].get("push_weight", 1.0) for report in outcome.reports]


def _distance(models: np.ndarray) -> float:
    import numpy as np

    return float(np.linalg.norm(models - models.mean(axis=0)))
