"""Synchronous SGD in pfl-research with PyTorch, as in its guide to federated averaging, with one local step per round.

Its own `FederatedAveraging` on its simulated back end, in one process. A user of a round is 32 rows drawn anew from all
rows, which is how it makes users of data without any; no evaluation after the first round, no privacy mechanism,
no printing. PyTorch has one thread: with two on two cores, a round of 8 clients took 10 ms or 300 ms instead of 11,
depending on whether another process wanted a core. pfl's own way to use several cores is several processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import ArtificialFederatedDataset
from pfl.data.sampling import get_data_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch_perceptron import RATE, ROWS, Perceptron


class MeasuredPerceptron(Perceptron):
    """The perceptron with the metrics that pfl asks for."""

    def metrics(self, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
        """Return the loss, weighted by rows."""
        return {"loss": Weighted(self.mean_loss(inputs, targets) * len(inputs), len(inputs))}


class AfterRound(TrainingProcessCallback):
    """Call a function after each round."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        """Call it; never stop."""
        self._function(lambda: None)
        return False, Metrics()


def run_rounds(
    inputs: np.ndarray, targets: np.ndarray, num_clients: int, num_rounds: int, after_round: Callable[[Any], None]
) -> list[float]:
    """Train; see `program.py`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = [torch.as_tensor(inputs), torch.as_tensor(targets, dtype=torch.int64)]
    users = ArtificialFederatedDataset.from_slices(
        rows, get_data_sampler("random", max_bound=len(inputs)), lambda: ROWS, create_dataset_fn=Dataset
    )
    network = MeasuredPerceptron()
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    losses = [network.mean_loss(*rows)]
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=num_rounds,
            evaluation_frequency=num_rounds,
            train_cohort_size=num_clients,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        model_train_params=NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=ROWS),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[AfterRound(after_round)],
        send_metrics_to_platform=False,
    )
    return [*losses, network.mean_loss(*rows)]
