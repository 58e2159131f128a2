"""Every error that psgdsim raises on purpose.

A message says where it happened, what was got, what was expected and what to do. The command line turns each into
one readable message and the exit code of its class; a traceback is a bug.

An error class takes only positional arguments and passes all of them to `Exception`, because SimPy rebuilds the
exception of a failed process as `type(error)(*error.args)`.
"""

from __future__ import annotations

import difflib
import math
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


class PsgdsimError(Exception):
    """Base of all errors of this package."""

    exit_code = 1


class ScenarioError(PsgdsimError):
    """Reject a scenario; the message lists every problem found, each with its place."""

    exit_code = 2


class DatasetError(PsgdsimError):
    """Report a data set that is missing, damaged or not the one that was named."""

    exit_code = 2


class CheckpointError(PsgdsimError):
    """Reject a tree that cannot be saved, or a file that is damaged or no checkpoint of what it is loaded for."""

    exit_code = 2


class CodecError(PsgdsimError):
    """Reject a payload that a codec cannot decode, or an update that it cannot encode."""


class ProtocolError(PsgdsimError):
    """Reject bytes that are not a valid frame, or a frame that does not belong where it came."""


class StrategyError(PsgdsimError):
    """Report what a strategy found wrong in the data it exchanged."""


class NodeError(PsgdsimError):
    """Base of what a program may see when it communicates."""


class PeerLost(NodeError):
    """A peer died or was cut off.

    Args:
        rank: the rank that noticed.
        peer: the rank that is gone.
        cause: what is known of the reason.
    """

    def __init__(self, rank: int, peer: int, cause: str) -> None:
        super().__init__(rank, peer, cause)
        self.rank, self.peer, self.cause = rank, peer, cause

    def __str__(self) -> str:
        return f"rank {self.rank}: lost rank {self.peer}: {self.cause}"


class RecvTimeout(NodeError):
    """Nothing matching arrived in time.

    Args:
        rank: the rank that waited.
        src: the rank it waited for, or "any rank".
        tag: the tag it waited for.
        timeout: how long it waited [s].
    """

    def __init__(self, rank: int, src: int | str, tag: str, timeout: float) -> None:
        super().__init__(rank, src, tag, timeout)
        self.rank, self.src, self.tag, self.timeout = rank, src, tag, timeout

    def __str__(self) -> str:
        peer = f"rank {self.src}" if isinstance(self.src, int) else self.src
        return f"rank {self.rank}: nothing tagged {self.tag!r} came from {peer} within {self.timeout:g} s"


class ProgramError(NodeError):
    """A program did what no driver can carry out, such as awaiting something that is not a node's awaitable."""


class RankFailed(NodeError):
    """A process of a real run failed or died, and the run with it.

    Args:
        who: the process, such as `"rank 3"` or `"the relay"`.
        where: how far it had come, such as `"step 12"`.
        cause: what happened.
    """

    def __init__(self, who: str, where: str, cause: str) -> None:
        super().__init__(who, where, cause)
        self.who, self.where, self.cause = who, where, cause

    def __str__(self) -> str:
        return f"{self.who}: {self.where}: {self.cause}"


class Interrupted(PsgdsimError):
    """The user or the system asked the run to end.

    Args:
        signum: the signal's number; 2 for Ctrl-C.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        name = {2: "Ctrl-C", 15: "SIGTERM"}.get(self.signum, f"signal {self.signum}")
        return f"interrupted by {name}"


class SimulationError(PsgdsimError):
    """The simulator cannot go on."""


class Deadlock(SimulationError):
    """Every program waits and nothing is under way; the message says who waits for what."""


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return a hint that names the closest valid name, or the valid names.

    Args:
        name: what the user wrote.
        valid: the names that exist.

    Returns:
        Text such as `did you mean 'ring'? (valid: broadcast, ring)`.

    Example:
        >>> nearest("rng", ["ring", "broadcast"])
        "did you mean 'ring'? (valid: broadcast, ring)"
    """
    names = sorted(valid)
    listing = f"valid: {', '.join(names)}" if names else "none exist"
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}? ({listing})" if close else listing


def shown(value: object) -> str:
    """Return a value as a message shows it: as YAML would write it, short, without control characters.

    Args:
        value: what the user wrote.

    Example:
        >>> shown(None), shown("10 Gbps"), shown([1])
        ('null', "'10 Gbps'", 'a list')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(str(value))} characters)"


def place(error: BaseException) -> str:
    """Return where an unforeseen error was raised, as ` (file:line)`: in the user's code if it passed through any.

    Args:
        error: with its traceback.

    Returns:
        The innermost place outside this package and the libraries it uses, or else the innermost of all; empty if
        there is no traceback.
    """
    frames = traceback.extract_tb(error.__traceback__)
    libraries = (_PACKAGE, "<", str(Path(traceback.__file__).parent))
    own = [f for f in frames if not f.filename.startswith(libraries) and "site-packages" not in f.filename]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in (own or frames)[-1:])
