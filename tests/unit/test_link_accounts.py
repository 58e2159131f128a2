"""The tables of links in a run folder: totals, over time, and how many messages were on a link."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psgdsim
from psgdsim import RunResult, results
from psgdsim.trace import Outcome

BASE: dict[str, Any] = {
    "name": "links",
    "seed": 3,
    "world_size": 4,
    "model": {"kind": "quadratic", "dim": 500, "noise": 0.5},
    "data": {"kind": "none"},
    "batch_size": 2,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "broadcast"},
    "topology": {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms"},
    "compute": {"kind": "exponential", "mean": "10 ms"},
    "max_steps": 5,
}
DISTURBANCES: dict[str, Any] = {
    "changes": [
        {"kind": "periodic", "links": "host1.*", "period": "50 ms", "low": 0.2, "shape": "sine"},
        {"kind": "background", "from": "host0", "to": "host3", "size": "1 kB", "interval": "1.7 ms"},
    ],
    "faults": [{"kind": "cut", "ranks": [2], "at": "35 ms", "for": "20 ms"}],
}
MODELS = ["fluid", "fifo", "ideal"]


def run(folder: Path, model: str = "fluid", **changes: Any) -> RunResult:
    return psgdsim.run({**BASE, "network": {"model": model}, **changes}, out=folder)


def matrix(result: RunResult, column: str) -> np.ndarray:
    """Return a column of the series as bins x links."""
    return result.link_series[column].reshape(-1, len(result.links["name"]))


@pytest.mark.parametrize("disturbances", [{}, DISTURBANCES], ids=["healthy", "disturbed"])
@pytest.mark.parametrize("model", MODELS)
def test_the_series_adds_up_to_the_totals(tmp_path: Path, model: str, disturbances: dict[str, Any]) -> None:
    run(tmp_path / "run", model, **disturbances)
    result = psgdsim.load_run(tmp_path / "run")
    starts, ends, used = (matrix(result, name) for name in ("start", "end", "utilisation"))
    assert 128 <= len(starts) <= 256
    assert (matrix(result, "name") == result.links["name"]).all()
    assert (starts == starts[:, :1]).all()
    assert (ends[:-1] == starts[1:]).all()
    assert (starts[0, 0], ends[-1, 0]) == (0, pytest.approx(result.summary["time_s"]))
    assert list(matrix(result, "nbytes").sum(axis=0)) == list(result.links["nbytes"])
    assert (ends - starts)[:, 0] @ used / ends[-1, 0] == pytest.approx(result.links["utilisation"], rel=1e-9)
    assert result.links["nbytes"].min() > 0
    assert used.min() >= 0
    assert used.max() <= 1 + 1e-9 or model == "ideal"


@pytest.mark.parametrize(
    ("model", "down", "most"),
    [("fluid", [3, 3, 3, 3], [3] * 8), ("fifo", [6 / 3, 4 / 3, 5 / 3, 6 / 3], [3, 3, 3, 3, 3, 2, 2, 3])],
)
def test_messages_that_share_a_link_or_wait_for_it(
    tmp_path: Path, model: str, down: list[float], most: list[int]
) -> None:
    """Each rank sends to the others at once, in their order, and each message would take T alone.

    In queues the uplinks have 3, 2 and 1 messages for T each. Ranks 1 to 3 send to rank 0 first, so its downlink has as
    many from T on; that of rank 1 has one from T on and 2 and 1 after 2 T; that of rank 2 has 2, 2 and 1 from 2 T on.
    """
    topology = {**BASE["topology"], "multicast": "unicast"}
    compute = {"kind": "constant", "time": "10 ms"}
    links = run(tmp_path / "run", model, topology=topology, compute=compute, max_steps=1).links
    assert links["queue_max"].tolist() == most
    up = [3 if model == "fluid" else 6 / 3] * 4
    assert links["queue_mean"] / links["utilisation"] == pytest.approx([*up, *down], rel=1e-9)


def test_nothing_queues_where_messages_do_not_feel_each_other(tmp_path: Path) -> None:
    links = run(tmp_path / "run", "ideal").links
    assert np.isnan(links["queue_mean"]).all()
    assert np.isnan(links["queue_max"]).all()


def test_the_tables_have_these_columns(tmp_path: Path) -> None:
    folder = run(tmp_path / "run").folder
    heads = [(folder / name).read_text(encoding="utf-8").split("\n")[0] for name in ("links.csv", "link_series.csv")]
    assert heads == ["name,nbytes,utilisation,queue_mean,queue_max", "start,end,name,nbytes,utilisation"]
    results.write_outcome(tmp_path, {"mode": "real", "world_size": 1}, Outcome(1.0, [], [], []), [])
    assert [(tmp_path / name).read_text(encoding="utf-8") for name in ("links.csv", "link_series.csv")] == [
        f"{head}\n" for head in heads
    ]


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    tables = {(run(tmp_path / name, **DISTURBANCES).folder / "link_series.csv").read_bytes() for name in ("a", "b")}
    assert len(tables) == 1


def test_a_run_without_traffic_has_a_table_of_zeros(tmp_path: Path) -> None:
    result = run(tmp_path / "run", world_size=1)
    assert result.links["nbytes"].tolist() == [0, 0]
    assert not result.link_series["nbytes"].any()
    assert not result.link_series["utilisation"].any()
