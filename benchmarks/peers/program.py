"""Measure one peer in its own environment: the program that `run.py` starts there.

    python program.py PEER DATA CLIENTS ROUNDS RESULT

PEER names the module `with_PEER`; DATA is an .npz with `inputs` (float32, shape `(rows, 784)`) and `targets` (class
numbers); RESULT is the JSON file to write.

The module's `run_rounds(inputs, targets, num_clients, num_rounds, after_round)` trains for that many rounds and calls
`after_round(finish)` after each; `finish()` waits until the parameters are there, for a peer that computes ahead. It
returns the mean loss over all rows before and after, which shows that the peer did train.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


class Stopwatch:
    """Time the second half of the rounds: what is compiled or started once is in the first.

    Only the ends of the halves wait for the peer, so that what it computes ahead stays ahead.

    Args:
        num_rounds: how many there will be.
    """

    def __init__(self, num_rounds: int) -> None:
        self._half = num_rounds // 2
        self._last = num_rounds
        self._count = 0
        self._start = 0.0
        self.round_s = 0.0

    def after_round(self, finish: Callable[[], object]) -> None:
        """Count a round."""
        self._count += 1
        if self._count in {self._half, self._last}:
            finish()
        if self._count == self._half:
            self._start = time.perf_counter()
        elif self._count == self._last:
            self.round_s = (time.perf_counter() - self._start) / (self._last - self._half)


def main() -> None:
    """Measure and write the result."""
    peer, data, num_clients, num_rounds, result = sys.argv[1:]
    with np.load(data) as arrays:
        inputs, targets = arrays["inputs"], arrays["targets"]
    stopwatch = Stopwatch(int(num_rounds))
    module = importlib.import_module(f"with_{peer}")
    losses = module.run_rounds(inputs, targets, int(num_clients), int(num_rounds), stopwatch.after_round)
    Path(result).write_text(json.dumps({"round_s": stopwatch.round_s, "losses": losses}), encoding="utf-8")


if __name__ == "__main__":
    main()
