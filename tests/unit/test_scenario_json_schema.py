"""The JSON schema: what editors accept is what the loader accepts."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from psgdsim.errors import ScenarioError
from psgdsim.scenario import dump, from_dict, json_schema
from psgdsim.scenario.catalogue import catalogue, type_text
from psgdsim.scenario.families import FAMILIES
from psgdsim.scenario.yaml_text import parse


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_accepts_what_loads(validator: jsonschema.Draft202012Validator, tiny: dict[str, Any]) -> None:
    assert list(validator.iter_errors(tiny)) == []


def test_accepts_a_dump(validator: jsonschema.Draft202012Validator, tiny: dict[str, Any]) -> None:
    tiny["codec"] = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
    tiny["strategy"] = {"kind": "all_reduce", "algorithm": "broadcast"}
    assert list(validator.iter_errors(parse(dump(from_dict(tiny)), "x").data)) == []


def test_accepts_a_codec_per_layer_without_its_kind(
    validator: jsonschema.Draft202012Validator, tiny: dict[str, Any]
) -> None:
    tiny["codec"] = {"layers": {"default": {"kind": "chain", "codecs": [{"kind": "top_k"}, {"kind": "cast"}]}}}
    assert list(validator.iter_errors(tiny)) == []
    tiny["codec"]["layers"]["default"]["codecs"][1]["kind"] = "casts"
    assert list(validator.iter_errors(tiny)) != []


@pytest.mark.parametrize(
    "change",
    [
        {"world_size": 0},
        {"world_size": "4"},
        {"epohcs": 1},
        {"codec": {"kind": "topk"}},
        {"codec": {"kind": "top_k", "ratio": 2}},
        {"codec": {"kind": "error_feedback", "codec": {"kind": "top_k", "ratoi": 1}}},
        {"optimizer": {"kind": "sgd"}},
        {"data": {"kind": "digits", "partition": {"kind": "iid", "alpha": 1}}},
        {"evaluate": {"every": "soon"}},
        {"name": "../x"},
    ],
)
def test_rejects(validator: jsonschema.Draft202012Validator, tiny: dict[str, Any], change: dict[str, Any]) -> None:
    assert list(validator.iter_errors({**tiny, **change})) != []
    with pytest.raises(ScenarioError):
        from_dict({**tiny, **change})


def test_every_part_is_there_with_help_and_written_defaults() -> None:
    definitions = json_schema()["$defs"]
    for family in FAMILIES.values():
        kinds = [part["properties"]["kind"]["const"] for part in definitions[family.name.replace(" ", "_")]["oneOf"]]
        assert kinds == [part.name for part in family]
    real = definitions["RealMode"]["properties"]
    assert real["heartbeat_timeout"]["default"] == "10 s"
    sgd = next(part for part in definitions["optimizer"]["oneOf"] if part["title"] == "sgd")
    assert sgd["properties"]["schedule"] == {
        "anyOf": [{"$ref": "#/$defs/schedule"}, {"type": "null"}],
        "default": None,
        "description": "how the learning rate changes; null for not at all.",
    }
    assert json_schema()["properties"]["codec"]["$ref"] == "#/$defs/codec"
    assert json_schema()["properties"]["codec"]["default"] == {"kind": "identity"}


def test_no_marks_are_left() -> None:
    assert "x-psgdsim" not in repr(json_schema())


def test_every_parameter_has_help() -> None:
    """Holds the built-in parts to their docstrings."""
    for row in catalogue():
        if row.module.startswith("psgdsim."):
            assert row.summary.endswith((".", ")", "]")), row
            assert [each.name for each in row.parameters if not each.help] == [], row


def test_catalogue_of_one_family() -> None:
    rows = catalogue(["topologies"])
    assert {row.family for row in rows} == {"topologies"}
    star = next(row for row in rows if row.kind == "star")
    bandwidth, latency, multicast = star.parameters
    assert (bandwidth.name, bandwidth.type, bandwidth.is_required) == ("bandwidth", "bandwidth or null", True)
    assert (latency.type, latency.default) == ("time", None)
    assert (multicast.type, multicast.default) == ("native | relay | unicast", "unicast")


def test_catalogue_of_nothing_known() -> None:
    with pytest.raises(ScenarioError, match=r"nothing is called 'codcs'; did you mean 'codecs'\?"):
        catalogue(["codcs"])


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "minimum": 1}, "int >= 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "float > 0 <= 1"),
        ({"type": "array", "items": {"type": "integer"}}, "list of (int)"),
        ({"type": "string", "format": "time"}, "time"),
        ({"const": "x"}, "x"),
        ({}, "anything"),
        ({"type": "object", "additionalProperties": {"x-psgdsim-family": "codec"}}, "mapping of (codec spec)"),
    ],
)
def test_type_text(schema: dict[str, Any], text: str) -> None:
    assert type_text(schema) == text
