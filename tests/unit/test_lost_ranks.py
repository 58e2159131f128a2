"""A run that cannot go on without a rank that is lost says why."""

from __future__ import annotations

import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import PeerLost, RankFailed

CRASH = [{"kind": "crash", "rank": 1, "at": "150 ms"}]
WAITING = "the others wait for what each of them sends"
DROP = "on_peer_loss is 'fail'; with 'drop', sync '{}' goes on with the workers that are left"


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ({"kind": "all_reduce", "algorithm": "ring"}, WAITING),
        ({"kind": "all_reduce", "algorithm": "broadcast"}, WAITING),
        ({"kind": "local_sgd", "period": 2}, WAITING),
        ({"kind": "d_psgd"}, WAITING),
        ({"kind": "lag"}, "on_peer_loss is 'fail'; with 'drop', lag goes on with the workers that are left"),
        ({"kind": "laq"}, "on_peer_loss is 'fail'; with 'drop', laq goes on with the workers that are left"),
        ({"kind": "coded_shuffle", "redundancy": 2}, "each group decodes with packets of all its members"),
        ({"kind": "parameter_server"}, DROP.format("bsp")),
        ({"kind": "parameter_server", "sync": "ssp", "staleness_bound": 1}, DROP.format("ssp")),
        ({"kind": "parameter_server", "servers": 2}, "the parts of the model .* must all take up the same gradients"),
    ],
    ids=str,
)
def test_the_error_says_why_nobody_goes_on(strategy, why, tmp_path):
    note = f"strategy '{strategy['kind']}' cannot go on without a rank: {why}"
    with pytest.raises((PeerLost, RankFailed), match=rf"lost rank 1: it crashed.*\n{note}"):
        psgdsim.run({**BASE, "strategy": strategy, "faults": CRASH}, out=tmp_path / "run")


def test_what_goes_on_without_a_worker_says_nothing_of_that(tmp_path):
    faults = [{"kind": "crash", "rank": rank, "at": "150 ms"} for rank in range(4)]
    strategy = {"kind": "parameter_server", "on_peer_loss": "drop"}
    result = psgdsim.run({**BASE, "strategy": strategy, "faults": faults}, out=tmp_path / "run", check=False)
    assert isinstance(result.error, PeerLost)
    assert getattr(result.error, "__notes__", []) == []
