"""With several devices, batches are spread over all of them, and compute what one device computes, but for rounding."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import device_runs
import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("devices")  # all need what one process has done

NUM_DEVICES = 4
TOLERANCE = 1e-5
"""Largest difference of a parameter, relative to the largest parameter."""


@pytest.fixture(scope="module")
def on_four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """Return the models that a process with four devices has trained, and where its rows were."""
    path = tmp_path_factory.mktemp("devices") / "models.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={NUM_DEVICES}"
    # As in pyproject.toml: what another process still writes to the cache is compiled here.
    ignored = [f"-Wignore:Error {what} persistent compilation cache entry" for what in ("reading", "writing")]
    ended = subprocess.run(
        [sys.executable, "-Werror", *ignored, str(Path(device_runs.__file__)), str(path)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return np.load(path), json.loads(ended.stdout)


def test_rows_lie_on_all_devices(on_four: tuple[Any, dict[str, Any]]) -> None:
    _, places = on_four
    assert places["one stack"]
    assert places["rows per device"] == {str(i): 3 for i in range(NUM_DEVICES)}
    assert places["rows"] == 3 * NUM_DEVICES
    assert places["numbers"] == pytest.approx([math.sin(i) for i in range(device_runs.NUM)], abs=1e-6)


def test_a_total_is_on_each_device_and_of_all_rows(on_four: tuple[Any, dict[str, Any]]) -> None:
    _, places = on_four
    assert (places["total"], places["total is on each"]) == (NUM_DEVICES, True)
    assert places["sum"] == pytest.approx(sum(math.sin(i) for i in range(device_runs.NUM)), abs=1e-5)


@pytest.mark.parametrize("name", device_runs.RUNS)
def test_several_devices_train_the_model_of_one(name: str, on_four: tuple[Any, dict[str, Any]]) -> None:
    models, _ = on_four
    for i, leaf in enumerate(device_runs.model_of(name, "exact")):
        assert np.abs(models[f"{name} {i}"] - leaf).max() <= TOLERANCE * np.abs(leaf).max()
