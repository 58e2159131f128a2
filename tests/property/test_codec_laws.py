"""Every codec is as small, as true and as symmetric as its row of the table says; a row that says too much is found."""

from __future__ import annotations

import dataclasses

import pytest

from psgdsim import codecs
from psgdsim.testing.codec_laws import check_row
from psgdsim.testing.codec_rows import ROWS, CodecRow


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_what_the_table_promises(row):
    checks = list(check_row(row))
    assert checks
    assert [check for check in checks if not check.is_right] == []


def test_a_row_of_a_codec_that_packs_says_how_small():
    for row in ROWS:
        assert (row.make().pack is None) == (row.packed_bits is None), row.label


def test_packed_messages_that_are_larger_than_promised_are_found():
    (row,) = (row for row in ROWS if row.label == "top_k, the shortest indices")
    assert row.packed_bits is not None
    changed = dataclasses.replace(row, packed_bits=lambda x: row.packed_bits(x) - x.size // 8)
    wrong = [check.name for check in check_row(changed) if not check.is_right]
    assert wrong == ["top_k, the shortest indices: packed bits, less the bound"]


TERNARY = CodecRow("terngrad", lambda: codecs.terngrad(clip=None), lambda d: 32 + 8 * -(-2 * d // 8))


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"bits": lambda d: 32 + 2 * d}, ["terngrad: bits of 1, 2, 3, 20, 1001 values"]),
        ({"omega": lambda d: d**0.5}, []),
        ({"omega": lambda _: 1.0}, ["terngrad: variance / ||x||^2"]),
        ({"make": codecs.terngrad, "omega": lambda d: d**0.5}, ["terngrad: z-score of the mean"]),
        ({"delta": lambda d: 1 / d}, ["terngrad: error / ||x||^2"]),
        (
            {"make": lambda: codecs.sgq(bits=2), "is_odd": False},
            ["terngrad: C(2 x) - 2 C(x)", "terngrad: C(0.5 x) - 0.5 C(x)"],
        ),
        ({"make": lambda: codecs.laq_grid(2)}, ["terngrad: C(-1 x) - -1 C(x), some of x are 0"]),
        (
            {
                "make": lambda: codecs.power_sgd(3),
                "bits": lambda d: {1: 64, 2: 96, 3: 128, 20: 864, 1001: 14400}[d],
                "delta": lambda _: 1.0,
                "shape": lambda d: {1: (1, 1), 2: (1, 2), 3: (1, 3), 20: (4, 5), 100: (10, 10), 1001: (7, 143)}[d],
            },
            ["terngrad: error / ||x||^2"],
        ),
        (
            {"make": codecs.sign, "bits": lambda d: 8 * -(-d // 8), "is_odd_with_zeros": False},
            ["terngrad: C(2 x) - 2 C(x)", "terngrad: C(0.5 x) - 0.5 C(x)"],
        ),
    ],
)
def test_a_row_that_promises_too_much_is_found(changes, wrong):
    row = dataclasses.replace(TERNARY, **changes)
    assert [check.name for check in check_row(row) if not check.is_right] == wrong
