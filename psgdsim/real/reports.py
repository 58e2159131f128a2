"""What a worker tells the coordinator about its rank: signs of life, a failure, and the report at the end."""

from __future__ import annotations

import traceback
from typing import Any, Final

import msgspec

from psgdsim import trees, wire
from psgdsim.errors import PeerLost, PsgdsimError
from psgdsim.real import control
from psgdsim.real.node import RealNode

MAX_CAUSE: Final = 10_000
"""Longest text of a failure [characters]."""

MAX_WAITS: Final = 5
"""Receives that a sign of life names at most."""


def heartbeat(node: RealNode | None, *, is_running: bool) -> control.Heartbeat:
    """Return a sign of life that says how far a rank is.

    Args:
        node: the rank's node, if it has one yet.
        is_running: whether its program runs.
    """
    if node is None:
        return control.Heartbeat()
    row: dict[str, Any] = node.log.rows[-1] if node.log.rows else {"step": 0, "time": 0.0}
    loss = trees.numbers(row.get("loss"))
    is_number = loss is not None and getattr(loss, "size", 1) == 1
    return control.Heartbeat(
        step=row["step"],
        time=row["time"],
        loss=float(loss) if is_number else None,
        nbytes=node.log.sent_nbytes,
        state=node.state if is_running else "ended",
        waits=node.waits[:MAX_WAITS],
        messages_sent=node.messages_sent,
        messages_received=node.messages_received,
    )


def failure(where: str, error: BaseException) -> control.Failed:
    """Return what to say of an error; of one that is not psgdsim's own, with the line that raised it.

    Args:
        where: how far the rank had come.
        error: why it cannot go on.
    """
    cause = str(error)
    if not isinstance(error, PsgdsimError):
        last = traceback.extract_tb(error.__traceback__)[-1:]
        place = "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
        cause = f"{type(error).__name__}: {error}{place}"
    return control.Failed(where, cause[:MAX_CAUSE], error.peer if isinstance(error, PeerLost) else None)


def parts(node: RealNode, sent_nbytes: int, control_nbytes: int, *, with_models: bool) -> list[control.Part]:
    """Return a rank's report in pieces.

    Args:
        node: the rank's node, to which nothing happens any more.
        sent_nbytes: what its sockets counted for its program's messages [byte].
        control_nbytes: and for all else [byte].
        with_models: whether its models are the run's, and come, too.
    """
    models = trees.numbers(list(node.models))
    report = node.log.report(trees.numbers, trees.digest(models), len(node.mailbox.unread))
    report.sent_nbytes, report.control_nbytes = sent_nbytes, control_nbytes
    pieces = control.parts("report", msgspec.msgpack.encode(report))
    return [*pieces, *control.parts("models", wire.pack(models))] if with_models else pieces
