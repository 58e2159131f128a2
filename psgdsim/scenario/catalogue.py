"""Every registered part with its parameters, as rows for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psgdsim.errors import ScenarioError, nearest
from psgdsim.registry import Part
from psgdsim.scenario.families import FAMILIES, import_installed_plugins
from psgdsim.scenario.json_schema import parameters_schema
from psgdsim.scenario.spec import FAMILY_KEY

_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_NAMES = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "string": "text",
    "array": "list",
    "object": "mapping",
}
_ITEMS = {"array": "items", "object": "additionalProperties"}


@dataclass(frozen=True)
class ParameterRow:
    """One parameter of a part.

    Attributes:
        name: its key.
        type: what may be written there, in words.
        is_required: whether it has no default.
        default: the default as one would write it; None for required ones too.
        help: one line.
    """

    name: str
    type: str
    is_required: bool
    default: Any
    help: str


@dataclass(frozen=True)
class PartRow:
    """One part of a family.

    Attributes:
        family: the family's name in `FAMILIES`.
        kind: the part's name.
        summary: one line.
        module: where it is defined.
        parameters: its parameters in order.
    """

    family: str
    kind: str
    summary: str
    module: str
    parameters: tuple[ParameterRow, ...]


def catalogue(families: Iterable[str] = ()) -> list[PartRow]:
    """Return the parts of some families, or of all.

    Args:
        families: names in `FAMILIES`; none for all.

    Raises:
        ScenarioError: there is no such family.
    """
    import_installed_plugins()
    rows = []
    for name in families or FAMILIES:
        if name not in FAMILIES:
            raise ScenarioError(f"nothing is called {name!r}; {nearest(name, FAMILIES)}")
        rows += [_part_row(name, part) for part in FAMILIES[name]]
    return rows


def _part_row(family: str, part: Part) -> PartRow:
    schema = parameters_schema(part)
    required = schema.get("required", [])
    rows = tuple(
        ParameterRow(name, type_text(field), name in required, field.get("default"), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    )
    return PartRow(family, part.name, part.summary, part.module, rows)


def type_text(schema: dict[str, Any]) -> str:
    """Return the JSON schema of a value in words.

    Example:
        >>> type_text({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]})
        'float > 0 or null'
    """
    if FAMILY_KEY in schema:
        return f"{schema[FAMILY_KEY]} spec"
    if "anyOf" in schema:
        return " or ".join(type_text(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(each) for each in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "anything")
    items = schema.get(_ITEMS.get(kind, ""))
    if isinstance(items, dict):
        return f"{_NAMES[kind]} of ({type_text(items)})"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([schema.get("format") or _NAMES.get(kind, kind), *bounds])
