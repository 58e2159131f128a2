from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from psgdsim.tables import plain_text, read_table, table_text


def _through_a_file(folder: Path, text: str) -> dict[str, np.ndarray]:
    (folder / "t.csv").write_bytes(text.encode("utf-8"))
    return read_table(folder / "t.csv")


def test_a_table_is_read_back_with_its_types(tmp_path: Path) -> None:
    rows = [{"rank": 0, "loss": 0.1, "time": 1e-17}, {"rank": 1, "loss": None, "time": 2.0, "extra": 5}]
    table = _through_a_file(tmp_path, table_text(("rank", "time", "loss"), rows))
    assert list(table) == ["rank", "time", "loss", "extra"]
    assert table["rank"].dtype.kind == "i"
    np.testing.assert_array_equal(table["rank"], [0, 1])
    np.testing.assert_array_equal(table["time"], [1e-17, 2.0])
    np.testing.assert_array_equal(table["loss"], [0.1, np.nan])
    np.testing.assert_array_equal(table["extra"], [np.nan, 5.0])


def test_an_empty_file_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t\.csv: expected a table with a header; the file is empty"):
        _through_a_file(tmp_path, "")


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    table = _through_a_file(tmp_path, table_text(("rank", "step"), []))
    assert list(table) == ["rank", "step"]
    assert all(len(column) == 0 for column in table.values())


def test_floats_survive_the_table_to_the_last_bit(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308]
    table = _through_a_file(tmp_path, table_text(("x",), [{"x": value} for value in values]))
    assert table["x"].tolist() == values


def test_a_column_that_is_no_number_is_text(tmp_path: Path) -> None:
    table = _through_a_file(tmp_path, plain_text(("name", "n"), [("a, b", 1), ("c", None), ("3", 2)]))
    assert table["name"].tolist() == ["a, b", "c", "3"]
    np.testing.assert_array_equal(table["n"], [1, np.nan, 2])
