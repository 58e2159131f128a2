"""What has been compiled, and for how many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from psgdsim.sim.execution.devices import num_devices, put
from psgdsim.sim.execution.signature import Signature

MAX_SIZES: Final = 3
"""So many different numbers of rows are compiled as they are; for others, rows are added up to a round number."""


class Compiled:
    """Functions, compiled when they are first needed."""

    def __init__(self) -> None:
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._sizes: dict[Signature, set[int]] = {}
        self._consts: dict[int, tuple[Any, Any]] = {}

    def call(self, what: Any, compiler: Callable[[Any], Callable[..., Any]], *arguments: Any) -> Any:
        """Call what is compiled for something; compile it first if need be.

        Args:
            what: says what is compiled.
            compiler: makes the jitted function from that.
            arguments: of the function.
        """
        function = self._functions.get(what)
        if function is None:
            function = self._functions[what] = compiler(what)
        return function(*arguments)

    def consts(self, signature: Signature) -> tuple[Any, ...]:
        """Return what a kernel closes over, on all devices; kernels share it."""
        if num_devices() == 1:
            return signature.consts
        for each in signature.consts:
            if id(each) not in self._consts:
                self._consts[id(each)] = each, put(each, "shared")
        return tuple(self._consts[id(each)][1] for each in signature.consts)

    def longer(self, signature: Signature, num: int) -> int:
        """Return a number of rows, at least as many as asked, that is compiled or may well be."""
        if self._is_known(signature, num):
            return num
        below = 1 << (num.bit_length() - 1)
        return next(each for each in (below, 3 * below // 2, 2 * below) if each >= num)

    def _is_known(self, signature: Signature, num: int) -> bool:
        sizes = self._sizes.setdefault(signature, set())
        if len(sizes) < MAX_SIZES:
            sizes.add(num)
        return num in sizes
