"""Where arrays are when jax has several devices: rows are spread over all of them, what rows share is on each.

All that `batched` compiles takes its arrays from all devices, and leaves its results on them, so that any of them may
meet in one call. An array that comes from elsewhere is put there when it is first used. With one device nothing is put
anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

Place = Literal["rows", "shared"]
"""`rows`: along the first axis, a part on each device; `shared`: all of it on each device."""

AXIS: Final = "rows"
"""The only axis of the mesh."""


@functools.cache
def _mesh() -> Any:
    """Return all devices of this process in a row; None if there is one alone."""
    import jax

    devices = jax.local_devices()
    return jax.sharding.Mesh(devices, (AXIS,)) if len(devices) > 1 else None


def num_devices() -> int:
    """Return how many devices rows are spread over; their number must be a multiple of that."""
    return 1 if _mesh() is None else int(_mesh().size)


@functools.cache
def _sharding(place: Place) -> Any:
    import jax

    return jax.sharding.NamedSharding(_mesh(), _spec(place))


def _spec(place: Place) -> Any:
    import jax

    spec: Any = jax.sharding.PartitionSpec
    return spec(AXIS) if place == "rows" else spec()


def places(layouts: Sequence[str]) -> list[Place]:
    """Return where the inputs of a segment are.

    Args:
        layouts: how rows find them: `row` or `shared`.
    """
    return ["rows" if layout == "row" else "shared" for layout in layouts]


def put(array: Any, place: Place) -> Any:
    """Return an array that is where it should be: the same one if it is there already, or if there is one device.

    Args:
        array: of jax or numpy.
        place: where it should be.
    """
    if _mesh() is None:
        return array
    import jax

    sharding = _sharding(place)
    if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(sharding, array.ndim):
        return array
    return jax.device_put(array, sharding)


def jit(function: Callable[..., Any], places: Place | tuple[Place, ...], **settings: Any) -> Callable[..., Any]:
    """Return a function, jitted.

    Args:
        function: takes arrays of all devices, or of numpy.
        places: where its result is, or each part of it.
        settings: other arguments of `jax.jit`.
    """
    import jax

    if _mesh() is not None:
        settings["out_shardings"] = _sharding(places) if isinstance(places, str) else tuple(map(_sharding, places))
    jitted: Callable[..., Any] = jax.jit(function, **settings)
    return jitted


def spread(function: Callable[..., Any], inputs: Sequence[Place]) -> Callable[..., Any]:
    """Return a function that is run on all devices, on each with its part of the rows.

    Args:
        function: `(consts, inputs, weights) -> (leaves of all rows, totals)`, as of a segment.
        inputs: where each input is.

    Returns:
        The same for the rows of all devices together, whose totals are added up.
    """
    if _mesh() is None:
        return function
    import jax

    def part(consts: Any, inputs: Any, weights: Any) -> tuple[Any, Any]:
        live, totals = function(consts, inputs, weights)
        add_up: Any = jax.lax.psum
        return live, add_up(totals, AXIS)

    in_specs = _spec("shared"), [_spec(place) for place in inputs], _spec("rows")
    out_specs = _spec("rows"), _spec("shared")
    # Unchecked: else gradients at shared parameters would be added up over the devices at every chunk.
    spread: Callable[..., Any] = jax.shard_map(
        part, mesh=_mesh(), in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return spread
