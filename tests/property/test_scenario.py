"""Laws of scenarios: whatever is read is a scenario or one clear error, and what is written reads back."""

from __future__ import annotations

import copy
import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psgdsim.errors import ScenarioError
from psgdsim.scenario import Scenario, dump, from_dict, loads
from psgdsim.scenario.yaml_text import parse, write

BASE = """\
name: base
world_size: 4
model: {kind: mlp, hidden: [16, 8]}
data: {kind: digits, partition: {kind: iid}}
batch_size: 8
optimizer: {kind: sgd, learning_rate: 0.1}
strategy: {kind: all_reduce, algorithm: broadcast}
codec: {kind: error_feedback, codec: {kind: top_k, ratio: 0.1}}
topology: {kind: star, bandwidth: 1 Gbit/s, latency: 50 us}
epochs: 1
evaluate: {every: 1 epoch}
"""
PATHS = [
    ("name",), ("world_size",), ("model",), ("model", "kind"), ("model", "hidden"), ("model", "hidden", 0), ("data",),
    ("data", "kind"), ("data", "partition"), ("batch_size",), ("optimizer", "learning_rate"), ("strategy",),
    ("strategy", "algorithm"), ("codec", "codec"), ("codec", "codec", "ratio"), ("topology", "bandwidth"), ("epochs",),
    ("evaluate",), ("evaluate", "every"), ("plugins",), ("real",), ("compute",), ("unknown",), ("max_time",),
]  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1 s", "10 Gbit/s", "3 steps", "identity", "ring", "mlp"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("kind"), inner)
)


def is_valid_or_one_error(document: dict[str, Any]) -> None:
    """Fail on anything but a scenario that survives a round trip, or readable lines."""
    try:
        scenario = from_dict(document)
    except ScenarioError as error:
        assert all(line.isprintable() and line for line in str(error).split("\n"))  # noqa: PT017
    else:
        assert loads(dump(scenario)) == scenario


@given(st.sampled_from(PATHS), VALUES)
def test_one_value_replaced_by_anything(path: tuple[str | int, ...], value: Any) -> None:
    document = parse(BASE, "base").data
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    is_valid_or_one_error(document)


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(sorted(Scenario.model_fields)), VALUES, max_size=6))
def test_any_mapping(document: dict[str, Any]) -> None:
    is_valid_or_one_error(document)


@given(st.text(max_size=200) | st.text(alphabet="ab:{}[]&*!'\"#-\n |>%,?", max_size=60))
def test_any_text(text: str) -> None:
    try:
        parse(text, "text")
    except ScenarioError as error:
        assert str(error).startswith("text:")  # noqa: PT017


@given(st.integers(0, len(BASE) - 1), st.text(alphabet="ab1:{}[]&*!'\"#-\n |>%,?\t\x00é", min_size=1, max_size=3))
def test_a_scenario_with_a_typing_error(position: int, insertion: str) -> None:
    try:
        loads(BASE[:position] + insertion + BASE[position:], "typed.yaml")
    except ScenarioError as error:
        assert str(error).startswith("typed.yaml:")  # noqa: PT017


@given(st.lists(st.text(alphabet="abkin.=[]{}:1 -\n", max_size=20), max_size=3))
def test_any_override(assignments: list[str]) -> None:
    try:
        loads(BASE, "base.yaml", assignments)
    except ScenarioError as error:
        assert str(error)  # noqa: PT017


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=30),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=12,
    )
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_the_writer_writes_is_what_the_reader_reads(value: Any) -> None:
    """The writer quotes by its own rules; they must cover everything that the reader would take for a number."""
    text = write({"value": value})
    read = parse(text, "written").data["value"]
    assert text.isascii()
    assert read == value
    assert type(read) is type(value)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False), st.floats(0, 1e6), st.integers(0, 2**63 - 1))
def test_numbers_survive_a_round_trip(rate: float, latency: float, seed: int) -> None:
    document = copy.deepcopy(parse(BASE, "base").data)
    document["seed"] = seed
    document["optimizer"]["learning_rate"] = rate
    document["topology"]["latency"] = f"{latency!r} s"
    scenario = from_dict(document)
    again = loads(dump(scenario))
    assert again == scenario
    assert again.optimizer.parameters["learning_rate"] == rate
    assert math.isclose(again.topology.parameters["latency"], latency, rel_tol=0)
