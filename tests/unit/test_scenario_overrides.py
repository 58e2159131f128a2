"""`--set`: what changes, what is dropped, and where problems are said to be."""

from __future__ import annotations

from typing import Any

import pytest

from psgdsim.errors import ScenarioError
from psgdsim.scenario import Scenario, from_dict, loads

FILE = """\
name: file
world_size: 4
model: {kind: mlp, hidden: [16, 8]}
data: {kind: digits, scale: centered, partition: {kind: dirichlet, alpha: 0.5}}
batch_size: 8
optimizer: {kind: momentum, learning_rate: 0.1, momentum: 0.5}
strategy: {kind: all_reduce, algorithm: broadcast}
codec: {kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}
topology: {kind: star, bandwidth: 1 Gbit/s, latency: 50 us}
epochs: 1
"""


def changed(*assignments: str) -> Scenario:
    return loads(FILE, "file.yaml", assignments)


def problem(*assignments: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        changed(*assignments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("seed=7", lambda s: s.seed == 7),
        ("optimizer.learning_rate=1e-3", lambda s: s.optimizer.parameters["learning_rate"] == 1e-3),
        ("topology.latency=2 ms", lambda s: s.topology.parameters["latency"] == 2e-3),
        ("topology.bandwidth=null", lambda s: s.topology.parameters["bandwidth"] is None),
        ("model.hidden=[3, 4, 5]", lambda s: s.model.parameters["hidden"] == (3, 4, 5)),
        ("model.hidden.1=9", lambda s: s.model.parameters["hidden"] == (16, 9)),
        ("codec.codec.ratio=0.5", lambda s: s.codec.parameters["codec"].parameters["ratio"] == 0.5),
        ("codec={kind: cast}", lambda s: s.codec.kind == "cast"),
        ("evaluate.every=10 steps", lambda s: str(s.evaluate.every) == "10 steps"),
        ("evaluate.every=null", lambda s: s.evaluate.every is None),
        ("real.port=4000", lambda s: s.real.port == 4000),
        ("data.partition.alpha=2", lambda s: s.data.partition.parameters["alpha"] == 2),
        ("name=a=b".replace("=b", "-b"), lambda s: s.name == "a-b"),
        (" seed = 7 ", lambda s: s.seed == 7),
    ],
)
def test_a_value(assignment: str, read: Any) -> None:
    assert read(changed(assignment))
    assert not read(changed())


def test_later_ones_win() -> None:
    assert changed("seed=1", "seed=2").seed == 2


def test_a_new_kind_drops_what_it_does_not_have_and_keeps_the_rest() -> None:
    optimizer = changed("optimizer.kind=sgd").optimizer
    assert (optimizer.kind, optimizer.parameters["learning_rate"]) == ("sgd", 0.1)
    assert "momentum" not in optimizer.parameters


def test_a_new_data_set_keeps_the_partition() -> None:
    data = changed("data.kind=synthetic_classification").data
    assert data.kind == "synthetic_classification"
    assert data.partition.parameters == {"alpha": 0.5}


def test_a_new_partition_drops_the_old_ones_parameters() -> None:
    assert changed("data.partition.kind=iid").data.partition.kind == "iid"


def test_parameters_of_the_new_kind_may_come_before_or_after_it() -> None:
    first = changed("codec.ratio=0.5", "codec.kind=top_k")
    second = changed("codec.kind=top_k", "codec.ratio=0.5")
    assert first == second
    assert first.codec.parameters == {"ratio": 0.5, "index_coding": "raw"}


def test_what_was_set_is_never_dropped_in_silence() -> None:
    message = problem("codec.ratoi=0.5", "codec.kind=top_k")
    assert message.startswith("--set codec.ratoi: unknown key; did you mean 'ratio'?")


def test_a_spec_may_be_made_from_nothing() -> None:
    schedule = changed("optimizer.schedule.kind=warmup", "optimizer.schedule.steps=5").optimizer.parameters["schedule"]
    assert (schedule.kind, dict(schedule.parameters)) == ("warmup", {"steps": 5})


