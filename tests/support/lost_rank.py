"""Real ranks that die: a plugin with which the rank of `loss_laws` kills its own process."""

from __future__ import annotations

import os
import signal

from psgdsim.testing import loss_laws

_wait = loss_laws.wait_to_be_lost


async def _wait_and_die(node):
    node.spawn(_wait(node))
    await node.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


loss_laws.wait_to_be_lost = _wait_and_die
