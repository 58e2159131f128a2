"""What links have done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LinkUsage:
    """What a link has done so far.

    Args:
        name: the link's.
        nbytes: what it has carried, headers of messages included [byte].
        busy: for how long it would have been busy with that at its full bandwidth [s]; counts what TCP adds, too.
    """

    name: str
    nbytes: float
    busy: float


def utilisation(usage: Iterable[LinkUsage], time: float) -> dict[str, float]:
    """Return the part of its capacity that each link has used over a time.

    Args:
        usage: what each link has done.
        time: in how long [s]; more than 0.
    """
    return {each.name: each.busy / time for each in usage}
