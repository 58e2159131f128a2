from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psgdsim import RunResult, report
from psgdsim.errors import PsgdsimError
from psgdsim.results import write_text

SERIES = """start,end,name,nbytes,utilisation
0.0,0.5,a,0,{most}
0.0,0.5,b,0,0.25
0.0,0.5,c,0,0.0
0.0,0.5,d,0,0.5
0.5,0.75,a,0,1.0
0.5,0.75,b,0,0.0
0.5,0.75,c,0,0.0
0.5,0.75,d,0,0.75
"""


@pytest.fixture(autouse=True)
def _no_display() -> Iterator[None]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


def _result(folder: Path, series: str) -> RunResult:
    write_text(folder / "link_series.csv", series)
    return RunResult(folder, {"mode": "sim"})


def _rows(axes: Any) -> dict[str, list[float]]:
    """Return how high each row is filled, of 1, span by span."""
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    steps = [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]
    return {name: pytest.approx((data.baseline - data.values) / 0.84) for name, data in zip(names, steps, strict=True)}


def test_busiest_links_have_rows_and_the_others_one(tmp_path: Path) -> None:
    axes = report.plot_utilisation(_result(tmp_path, SERIES.format(most=0.5)), num_links=2, title="four links")
    assert axes.get_title(loc="left") == "four links"
    assert _rows(axes) == {"a": [0.5, 1.0], "d": [0.5, 0.75], "mean of 2 others": [0.125, 0.0]}
    assert [text.get_text() for text in axes.texts] == ["66.7%", "58.3%", "8.3%", "mean"]
    assert list(axes.patches[-1].get_data().edges) == [0, 500, 750]
    assert axes.get_xlim() == (0, 750)


def test_all_links_fit_and_the_picture_may_end_early(tmp_path: Path) -> None:
    axes = report.plot_utilisation(_result(tmp_path, SERIES.format(most=0.5)), until=0.25)
    assert list(_rows(axes)) == ["a", "d", "b", "c"]
    assert axes.get_xlim() == (0, 250)


def test_rows_are_as_high_as_the_model_ideal_needs(tmp_path: Path) -> None:
    axes = report.plot_utilisation(_result(tmp_path, SERIES.format(most=2.0)), num_links=1)
    assert _rows(axes)["a"] == [1.0, 0.5]
    capacity = axes.patches[0]
    assert capacity.get_height() == pytest.approx(0.42)


def test_a_run_without_links_has_no_such_picture(tmp_path: Path) -> None:
    empty = _result(tmp_path, "start,end,name,nbytes,utilisation\n")
    with pytest.raises(PsgdsimError, match=r"link_series.csv: nothing over time in it \(mode sim\); expected a run"):
        report.plot_utilisation(empty)


def test_rounding_does_not_order_links(tmp_path: Path) -> None:
    series = "start,end,name,nbytes,utilisation\n0.0,1.0,a,0,0.3\n0.0,1.0,b,0,0.30000000000000004\n0.0,1.0,c,0,0.2\n"
    assert list(_rows(report.plot_utilisation(_result(tmp_path, series)))) == ["a", "b", "c"]
