"""The perceptron 784-128-128-10 with tanh in PyTorch, for the peers that train its modules."""

from __future__ import annotations

import torch

ROWS, RATE = 32, 0.05


class Perceptron(torch.nn.Module):
    """Return class scores of shape `(rows, 10)` for inputs of shape `(rows, 784)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(784, 128),
            torch.nn.Tanh(),
            torch.nn.Linear(128, 128),
            torch.nn.Tanh(),
            torch.nn.Linear(128, 10),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        return self.layers(inputs)

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy."""
        return torch.nn.functional.cross_entropy(self(inputs), targets)

    def mean_loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        """Return the mean cross entropy as a number, without a gradient."""
        with torch.no_grad():
            return float(self.loss(inputs, targets))
