"""The cache of compiled functions: where it is, and how to do without."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = """
import jax
from psgdsim.compilation import use_cache_on_disk
use_cache_on_disk()
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"PSGDSIM_CACHE_DIR": "/chosen/mine"}, "/chosen/mine/jaxlib-"),
        ({"PSGDSIM_CACHE_DIR": ""}, "None"),
        ({"XDG_CACHE_HOME": "/chosen/user"}, "/chosen/user/psgdsim/jaxlib-"),
        ({"JAX_COMPILATION_CACHE_DIR": "/chosen/jax", "PSGDSIM_CACHE_DIR": "/chosen/mine"}, "/chosen/jax"),
    ],
)
def test_the_cache_is_where_the_user_says(settings, expected):
    kept = {k: v for k, v in os.environ.items() if k not in ("PSGDSIM_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], env={**kept, **settings}, capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith(expected)
