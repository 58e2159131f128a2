"""What may stand where in a scenario: names of keys, families of specs, help. Works on raw documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NotRequired, get_args, get_origin

from pydantic.fields import FieldInfo
from typing_extensions import get_type_hints, is_typeddict

from psgdsim.registry import Family
from psgdsim.scenario.document import Path
from psgdsim.scenario.schema import Scenario
from psgdsim.scenario.spec import PartSpec, nested_family, parameters_model

ABSENT: Final = object()
"""What `child` returns where nothing stands; null is something."""


def family_at(path: Path, data: Any) -> Family | None:
    """Return the family of the spec that stands (or would stand) at a path, or None if no spec belongs there.

    Args:
        path: keys and indices from the top.
        data: the raw document; the kinds in it decide what may stand below them.
    """
    if not path:
        return None
    # In a list of specs the family belongs to the list's key.
    parent, key = (path[:-2], path[-2]) if isinstance(path[-1], int) and len(path) > 1 else (path[:-1], path[-1])
    field = _model_at(parent, data).get(str(key))
    return nested_family(field) if field is not None else None


def kind_at(path: Path, data: Any) -> str | None:
    """Return the kind of the spec at a path (of the field's default if nothing stands there), or None."""
    value = value_at(path, data)
    if value is None and path:
        field = _model_at(path[:-1], data).get(str(path[-1]))
        value = field.default if field is not None else None
    if isinstance(value, PartSpec):
        return value.kind
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return kind if isinstance(kind, str) else None


def value_at(path: Path, data: Any) -> Any:
    """Return what stands at a path, or None."""
    for part in path:
        data = child(data, part)
    return None if data is ABSENT else data


def child(value: Any, part: str | int) -> Any:
    """Return what stands under a key or index of a mapping or list, `ABSENT` if nothing does."""
    if isinstance(value, Mapping):
        return value.get(part, ABSENT)
    if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
        return value[part]
    return ABSENT


def names_at(path: Path, data: Any) -> list[str]:
    """Return the keys that may stand in the mapping at a path."""
    return list(_helps_at(path, data))


def help_at(path: Path, data: Any) -> str:
    """Return the help of the field at a path, as the end of a message."""
    text = _helps_at(path[:-1], data).get(str(path[-1]), "")
    return f": {text.rstrip('.')}" if text else ""


def _model_at(path: Path, data: Any) -> dict[str, FieldInfo]:
    """Return the fields of what may stand at a path, but for `kind`."""
    if not path:
        return Scenario.model_fields
    family = family_at(path, data)
    if family is not None:
        kind = kind_at(path, data)
        return parameters_model(family[kind]).model_fields if kind is not None and kind in family else {}
    # In a list of sections the section belongs to the list's key.
    *parent, key = path[:-1] if isinstance(path[-1], int) and len(path) > 1 else path
    field = _model_at(tuple(parent), data).get(str(key))
    return _section_fields(field.annotation) if field is not None else {}


def _section_fields(annotation: Any) -> dict[str, FieldInfo]:
    """Return the fields of the section that an annotation is, or is a list of."""
    for each in (annotation, *get_args(annotation)):
        if hasattr(each, "model_fields"):
            fields: dict[str, FieldInfo] = each.model_fields
            return fields
        if is_typeddict(each):
            hints = get_type_hints(each, include_extras=True)
            return {name: FieldInfo.from_annotation(_given(hint)) for name, hint in hints.items()}
    return {}


def _given(hint: Any) -> Any:
    """Return the type of a value that may be left out."""
    return get_args(hint)[0] if get_origin(hint) is NotRequired else hint


def _helps_at(path: Path, data: Any) -> dict[str, str]:
    """Return the keys that may stand in the mapping at a path, with their help."""
    family = family_at(path, data)
    kind = {"kind": f"which {family.name} it is"} if family is not None else {}
    return {**kind, **{name: field.description or "" for name, field in _model_at(path, data).items()}}
