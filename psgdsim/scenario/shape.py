"""What may stand where in a scenario: names of keys, families of specs, help. Works on raw documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, NotRequired, get_args, get_origin

from pydantic.fields import FieldInfo
from typing_extensions import get_type_hints, is_typeddict

from psgdsim.registry import Family
from psgdsim.scenario.document import Path
from psgdsim.scenario.schema import Scenario
from psgdsim.scenario.spec import PartSpec, SpecOf, parameters_model, shorthand_kind

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
    field = _field_at(path[:-1], data)
    if field is not None and _is_collection(field.annotation):
        return _family_in(_annotation(field))
    field = _field_at(path, data)
    return None if field is None or _is_collection(field.annotation) else _family_in(_annotation(field))


def _field_at(path: Path, data: Any) -> FieldInfo | None:
    return _model_at(path[:-1], data).get(str(path[-1])) if path else None


def _annotation(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _family_in(annotation: Any) -> Family | None:
    """Return the family of the specs that a field holds, or None if it holds none."""
    if isinstance(annotation, SpecOf):
        return annotation.family
    inside = [*get_args(annotation), *getattr(annotation, "__metadata__", ())]
    return next((family for family in map(_family_in, inside) if family is not None), None)


def _is_collection(annotation: Any) -> bool:
    """Return whether a field holds a list or a mapping of specs instead of one."""
    is_list = get_origin(annotation) in {list, tuple, dict} and _family_in(annotation) is not None
    return is_list or any(_is_collection(each) for each in get_args(annotation) if get_origin(each) is not None)


def kind_at(path: Path, data: Any) -> str | None:
    """Return the kind of the spec at a path (of the field's default if nothing stands there), or None."""
    value = value_at(path, data)
    if value is None and path:
        field = _model_at(path[:-1], data).get(str(path[-1]))
        value = field.default if field is not None else None
    if isinstance(value, PartSpec):
        return value.kind
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind is None and isinstance(value, Mapping):
        family = family_at(path, data)
        kind = None if family is None else shorthand_kind(family, value)
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