def test_setting_one_batch_size_drops_the_other() -> None:
    scenario = changed("global_batch_size=30")
    assert (scenario.batch_size, scenario.global_rows) == (None, 30)
    assert "either batch_size or global_batch_size; got both" in problem("batch_size=3", "global_batch_size=30")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=-1", "--set seed: expected at least 0; got -1"),
        ("world_size=many", "--set world_size: expected an integer; got 'many'"),
        (
            "topology.latency=5",
            "--set topology.latency: expected a time with its unit, such as '50 us'; got the bare number 5",
        ),
        ("data.kind=mnits", "--set data.kind: no dataset is called 'mnits'; did you mean 'mnist'? (valid: "),
        ("codec.codec.ratio=2", "--set codec.codec.ratio: expected at most 1; got 2"),
        ("codec={kind: top_k, ratio: 2}", "--set codec: codec.ratio: expected at most 1; got 2"),
        ("codec=top_k", "--set codec: expected a mapping with a kind, such as {kind: top_k}; got 'top_k'"),
        ("optimizer.momentun=1", "--set optimizer.momentun: unknown key; did you mean 'momentum'? (valid: "),
        (
            "optimzer.momentum=1",
            "--set optimzer.momentum: a scenario has no key 'optimzer'; did you mean 'optimizer'? (valid: ",
        ),
        ("zzz=1", "--set zzz: unknown key; valid: "),
        ("codec.codek.ratio=1", "--set codec.codek.ratio: codec has no key 'codek'; did you mean 'codec'? (valid: "),
        ("seed.x=1", "--set seed.x: seed has no keys below it"),
        ("name.x=1", "--set name.x: expected a mapping at name; got 'file'"),
        ("name.x.y=1", "--set name.x.y: expected a mapping at name; got 'file'"),
        ("model.hidden.2=1", "--set model.hidden.2: expected an index below 2; got 2"),
        ("model.hidden.x=1", "--set model.hidden.x: expected an index below 2; got 'x'"),
        ("seed=", "--set seed: the value is empty; expected a value such as 8, 10 ms or null"),
        ("seed", "--set 'seed': expected KEY=VALUE, such as optimizer.learning_rate=0.1"),
        ("=3", "--set '=3': expected KEY=VALUE, such as optimizer.learning_rate=0.1"),
        ("a..b=3", "--set 'a..b=3': expected KEY=VALUE, such as optimizer.learning_rate=0.1"),
        ("seed=[1", "--set seed: not valid YAML: "),
        ("seed=!!int 3", "--set seed: tags are not allowed; got the tag 'tag:yaml.org,2002:int'; got '!!int 3'"),
    ],
)
def test_problem(assignment: str, message: str) -> None:
    said = problem(assignment)
    assert said.startswith(message)
    assert "\n" not in said
    assert "file.yaml" not in said


def test_problems_of_the_file_and_of_overrides_come_together() -> None:
    said = problem("seed=-1", "data.partition.alpha=-1", "optimizer.kind=adam", "optimizer.b1=3")
    assert [line.split(": ")[0] for line in said.split("\n")] == [
        "--set seed",
        "--set data.partition.alpha",
        "--set optimizer.b1",
    ]


def test_a_parameter_left_over_from_the_file_is_blamed_on_the_file(tiny: dict[str, Any]) -> None:
    said = problem("strategy.kind=coded_shuffle", "strategy.redundancy=9")
    assert "--set strategy.redundancy: " in said


def test_all_unreadable_ones_are_listed() -> None:
    assert problem("a", "b").count("expected KEY=VALUE") == 2


def test_overrides_of_a_mapping(tiny: dict[str, Any]) -> None:
    assert from_dict(tiny, ["data.kind=synthetic_classification"]).data.kind == "synthetic_classification"
