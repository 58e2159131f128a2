"""A frame on its way out: packed, in a thread if it is large, and what is known of it meanwhile."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NamedTuple

from psgdsim import wire
from psgdsim.node import snapshot
from psgdsim.real.connection import Parts, Write

_IN_THREAD_NBYTES = 2**20
"""Larger payloads are packed in a thread, so that the loop stays free."""


class Frame(NamedTuple):
    """A payload packed, or the promise of it."""

    parts: Parts
    tag: str
    nbytes: int
    payload_nbytes: int


class Sending(NamedTuple):
    """A frame that has its place in a connection's queue since `start` [s]."""

    write: Write
    frame: Frame
    dst: int
    copies: int
    start: float


def pack(payload: Any, tag: str, *, src: int, group: int, phase: int) -> Frame:
    """Pack a payload as it is now.

    Args:
        payload: the tree.
        tag: what it is.
        src: the sender's rank.
        group: the multicast group that it is for, 0 for none.
        phase: `REHEARSAL` or `TRAINING`.
    """
    wire.check_tag(tag)
    nbytes, payload_nbytes = wire.nbytes(payload), wire.tensor_nbytes(payload)
    make = partial(wire.pack_parts, snapshot(payload), src=src, tag=tag, group=group, phase=phase)
    is_large = payload_nbytes > _IN_THREAD_NBYTES
    parts: Parts = asyncio.get_running_loop().run_in_executor(None, make) if is_large else make()
    return Frame(parts, tag, nbytes, payload_nbytes)
