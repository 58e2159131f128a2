"""What laws of `Node` are made of: the table of all of them, and a few things they share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from psgdsim.node import Kernel, Node

Law = Callable[[Node], Coroutine[Any, Any, None]]

LAWS: dict[str, Law] = {}
"""All laws by name; each is a program that every worker runs, and raises if the law is broken."""

SERVER_PARTS: dict[str, Law] = {}
"""What servers run of a law, by its name; of others, nothing."""

EPILOGUES: dict[str, Law] = {}
"""What belongs to a law, by its name, but comes after the last step."""


def law(program: Law) -> Law:
    """Add a program to the laws, under its own name."""
    LAWS[program.__name__] = program
    return program


def expect(got: object, expected: object) -> None:
    """Raise unless two things are equal.

    Raises:
        AssertionError: says both.
    """
    if got != expected:
        raise AssertionError(f"expected {expected!r}; got {got!r}")


def _filled(number: float, size: int = 3) -> Any:
    import jax.numpy as jnp

    return jnp.full((size,), number, jnp.float32)


FILL = Kernel("fill", _filled)
"""`(number, size=3)`: a vector of one number."""

DOUBLE = Kernel("double", lambda tree: {name: 2 * leaf for name, leaf in tree.items()})
"""`(dict of values)`: twice each."""


async def numbers(node: Node, value: Any) -> list[float]:
    """Return the numbers of a vector."""
    return [float(number) for number in await node.read(value)]
