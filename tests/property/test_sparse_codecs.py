"""Sparsifiers, sketches, low rank and codecs made of others keep the contract of codecs."""

from __future__ import annotations

import pytest

from psgdsim.testing import check_codec
from psgdsim.testing.codec_rows import QUANTIZERS, ROWS


@pytest.mark.parametrize("row", [row for row in ROWS if row not in QUANTIZERS], ids=lambda row: row.label)
def test_contract(row):
    check_codec(row.make(), keeps_zero=row.keeps_zero)
