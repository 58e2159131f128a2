"""The JSON schema of scenario files, for completion and checking in editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from psgdsim.registry import Part
from psgdsim.scenario.families import FAMILIES, import_installed_plugins
from psgdsim.scenario.schema import Scenario
from psgdsim.scenario.spec import FAMILY_KEY, PartSpec, parameters_model

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of scenarios, with every registered part.

    What only the loader can check (rules between fields, YAML's own bounds) is not in it.

    Returns:
        The schema; each family is a `oneOf` under `$defs`, one entry per kind.
    """
    import_installed_plugins()
    schema = Scenario.model_json_schema(schema_generator=_Generator)
    definitions = schema.pop("$defs", {})
    for family in FAMILIES.values():
        definitions[_key(family.name)] = {
            "description": f"a {family.name}",
            "oneOf": [_part_schema(part) for part in family],
        }
    head = {"$schema": DIALECT, "title": "psgdsim scenario"}
    result: dict[str, Any] = _linked({**schema, **head, "$defs": definitions})
    return result


def _key(family_name: str) -> str:
    return family_name.replace(" ", "_")


def _part_schema(part: Part) -> dict[str, Any]:
    """Return the schema of one part's spec."""
    schema = parameters_schema(part)
    properties = {"kind": {"const": part.name, "description": part.summary}, **schema.get("properties", {})}
    required = schema.get("required", [])
    # A part with a parameter of its own name may be written without its kind.
    required = required if required == [part.name] else ["kind", *required]
    return {
        "title": part.name,
        "description": part.summary,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def parameters_schema(part: Part) -> dict[str, Any]:
    """Return the JSON schema of a part's parameters; defaults as a scenario would write them, with units."""
    model = parameters_model(part)
    schema = model.model_json_schema(schema_generator=_Generator)
    defaults = {name: field.default for name, field in model.model_fields.items() if not field.is_required()}
    written = model.model_construct(**defaults).model_dump(mode="json", include=set(defaults))
    for name, default in written.items():
        schema["properties"][name]["default"] = default
    return schema


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with specs as defaults."""

    def encode_default(self, dft: Any) -> Any:
        return dft.document() if isinstance(dft, PartSpec) else super().encode_default(dft)


def _linked(value: Any) -> Any:
    """Return a schema in which the marks of specs are references, and generated titles are gone."""
    if isinstance(value, list):
        return [_linked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if FAMILY_KEY in value:
        rest = {key: item for key, item in value.items() if key not in {FAMILY_KEY, "title"}}
        return {"$ref": f"#/$defs/{_key(value[FAMILY_KEY])}", **rest}
    is_property_schema = "type" in value or "anyOf" in value or "const" in value
    return {
        key: _linked(item)
        for key, item in value.items()
        if not (key == "title" and is_property_schema and isinstance(item, str) and "properties" not in value)
    }
