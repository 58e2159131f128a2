"""The last loss that is known, for whoever wants to know how a run is getting on."""

from __future__ import annotations

import itertools
from typing import Final

from psgdsim.sim.values import Value
from psgdsim.trace import RankLog

MAX_LOOK_BACK: Final = 256
"""Steps in which a loss that is known is looked for."""


def last_loss(log: RankLog) -> float | None:
    """Return the last loss of a rank that is known; nothing is computed for that."""
    for row in itertools.islice(reversed(log.rows), MAX_LOOK_BACK):
        loss = row.get("loss")
        if not isinstance(loss, Value):
            return None if loss is None else float(loss)
        if loss.is_ready:
            return float(loss.numbers.ravel()[0])
    return None
