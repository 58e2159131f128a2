"""Less garbage collection: a simulation makes and drops objects by the million, and few of them in cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG: Final = 100_000
YOUNG_OF_RANK: Final = 400
"""So many objects more than before are there when Python looks for garbage among them, all in all and for each rank: a
rank's round makes and drops a few dozen, and those that live must not be looked through in every round."""

OLDER: Final = 20
"""So often it looks at the young before it looks at the older, too."""


@contextmanager
def rare_collections(num_ranks: int) -> Iterator[None]:
    """Let Python look for cycles of garbage less often than it would while a block runs."""
    before = gc.get_threshold()
    gc.set_threshold(max(YOUNG, YOUNG_OF_RANK * num_ranks), OLDER, OLDER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
