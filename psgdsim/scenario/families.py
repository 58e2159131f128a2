"""The families of parts that a scenario may name: built in, and of installed plugins."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Final

from psgdsim.codecs.base import codecs
from psgdsim.compute_times import compute_times
from psgdsim.data.base import datasets, partitions
from psgdsim.errors import PsgdsimError
from psgdsim.models.base import models
from psgdsim.optimizers import optimizers, schedules
from psgdsim.registry import Family
from psgdsim.scenario import change_kinds  # noqa: F401 - registers the built-in changes
from psgdsim.scenario.changes import changes
from psgdsim.scenario.faults import faults
from psgdsim.strategies.base import strategies
from psgdsim.strategies.delay_compensation import delay_compensations
from psgdsim.topologies.base import topologies

FAMILIES: Final[dict[str, Family]] = {
    "models": models,
    "datasets": datasets,
    "partitions": partitions,
    "strategies": strategies,
    "delay_compensations": delay_compensations,
    "codecs": codecs,
    "optimizers": optimizers,
    "schedules": schedules,
    "topologies": topologies,
    "compute": compute_times,
    "changes": changes,
    "faults": faults,
}
"""Every family, under the name that `psgdsim list` gives it."""

BY_PRODUCT: Final[dict[type, Family]] = {family.product: family for family in FAMILIES.values()}
"""The family whose factories return a class: a parameter annotated with that class is a nested spec."""

ENTRY_POINT_GROUP: Final = "psgdsim.plugins"


def import_plugin(module: str) -> None:
    """Import a module that registers parts.

    Raises:
        PsgdsimError: it cannot be imported; the message names the reason.
    """
    try:
        importlib.import_module(module)
    except PsgdsimError:
        raise
    except (Exception, SystemExit) as error:
        advice = "; is it installed, or its folder on PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
        raise PsgdsimError(f"cannot import {module!r}: {type(error).__name__}: {error}{advice}") from error


@cache
def import_installed_plugins() -> None:
    """Import the modules that installed packages name in the entry-point group `psgdsim.plugins`, once.

    Raises:
        PsgdsimError: one of them cannot be imported.
    """
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        import_plugin(entry_point.module)
