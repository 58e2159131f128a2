"""The process of one rank of a real run."""

from __future__ import annotations

import asyncio
import os
import sys

from psgdsim._version import __version__
from psgdsim.errors import PsgdsimError
from psgdsim.real import control, launch, parent
from psgdsim.real.channel import Channel
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.participant import Build, Participant
from psgdsim.real.transport import Listener, connect
from psgdsim.scenario.experiment import Experiment

HEARTBEAT_TIMEOUT = 10.0
"""How long the coordinator may be silent before the scenario, which may say otherwise, is known [s]."""


def build_experiment(text: str) -> Experiment:
    """Return the experiment of a scenario's text."""
    from psgdsim import scenario
    from psgdsim.compilation import use_cache_on_disk
    from psgdsim.scenario.experiment import build

    use_cache_on_disk()
    return build(scenario.loads(text))


async def take_part(host: str, port: int, *, token: str = "", build: Build = build_experiment) -> int:
    """Join a run as one rank, until it ends (see `Participant.run`).

    Args:
        host: where the coordinator listens.
        port: where the coordinator listens.
        token: what the coordinator's token is.
        build: makes the experiment from the scenario's text.
    """
    secret = token.encode()
    connection = await connect(host, port, secret, Claim(Role.WORKER))
    listener = Listener(connection.local_host, 0, _complain)
    channel = Channel(connection, HEARTBEAT_TIMEOUT)
    participant = Participant(channel, listener, secret, build)
    channel.heartbeat = participant.heartbeat
    try:
        await channel.send(control.Hello(__version__, os.getpid(), listener.port))
        return await participant.run()
    finally:
        await listener.close()
        await channel.close()


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def main(host: str, port: int, *, build: Build = build_experiment) -> int:
    """Run one worker process.

    Args:
        host: where the coordinator listens.
        port: where the coordinator listens.
        build: makes the experiment from the scenario's text.

    Returns:
        The process's exit code.
    """
    parent.end_with_parent()
    try:
        return asyncio.run(take_part(host, port, token=os.environ.get(launch.TOKEN_VARIABLE, ""), build=build))
    except PsgdsimError as error:
        _complain(f"psgdsim worker: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
