"""Less garbage collection: a simulation makes and drops objects by the million, and few of them in cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = (100_000, 20, 20)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for cycles of garbage less often than it would while a block runs."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
