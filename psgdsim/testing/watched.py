"""A simulation that can be cancelled, and that says what its programs have left behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from psgdsim.errors import StrategyError
from psgdsim.node import Message
from psgdsim.scenario.experiment import Experiment
from psgdsim.sim.coroutines import OrderedMailbox
from psgdsim.sim.driver import Simulation
from psgdsim.sim.node import SimNode

TIME_LIMIT: Final = 1e7
"""A run that goes on for so long [s of virtual time] never ends."""


class CancelledRunError(StrategyError):
    """A run was cancelled on purpose."""


class WatchedSimulation(Simulation):
    """A simulation that says what its programs have left behind.

    Args:
        experiment: what to run.
        cancel_at: when all programs are cancelled, if they have not ended [s].
    """

    def __init__(self, experiment: Experiment, cancel_at: float = math.inf) -> None:
        super().__init__(experiment)
        self._watched = [_WatchedNode(self, rank) for rank in range(experiment.num_ranks)]
        self.nodes[:] = self._watched
        self.accounts.series.edge = math.inf  # what links carry over time takes a third of a run, and nobody looks
        self._call_at(TIME_LIMIT, self._look_closely)
        self.was_cancelled = False
        if cancel_at < math.inf:
            self._call_at(cancel_at, self._cancel)

    def _call_at(self, delay: float, action: Callable[[], None]) -> None:
        self.env.timeout(delay).callbacks.append(lambda _: action())

    def _look_closely(self) -> None:
        self.look()  # finds out whether they all wait for each other; if not, they go on for ever
        self._call_at(TIME_LIMIT, lambda: self.fail(0, StrategyError("it goes on for ever")))

    def _cancel(self) -> None:
        """End the run as an error does."""
        self.was_cancelled = True
        self.fail(0, CancelledRunError("cancelled on purpose"))

    def unfinished(self) -> list[str]:
        """Return what goes on that should have ended with the run."""
        found = [f"rank {node.rank}: {node.num_left} coroutines go on" for node in self._watched if node.num_left]
        return found + [str(each.error) for each in self._programs if each.is_cancelled and each.error is not None]

    def unreceived(self) -> dict[int, list[str]]:
        """Return, for each rank, the messages that it was sent and has not received."""
        return {node.rank: node.unreceived() for node in self._watched if node.unreceived()}


class _WatchedNode(SimNode):
    """A rank that can be asked what it has left behind."""

    def __init__(self, simulation: Simulation, rank: int) -> None:
        super().__init__(simulation, rank)
        self.mailbox = self._watched_mailbox = _WatchedMailbox()

    @property
    def num_left(self) -> int:
        """How many coroutines have not ended."""
        return len(self._jobs) + len(self.mailbox.waiters)

    def unreceived(self) -> list[str]:
        """Return the messages that have come and were not received, or are still under way."""
        come = [(message, "not received") for message in self.mailbox.unread]
        due = [(message, "still under way") for message in self._watched_mailbox.due]
        return [f"{message.tag!r} from rank {message.src} {fate}" for message, fate in come + due]


class _WatchedMailbox(OrderedMailbox):
    """A mailbox that can be asked what is under way."""

    @property
    def due(self) -> list[Message]:
        """What was sent and has not been delivered."""
        return [due.message for due in self._dues.values()]
