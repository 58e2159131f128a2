"""strategies.lag and laq: parameters, grids, how stale gradients are, and other codecs, in simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.sim import execution
from psgdsim.strategies.lazy_quantized import from_grid, to_grid

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
BOWL = {"kind": "quadratic", "dim": 4}


@pytest.fixture
def run(tmp_path):
    def start(kind="lag", parameters=None, **changes):
        scenario = {**BASE, "topology": FREE, "strategy": {"kind": kind, **(parameters or {})}, **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


def rows_of(result, rank):
    return {name: column[result.steps["rank"] == rank] for name, column in result.steps.items()}


@pytest.mark.parametrize(
    ("strategy", "codec", "message"),
    [
        ({"kind": "lag", "trigger": "workers"}, "identity", "strategy.trigger: expected one of worker, server; got"),
        ({"kind": "lag", "xi": -0.1}, "identity", "strategy.xi: expected at least 0; got -0.1"),
        ({"kind": "lag", "history": 0}, "identity", "strategy.history: expected at least 1; got 0"),
        (
            {"kind": "lag", "smoothness": 2.0},
            "identity",
            "smoothness: only with trigger 'server'; got trigger 'worker'",
        ),
        (
            {"kind": "lag", "trigger": "server", "smoothness": [1.0, 2.0]},
            "identity",
            r"smoothness: expected one number or 4 of them \(world_size\); got 2",
        ),
        ({"kind": "laq", "bits": 17}, "identity", "strategy.bits: expected at most 16; got 17"),
        ({"kind": "laq"}, "top_k", "codec: laq rounds gradients by itself, .* expected codec 'identity'"),
    ],
)
def test_what_cannot_be_is_refused(strategy, codec, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": strategy, "codec": {"kind": codec}})


# --- the grid -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 11, 16])
@pytest.mark.parametrize("num", [1, 7, 64])
def test_a_change_is_rounded_to_the_nearest_point(bits, num):
    generator = np.random.default_rng(bits)
    gradient, held = ({"a": generator.standard_normal(num).astype(np.float32)} for _ in range(2))
    payload = to_grid(bits).function(gradient, held, 0.5)
    assert sum(np.asarray(leaf).nbytes for leaf in payload.values()) == 4 + -(-bits * num // 8)
    rounded = np.asarray(from_grid(bits).function(payload, held)["a"])
    change = 0.5 * gradient["a"] - held["a"]
    radius = np.abs(change).max()
    points = np.linspace(-radius, radius, 2**bits)
    nearest = points[np.abs(points[None, :] - change[:, None]).argmin(axis=1)]
    # A value half-way between two points, which with one bit no value is, may go either way.
    np.testing.assert_allclose(np.abs(rounded - change), np.abs(nearest - change), atol=1e-6 * radius)
    assert np.abs(rounded - change).max() <= radius / (2**bits - 1) + 1e-6 * radius
    assert rounded[np.abs(change).argmax()] == pytest.approx(change[np.abs(change).argmax()], rel=1e-6)


def test_no_change_is_no_change():
    same = {"a": np.ones(5, np.float32)}
    payload = to_grid(4).function(same, same, 1.0)
    np.testing.assert_array_equal(from_grid(4).function(payload, same)["a"], np.zeros(5))


# --- what is sent and what is kept ----------------------------------------------------------------------------


def test_the_summary_counts_how_stale_gradients_were(run):
    result = run(model=BOWL, max_steps=30)
    server = rows_of(result, 4)
    assert server["uploads"].sum() == (result.steps["staleness"][result.steps["rank"] < 4] == 0).sum() < 30
    for rank in range(4):
        staleness = rows_of(result, rank)["staleness"]
        assert list(rows_of(result, rank)["step"]) == list(range(1, 31))
        assert all(after in (0, before + 1) for before, after in itertools.pairwise(staleness))
    mean = result.steps["staleness"][result.steps["rank"] < 4].mean()
    assert result.summary["staleness"]["mean"] == pytest.approx(mean)
    assert result.summary["bytes"]["payload_total"] == (30 * 4 + server["uploads"].sum()) * 16


def test_workers_that_are_not_called_have_rows_for_the_steps_that_went_by(run):
    result = run(parameters={"trigger": "server", "smoothness": 1.0}, model=BOWL, max_steps=30)
    for rank in range(4):
        rows = rows_of(result, rank)
        assert list(rows["step"]) == list(range(1, 31))
        np.testing.assert_array_equal(np.isnan(rows["loss"]), rows["staleness"] > 0)
    assert result.summary["bytes"]["payload_total"] == 2 * 16 * rows_of(result, 4)["uploads"].sum()


def test_no_gradient_is_older_than_it_may_be(run):
    result = run("laq", {"bits": 1, "max_staleness": 3}, model=BOWL, max_steps=30)
    assert result.summary["staleness"]["max"] == 3


@pytest.mark.parametrize("trigger", ["worker", "server"])
def test_both_ends_know_what_a_codec_leaves_out(trigger, run):
    codec = {"kind": "top_k", "ratio": 0.5}
    model = {"kind": "quadratic", "dim": 4, "curvature": [0.5, 1.0, 1.5, 2.0]}
    result = run(parameters={"trigger": trigger, "xi": 0.0}, model=model, codec=codec, max_steps=150)
    np.testing.assert_allclose(result.params["weight"], np.zeros(4), atol=1e-3)
    uploads = rows_of(result, 4)["uploads"].sum()
    assert result.summary["bytes"]["payload_total"] == 150 * 4 * 16 + uploads * 16


@pytest.mark.parametrize(("kind", "parameters"), [("lag", {}), ("lag", {"trigger": "server"}), ("laq", {})])
def test_batched_execution_agrees_with_exact_execution(kind, parameters, run, monkeypatch):
    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    exact, batched = (run(kind, parameters, execution=each, max_steps=10) for each in ("exact", "batched"))
    np.testing.assert_allclose(batched.params["weight"], exact.params["weight"], rtol=1e-4)
    np.testing.assert_array_equal(batched.steps["staleness"], exact.steps["staleness"])
