"""What all tests share: a tiny scenario, reproducible hypothesis, what was compiled, and real runs one by one."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, and no wall clock: a failure can be repeated, and a slow machine is no failure.
settings.register_profile("psgdsim", derandomize=True, deadline=None, database=None)
settings.load_profile("psgdsim")

CACHE = "JAX_COMPILATION_CACHE_DIR"

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 1,
    "world_size": 3,
    "model": {"kind": "mlp", "hidden": [8], "activation": "tanh"},
    "data": {"kind": "digits"},
    "batch_size": 8,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "ring"},
    "topology": {"kind": "star", "bandwidth": "100 Mbit/s", "latency": "200 us", "multicast": "native"},
    "compute": {"kind": "shifted_exponential", "shift": "2 ms", "mean": "1 ms"},
    "max_steps": 4,
}


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A scenario of three ranks and four steps, for the test to change as it likes."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def template() -> Iterator[None]:
    """Let all real runs fork their processes from one template, which imports jax once for all of them."""
    from psgdsim.real import launch

    with launch.kept_template():
        yield


@pytest.fixture(autouse=True)
def _start_from_the_template(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("real") is not None:
        request.getfixturevalue("template")


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of this run share what they compile: half of it would be compiled several times over."""
    if CACHE in os.environ or "PSGDSIM_CACHE_DIR" in os.environ:
        return
    os.environ[CACHE] = folder = tempfile.mkdtemp(prefix="psgdsim-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(lambda: os.environ.pop(CACHE))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all tests that start processes of their own on one worker, so that they do not crowd each other out."""
    for item in items:
        if item.get_closest_marker("real") is not None:
            item.add_marker(pytest.mark.xdist_group("real"))
