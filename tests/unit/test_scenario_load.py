"""Scenarios from files, texts and mappings: defaults, equality after a round trip, rules, files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from psgdsim.codecs.base import Codec, register_codec
from psgdsim.codecs.identity import identity
from psgdsim.errors import ScenarioError
from psgdsim.scenario import DataSpec, Interval, PartSpec, Scenario, dump, from_dict, load, loads
from psgdsim.units import Duration

EXAMPLE = """\
name: ccdc-8-nodes
seed: 1
world_size: 8
model: {kind: mlp, hidden: [128, 128], activation: tanh}
data: {kind: digits, partition: {kind: dirichlet, alpha: 0.5}}
batch_size: 16
optimizer: {kind: sgd, learning_rate: 0.05, schedule: {kind: step_decay, every_steps: 10}}
strategy: {kind: coded_shuffle, code: ccdc, redundancy: 7}
codec: {kind: identity}
topology: {kind: star, bandwidth: 100 Mbit/s, latency: 200 us, multicast: native}
compute: {kind: shifted_exponential, shift: 20 ms, mean: 5 ms}
epochs: 5
max_time: 2 h
evaluate: {every: 1 epoch}
"""


@register_codec("late_for_test")
def late_for_test(codecs: list[Codec], pause: Annotated[Duration, Field(gt=0)] = 0.5) -> Codec:
    """Nest codecs.

    Args:
        codecs: some.
        pause: a quantity with a default.
    """
    if not codecs:
        raise ValueError("codecs: expected at least one; got none")
    return identity()


def test_what_a_file_says() -> None:
    scenario = loads(EXAMPLE)
    assert (scenario.name, scenario.seed, scenario.world_size, scenario.epochs) == ("ccdc-8-nodes", 1, 8, 5)
    assert scenario.max_time == 7200.0
    assert scenario.evaluate.every == Interval(count=1, unit="epoch")
    assert scenario.strategy.kind == "coded_shuffle"
    assert scenario.topology.parameters == {"bandwidth": 1e8, "latency": 2e-4, "multicast": "native"}
    assert scenario.compute.parameters == {"shift": 0.02, "mean": 0.005}
    schedule = scenario.optimizer.parameters["schedule"]
    assert isinstance(schedule, PartSpec)
    assert (schedule.kind, dict(schedule.parameters)) == ("step_decay", {"every_steps": 10, "factor": 0.1})


def test_specs_build_their_parts() -> None:
    scenario = loads(EXAMPLE)
    assert scenario.compute.build().mean == 0.025
    optimizer = scenario.optimizer.build()
    assert optimizer.learning_rate == 0.05
    assert optimizer.schedule.factor(11) == pytest.approx(0.1)
    assert scenario.topology.build().multicast == "native"


def test_defaults(tiny: dict[str, Any]) -> None:
    for key in ("seed", "compute"):
        del tiny[key]
    scenario = from_dict(tiny)
    assert scenario.seed == 0
    assert scenario.codec.kind == "identity"
    assert scenario.compute.build().mean == 0.0
    assert isinstance(scenario.data, DataSpec)
    assert scenario.data.partition.kind == "iid"
    assert str(scenario.evaluate.every) == "1 epoch"
    assert (scenario.real.processes, scenario.real.port, scenario.real.heartbeat_timeout) == ("local", 0, 10.0)
    assert (scenario.execution, scenario.plugins) == ("batched", ())


def test_global_rows(tiny: dict[str, Any]) -> None:
    assert from_dict(tiny).global_rows == 24
    assert from_dict({**tiny, "batch_size": None, "global_batch_size": 31}).global_rows == 31


@pytest.mark.parametrize(
    "codec",
    [
        {"kind": "identity"},
        {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}},
        {"kind": "late_for_test", "codecs": [{"kind": "cast"}, {"kind": "identity"}], "pause": "3 ms"},
        {"kind": "late_for_test", "codecs": [{"kind": "late_for_test", "codecs": [{"kind": "cast"}]}]},
    ],
)
def test_a_dump_loads_equal(codec: dict[str, Any]) -> None:
    scenario = from_dict(
        {**_plain(EXAMPLE), "codec": codec, "strategy": {"kind": "all_reduce", "algorithm": "broadcast"}}
    )
    assert loads(dump(scenario)) == scenario
    assert dump(loads(dump(scenario))) == dump(scenario)


def test_a_dump_names_every_default_with_its_unit() -> None:
    text = dump(loads(EXAMPLE))
    assert "max_time: 2 h\n" in text
    assert "heartbeat_timeout: 10 s\n" in text
    assert "global_batch_size: null\n" in text
    assert "factor: 0.1\n" in text


def _plain(text: str) -> dict[str, Any]:
    from psgdsim.scenario.yaml_text import parse

    data: dict[str, Any] = parse(text, "x").data
    return data


def test_different_scenarios_differ(tiny: dict[str, Any]) -> None:
    assert from_dict(tiny) != from_dict(
        {**tiny, "codec": {"kind": "cast"}, "strategy": {"kind": "all_reduce", "algorithm": "broadcast"}}
    )
    assert from_dict(tiny) == from_dict(tiny)


def test_a_scenario_is_frozen(tiny: dict[str, Any]) -> None:
    scenario = from_dict(tiny)
    with pytest.raises(ValidationError, match="frozen"):
        scenario.seed = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        scenario.model.parameters = {}  # type: ignore[misc]


def test_from_dict_leaves_the_mapping_alone(tiny: dict[str, Any]) -> None:
    before = repr(tiny)
    from_dict(tiny, ["codec.kind=identity", "model.hidden.0=3"])
    assert repr(tiny) == before


def test_problems_of_a_mapping_have_paths_only(tiny: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError) as caught:
        from_dict({**tiny, "world_size": 0, "epohcs": 1})
    lines = str(caught.value).split("\n")
    assert lines[0] == "world_size: expected at least 1; got 0"
    assert lines[1].startswith("epohcs: unknown key; did you mean 'epochs'? (valid: batch_size, changes, codec, ")
    assert len(lines) == 2


def test_a_part_that_rejects_a_nested_spec_names_its_parameter() -> None:
    with pytest.raises(ScenarioError, match=r"^codec\.codecs: expected at least one; got none$"):
        from_dict({**_plain(EXAMPLE), "codec": {"kind": "late_for_test", "codecs": []}})


def test_problem_in_a_list_of_specs() -> None:
    codec = {"kind": "late_for_test", "codecs": [{"kind": "cast"}, {"kind": "top_k", "ratoi": 1}]}
    with pytest.raises(
        ScenarioError,
        match=r"^codec\.codecs\.1\.ratoi: unknown key; did you mean 'ratio'\? \(valid: index_coding, kind,",
    ):
        from_dict({**_plain(EXAMPLE), "codec": codec})


def test_plugins_are_imported_before_specs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]
) -> None:
    (tmp_path / "plugin_for_test.py").write_text(
        "from psgdsim.codecs.base import register_codec\nfrom psgdsim.codecs.identity import identity\n"
        "register_codec('plugged_for_test')(lambda: identity())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scenario = from_dict({**tiny, "plugins": ["plugin_for_test"], "codec": {"kind": "plugged_for_test"}})
    assert scenario.codec.kind == "plugged_for_test"
    assert loads(dump(scenario)) == scenario


def test_a_plugin_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]) -> None:
    (tmp_path / "broken_plugin_for_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    expected = "plugins.0: cannot import 'broken_plugin_for_test': ZeroDivisionError: division by zero"
    with pytest.raises(ScenarioError, match=f"^{re.escape(expected)}$"):
        from_dict({**tiny, "plugins": ["broken_plugin_for_test"]})


def test_load_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(EXAMPLE)
    assert load(file) == load(str(file)) == loads(EXAMPLE)
    assert load(file, ["seed=9"]).seed == 9


def test_a_missing_file_proposes_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "ring_8nodes.yaml").write_text(EXAMPLE)
    with pytest.raises(ScenarioError, match=r"ring_8node\.yaml: no such file; did you mean 'ring_8nodes\.yaml'\?"):
        load(tmp_path / "ring_8node.yaml")
    with pytest.raises(ScenarioError, match=r"no such file \(nor a folder '.*nowhere'\)$"):
        load(tmp_path / "nowhere" / "x.yaml")


def test_a_folder_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_many_problems_are_cut(tiny: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError) as caught:
        from_dict({**tiny, **{f"key{number}": 1 for number in range(70)}})
    lines = str(caught.value).split("\n")
    assert len(lines) == 51
    assert lines[-1] == "... and 20 more problems"


def test_the_schema_can_be_built_directly(tiny: dict[str, Any]) -> None:
    assert Scenario.model_validate(tiny) == from_dict(tiny)
    with pytest.raises(ValidationError, match="when to stop"):
        Scenario.model_validate({**tiny, "max_steps": None})


def test_a_codec_per_layer_may_be_written_without_a_kind(tiny):
    spec = {"layers": {"*bias": {"kind": "identity"}, "default": {"kind": "top_k", "ratio": 0.5}}}
    tiny["strategy"] = {"kind": "all_reduce", "algorithm": "broadcast"}
    scenario = from_dict({**tiny, "codec": spec})
    assert scenario.codec == from_dict({**tiny, "codec": {"kind": "layers", **spec}}).codec
    assert from_dict({**tiny, "codec": scenario.codec.document()}).codec == scenario.codec


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (
            {"layers": {"a*": {"kind": "cast", "dtpye": 1}}},
            r"codec\.layers\.a\*\.dtpye: unknown key; did you mean 'dtype'",
        ),
        (
            {"layers": {"a*": {"kind": "casts"}}},
            r"codec\.layers\.a\*\.kind: no codec is called 'casts'; did you mean 'cast'",
        ),
        ({"layers": {}}, r"codec\.layers: expected at least 1 of them; got an empty mapping"),
        ({"layers": {"a*": {"kind": "cast"}}, "default": 1}, r"codec\.kind: required: which codec it is"),
    ],
)
def test_problem_in_a_mapping_of_specs(tiny, codec, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**tiny, "codec": codec})
