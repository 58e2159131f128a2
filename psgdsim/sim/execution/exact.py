"""Make every call when its program makes it, with the very function that real mode calls."""

from __future__ import annotations

from typing import Any

from psgdsim.node import Kernel
from psgdsim.sim.values import unwrap, wrap


class Exact:
    """Execution call by call: bit-identical to real mode."""

    def call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        """Run a kernel."""
        return wrap(kernel.function(*unwrap(arguments)))

    def finish(self) -> None:
        """Do nothing: all has been computed."""
