"""A server that applies each gradient as it comes and answers its worker alone, as data that a simulator can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psgdsim.strategies.delay_compensation import DelayCompensation


@dataclass(frozen=True)
class AsTheyCome:
    """What the programs of `parameter_server` do with sync `async`, where answers are the parameters as they are.

    When things happen does not depend on values here, nor on what else a program might do. So a simulation may find
    out first when each gradient comes, and then compute all of them in that order.

    Args:
        compensation: how a stale gradient is corrected, or None if it is not.
    """

    compensation: DelayCompensation | None = None

    @staticmethod
    def push(payload: Any) -> Any:
        """Return the message with a coded gradient: the version of the parameters, and the term."""
        return 0, payload, 0

    @staticmethod
    def answer(params: Any) -> Any:
        """Return the message with parameters: their version, and how stale the gradient was or the term."""
        return params, 0, 0

    QUESTION = None
    """What a worker sends to ask for the model."""

    END = None
    """What a worker is answered that is to end."""
