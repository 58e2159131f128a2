"""Codecs against what their table promises, and known numbers: `psgdsim verify codecs`."""

from __future__ import annotations

from collections.abc import Iterator

from psgdsim.testing.checks import Check
from psgdsim.testing.codec_laws import check_row
from psgdsim.testing.codec_numbers import verify_numbers
from psgdsim.testing.codec_rows import ROWS
from psgdsim.testing.verify_accuracy import verify_codec_accuracy


def verify_codecs() -> Iterator[Check]:
    """Compare sizes, means, variances, contractions and symmetries of all codecs with theory, then train with some."""
    yield from verify_numbers()
    for row in ROWS:
        yield from check_row(row)
    yield from verify_codec_accuracy()
