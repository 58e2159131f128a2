"""What a scenario may say of faults, and that they do the same every time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import ScenarioError
from psgdsim.scenario import dump, from_dict, loads
from psgdsim.scenario.faults import crash, cut, slow

# --- what a scenario may say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crash(rank=1), "at: expected one of at, at_step and mtbf; got none of them"),
        (lambda: crash(rank=1, at=1.0, at_step=2), "got at and at_step"),
        (lambda: crash(at=1.0), "rank: required"),
        (lambda: crash(rank=1, at=1.0, mttr=1.0), "mttr: goes with mtbf; with at, give restart_after"),
        (lambda: slow(factor=2.0, rank=1, mtbf=1.0, for_=1.0, mttr=1.0), "either mttr or for; got both"),
        (lambda: cut(at=1.0), "links: expected either links or ranks; got neither"),
        (lambda: cut(links="*", ranks=(1,), at=1.0), "got both"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "crash", "rank": 4, "at": "1 s"}, "faults.0.rank: expected ranks of 0 to 3; got 4"),
        ({"kind": "cut", "ranks": [1, 9], "at": "1 s"}, "faults.0.ranks: expected ranks of 0 to 3; got 9"),
        ({"kind": "cut", "ranks": [0, 1, 2, 3], "at": "1 s"}, "so that there is a rest; got all of them"),
        ({"kind": "cut", "links": "host9.*", "at": "1 s"}, "faults.0.links: no link is called 'host9.*'; did you"),
        ({"kind": "slow", "rank": 1, "factor": 0, "at": "1 s"}, "faults.0.factor: expected more than 0; got 0"),
        (
            {"kind": "slow", "rank": 1, "factor": 2, "at": "1 s", "for": 3},
            "faults.0.for: expected a time with its unit",
        ),
        ({"kind": "crsh", "rank": 1}, "no fault is called 'crsh'; did you mean 'crash'"),
    ],
)
def test_a_scenario_with_a_wrong_fault_says_what_is_wrong(fault, message):
    with pytest.raises(ScenarioError) as caught:
        from_dict({**BASE, "faults": [fault]})
    assert message in str(caught.value)


def test_a_partition_must_not_divide_a_host():
    with pytest.raises(ScenarioError, match="whole hosts; got rank 2 without rank 3, which is on host1, too"):
        from_dict({**BASE, "hosts": {"ranks_per_host": 2}, "faults": [{"kind": "cut", "ranks": [2], "at": "1 s"}]})


def test_faults_survive_a_round_trip():
    faults = [
        {"kind": "crash", "mtbf": "1 h", "mttr": "30 s"},
        {"kind": "slow", "rank": 1, "at_step": 3, "for": "1 s", "factor": 4},
        {"kind": "cut", "links": ["host1.up", "host2.*"], "at": "2 s"},
    ]
    scenario = from_dict({**BASE, "faults": faults})
    assert loads(dump(scenario)) == scenario
    assert scenario.faults[1].document()["for"] == "1 s"


@pytest.mark.parametrize("key", ["faults", "changes"])
def test_real_mode_refuses_what_it_cannot_carry_out(key, tmp_path):
    event = {
        "faults": {"kind": "slow", "rank": 1, "at": "1 s", "factor": 4},
        "changes": {"kind": "jitter", "mean": "1 ms"},
    }[key]
    with pytest.raises(ScenarioError, match=f"^{key}: real mode cannot carry these out; got 1 in scenario 'faults'"):
        psgdsim.run({**BASE, key: [event]}, mode="real", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- the timeline ---------------------------------------------------------------------------------------------


def test_faults_are_in_the_trace_and_in_the_picture(tmp_path):
    import matplotlib.pyplot as plt

    from psgdsim.report import plot_timeline

    scenario = {
        **BASE,
        "changes": [{"kind": "link_down", "links": "host1.*", "at": "50 ms", "for": "10 ms"}],
        "faults": [
            {"kind": "slow", "rank": 2, "at": "100 ms", "for": "100 ms", "factor": 4},
            {"kind": "cut", "links": ["host0.up", "host3.*"], "at": "300 ms", "for": "20 ms"},
        ],
    }
    result = psgdsim.run(scenario, out=tmp_path / "run")
    rows = json.loads((result.folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    happened = [
        (row["pid"], row["cat"], row["name"], row["ts"], row["dur"])
        for row in rows
        if row.get("cat") in ("fault", "change")
    ]
    assert [event[:3] for event in happened] == [
        (2, "fault", "4x slower"),
        (4, "change", "host1.*: down"),
        (4, "fault", "cut host0.up, host3.*"),
    ]
    assert [event[3:] for event in happened] == [pytest.approx(each) for each in ((1e5, 1e5), (5e4, 1e4), (3e5, 2e4))]
    axes = plot_timeline(result)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rank 0", "rank 1", "rank 2", "rank 3", "network"]
    assert {text.get_text() for text in axes.texts} == {event[2] for event in happened}
    assert axes.get_legend().get_texts()[-1].get_text() == "fault or change"
    plt.close(axes.figure)


# --- determinism ----------------------------------------------------------------------------------------------

EVERYTHING = {
    **BASE,
    "faults": [
        {"kind": "slow", "mtbf": "300 ms", "mttr": "100 ms", "factor": 3},
        {"kind": "cut", "ranks": [2], "mtbf": "500 ms", "mttr": "50 ms"},
        {"kind": "cut", "links": "host1.*", "at_step": 2, "for": "50 ms"},
    ],
    "changes": [
        {"kind": "jitter", "mean": "1 ms"},
        {"kind": "loss", "probability": 0.02},
        {
            "kind": "background",
            "from": "host0",
            "to": "host3",
            "size": "2 kB",
            "rate": "2 Mbit/s",
            "arrivals": "poisson",
        },
        {"kind": "periodic", "links": "host2.*", "period": "200 ms", "low": 0.1, "shape": "sine"},
    ],
}
DIGEST = """
import hashlib, json, sys, tempfile, psgdsim
with tempfile.TemporaryDirectory() as folder:
    result = psgdsim.run(json.loads(sys.argv[1]), out=folder + "/run")
    names = ("trace.json", "steps.csv", "links.csv", "link_series.csv")
    print(hashlib.sha256(b"".join((result.folder / name).read_bytes() for name in names)).hexdigest())
"""


def test_same_seed_gives_the_same_trace_in_other_processes():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, json.dumps(EVERYTHING)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) == 2 * hashlib.sha256().digest_size


def test_faults_change_times_but_not_what_is_learned(tmp_path):
    disturbed = psgdsim.run(EVERYTHING, out=tmp_path / "disturbed").summary
    healthy = psgdsim.run({**EVERYTHING, "faults": [], "changes": []}, out=tmp_path / "healthy").summary
    assert disturbed["params_sha256"] == healthy["params_sha256"]
    assert disturbed["bytes"] == healthy["bytes"]
    assert disturbed["time_s"] > healthy["time_s"]
