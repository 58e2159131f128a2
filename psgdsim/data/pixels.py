"""Scale pixels to floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Scale = Literal["unit", "centered"]


def scale_pixels(pixels: np.ndarray, largest: int, scale: Scale) -> np.ndarray:
    """Return pixels as float32.

    Args:
        pixels: integers from 0 to `largest`, of any shape.
        largest: the value of white.
        scale: `unit`: pixel / largest, in [0, 1]; `centered`: that minus 0.5, in [-0.5, 0.5].
    """
    scaled = pixels.astype("float32")
    scaled /= largest
    if scale == "centered":
        scaled -= 0.5
    return scaled
