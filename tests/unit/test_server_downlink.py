"""strategies.server_downlink: coded answers of a server; both ends agree, bytes, limits and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from fault_cases import BASE, simulate

import psgdsim
from psgdsim import codecs, wire
from psgdsim.errors import CodecError, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.strategies.server_downlink import Holdings, hold
from psgdsim.testing.training import run_ranks

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
QSGD = {"kind": "qsgd", "levels": 16, "bucket_size": 64}
SGQ = {"kind": "sgq"}
TOP_K = {"kind": "top_k", "ratio": 0.1}
HALF = {"kind": "top_k", "ratio": 0.5}
DIGITS = {
    "model": {"kind": "softmax_regression"},
    "data": {"kind": "digits"},
    "batch_size": 16,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "world_size": 3,
}


def server(downlink=None, **settings):
    return {"kind": "parameter_server", "downlink": downlink, **settings}


def scenario(strategy, **changes):
    return {**BASE, "topology": FREE, "execution": "exact", "strategy": strategy, **changes}


@pytest.fixture
def run(tmp_path):
    def start(strategy, **changes):
        return psgdsim.run(scenario(strategy, **changes), out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            server(SGQ, sync="ssp", staleness_bound=1),
            r"strategy\.downlink: only with sync 'bsp', 'async', 'k_async', .*'staleness_aware'; got sync 'ssp'",
        ),
        (server(SGQ, sync="k_sync", k=2), r"strategy\.downlink: only with sync 'bsp', .*; got sync 'k_sync'"),
        (server({"kind": "top_q"}), r"strategy\.downlink\.kind: no codec is called 'top_q'; did you mean 'top_k'"),
        (server({"kind": "top_k", "ratio": 2.0}), r"strategy\.downlink\.ratio: expected at most 1"),
        (server("sgq"), r"strategy\.downlink: expected a mapping with a kind, such as {kind: sgq}"),
        ({"kind": "asgd", "downlink": {"kind": "sgq", "bits": 1}}, r"strategy\.downlink\.bits: expected at least 2"),
    ],
)
def test_what_cannot_be_is_refused(strategy, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": strategy})


@pytest.mark.parametrize("settings", [{}, {"sync": "async"}, {"servers": 2}, {"sync": "ssp", "staleness_bound": 1}])
def test_identity_changes_nothing(settings, run):
    plain, identity = (run(server(codec, **settings)) for codec in (None, {"kind": "identity"}))
    assert identity.summary["params_sha256"] == plain.summary["params_sha256"]
    assert identity.summary["bytes"] == plain.summary["bytes"]
    assert identity.summary["time_s"] == plain.summary["time_s"]


def test_other_names_take_the_same_downlink(run):
    for name, sync in (("ssgd", "bsp"), ("asgd", "async")):
        other, mine = run({"kind": name, "downlink": SGQ}), run(server(SGQ, sync=sync))
        assert other.summary["params_sha256"] == mine.summary["params_sha256"]


# --- both ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codec",
    [
        codecs.qsgd(levels=4, bucket_size=16),
        codecs.sgq(),
        codecs.top_k(ratio=0.1),
        codecs.random_k(ratio=0.25),
        codecs.ef21(codecs.top_k(ratio=0.1, index_coding="auto")),
    ],
    ids=["qsgd", "sgq", "top_k", "random_k", "ef21"],
)
def test_a_worker_has_what_the_server_thinks_it_has(codec):
    generator = np.random.default_rng(7)
    models = [{"weight": generator.standard_normal((5, 8)).astype(np.float32)} for _ in range(8)]
    turns = {1: range(1, 8), 2: [3, 4, 7], 3: [2, 2, 7]}  # the versions at which each worker is answered
    held, expected = {}, {}

    async def program(node, task):
        if node.rank == 0:
            holdings = Holdings(node, task, codec)
            await holdings.begin(models[0])
            for version in range(1, 8):
                for worker, versions in turns.items():
                    for _ in range(list(versions).count(version)):
                        content = await holdings.encode(worker, models[version], version)
                        await node.send(worker, content, tag="answer")
            for worker in turns:
                expected[worker] = await node.read(holdings.params_of(worker))
        else:
            mine = await hold(node, task, codec, models[0])
            for _ in turns[node.rank]:
                params = await mine.take((await node.recv(0, tag="answer")).payload)
            held[node.rank] = await node.read(params)

    assert simulate(program, topology=FREE, execution="exact").error is None
    assert set(held) == set(turns)
    for worker in turns:
        np.testing.assert_array_equal(held[worker]["weight"], expected[worker]["weight"])
        assert not np.array_equal(held[worker]["weight"], models[7]["weight"])
    assert not np.array_equal(held[1]["weight"], held[2]["weight"])


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("downlink", [QSGD, SGQ, TOP_K], ids=["qsgd", "sgq", "top_k"])
def test_all_replicas_end_with_what_workers_have(downlink, servers):
    params, outcome = run_ranks(scenario(server(downlink), **DIGITS, max_steps=4))
    assert {report.digest for report in outcome.reports} == {outcome.reports[0].digest}  # the server's among them
    dense, _ = run_ranks(scenario(server(), **DIGITS, max_steps=4))
    assert 0 < np.abs(params[0] - dense[0]).max() < 0.1


def test_what_is_dropped_comes_later(run):
    # Nothing changes after the first step, and each answer has one of the four values that it changed.
    decay = {"kind": "step_decay", "every_steps": 1, "factor": 1e-12}
    settings = {"optimizer": {"kind": "sgd", "learning_rate": 0.1, "schedule": decay}, "max_steps": 4}
    coded = run(server({"kind": "top_k", "ratio": 0.25}), **settings)
    np.testing.assert_array_equal(coded.params["weight"], run(server(), **settings).params["weight"])
    early = run(server({"kind": "top_k", "ratio": 0.25}), **{**settings, "max_steps": 3})
    assert np.sum(early.params["weight"] == 1) == 1


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("downlink", "codec"), [(SGQ, codecs.sgq()), (TOP_K, codecs.top_k(ratio=0.1))])
def test_bytes_down_are_those_of_the_payload_and_a_header(downlink, codec, run):
    like = {"weight": np.zeros(100, np.float32)}
    payload, _ = codec.encode(like, codec.init(like), jax.random.key(0))
    model = {"kind": "quadratic", "dim": 100, "noise": 0.5}
    sent = run(server(downlink), model=model).summary["bytes"]["sent"]
    assert sent[4] == 4 * sum(wire.nbytes((payload, step, 0)) for step in range(1, 7))
    assert sent[:4] == [sum(wire.nbytes((step, like, 0)) for step in range(6))] * 4


def test_only_the_first_parameters_of_each_worker_are_sent_as_they_are(run):
    model = {"kind": "quadratic", "dim": 100, "noise": 0.5}
    plain, coded = (
        run(server(codec, sync="async"), model=model).summary["bytes"]["payload_total"] for codec in (None, TOP_K)
    )
    answers = 6 * 4
    assert plain - coded == answers * (100 * 4 - 10 * 8)


# --- training ---------------------------------------------------------------------------------------------------------


FAST = {**DIGITS, "optimizer": {"kind": "sgd", "learning_rate": 0.5}, "max_steps": 40}


@pytest.mark.parametrize(
    ("downlink", "settings"),
    [
        (TOP_K, {}),
        (QSGD, {"on_peer_loss": "drop"}),
        (SGQ, {"servers": 3}),
        (TOP_K, {"sync": "async"}),
        (SGQ, {"sync": "k_batch_async", "k": 2, "delay_compensation": {"kind": "constant"}}),
    ],
    ids=["bsp", "drop", "shards", "async", "k_batch_async"],
)
def test_training_comes_about_as_far_as_without(downlink, settings, run):
    dense, coded = (run(server(codec, **settings), **FAST).summary["final"]["train_loss"] for codec in (None, downlink))
    assert dense < 0.8
    assert coded == pytest.approx(dense, rel=0.05)


@pytest.mark.parametrize(("sync", "on_peer_loss"), [("bsp", "drop"), ("bsp", "wait"), ("async", "drop")])
def test_a_worker_that_has_come_back_has_what_the_server_thinks_it_has(sync, on_peer_loss, run):
    # They crash before they push, meanwhile, and while the answer is coded or under way. Without noise the model comes
    # to rest at the optimum, unless a worker has another one than the server thinks.
    faults = [
        {"kind": "crash", "rank": rank, "at": f"{210 + 450 * place} ms", "restart_after": "5 ms"}
        for place, rank in enumerate([0, 1, 2, 3, 0, 1, 2, 3])
    ]
    changes = {
        "model": {"kind": "quadratic", "dim": 4},
        "topology": {"kind": "star", "bandwidth": "1 Mbit/s", "latency": "20 ms"},
        "codec_rate": "1 kB/s",
        "max_steps": 100,
    }
    result = run(server(HALF, sync=sync, on_peer_loss=on_peer_loss), faults=faults, **changes)
    assert np.nanmax(result.steps["incarnation"]) >= 2
    assert np.abs(result.params["weight"]).max() < 1e-3


def test_workers_lose_the_model_if_the_codec_is_no_contraction(run):
    rough = {"kind": "qsgd", "levels": 1, "bucket_size": 64}  # its variance is up to 8 times the square
    assert run(server(rough), **FAST).summary["final"]["train_loss"] > 100


def test_a_vote_of_signs_costs_one_bit_each_way_and_loses_nothing(run):
    settings = {
        "model": {"kind": "quadratic", "dim": 64, "start": 0.5, "noise": 4.0},
        "optimizer": {"kind": "signum", "learning_rate": 2**-6, "momentum": 0},
        "codec": {"kind": "sign"},
        "world_size": 3,
        "max_steps": 40,
    }
    plain, coded = run(server(), **settings), run(server({"kind": "scaled_sign"}), **settings)
    np.testing.assert_array_equal(coded.params["weight"], plain.params["weight"])
    np.testing.assert_array_equal(coded.steps["loss"], plain.steps["loss"])
    assert len(set(plain.params["weight"])) > 8
    assert coded.summary["bytes"]["payload_total"] == 40 * 3 * (64 // 8 + 64 // 8 + 4)


def test_a_model_that_is_not_finite_is_not_coded(run):
    steep = {"kind": "quadratic", "dim": 4, "curvature": 1e30, "noise": 0.0}
    with pytest.raises(CodecError, match=r"rank 4, step 2: the update of weight has NaN or infinity in it"):
        run(server(TOP_K), model=steep)
