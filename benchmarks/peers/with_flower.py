"""Synchronous SGD in Flower's simulation engine with PyTorch, as in its quickstart, with one local step per round.

Its own `FedAvg` strategy on its back end of Ray actors, one core each, so that all cores are at work (by default an
actor takes two). A client keeps its shard of the rows in its actor's memory and draws 32 of them anew for each round;
no evaluation. The engine asks every 0.1 s whether all answers are there, which at few clients is most of a round.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_perceptron import RATE, ROWS, Perceptron

DATA = "PEERS_DATA"
"""The environment variable that tells an actor where the rows are."""

client_app = ClientApp()


@functools.cache
def _all_rows() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(os.environ[DATA]) as arrays:
        return torch.as_tensor(arrays["inputs"]), torch.as_tensor(arrays["targets"], dtype=torch.int64)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Take one step from the parameters that the server sent, and return the new ones."""
    inputs, targets = _all_rows()
    index, num = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    rows = torch.randint(len(inputs[index::num]), (ROWS,)) * num + index
    model = Perceptron()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    optimizer.zero_grad()
    loss = model.loss(inputs[rows], targets[rows])
    loss.backward()
    optimizer.step()
    answer = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"train_loss": loss.item(), "num-examples": ROWS}),
    }
    return Message(content=RecordDict(answer), reply_to=message)


def run_rounds(
    _inputs: np.ndarray, _targets: np.ndarray, num_clients: int, num_rounds: int, after_round: Callable[[Any], None]
) -> list[float]:
    """Train; see `program.py`."""
    torch.manual_seed(0)
    model = Perceptron()
    losses = [model.mean_loss(*_all_rows())]
    server_app = ServerApp()

    def count(number: int, _arrays: ArrayRecord) -> None:
        if number:
            after_round(lambda: None)

    @server_app.main()
    def serve(grid: Grid, _context: Context) -> None:
        result = FedAvg(fraction_evaluate=0.0, min_available_nodes=num_clients).start(
            grid, ArrayRecord(model.state_dict()), num_rounds, evaluate_fn=count
        )
        model.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app,
        client_app,
        num_supernodes=num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return [*losses, model.mean_loss(*_all_rows())]
