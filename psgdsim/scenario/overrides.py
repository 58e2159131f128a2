"""`--set KEY=VALUE`: changes to a raw scenario before it is validated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from psgdsim.errors import ScenarioError, nearest, shown
from psgdsim.scenario.document import Document, Path
from psgdsim.scenario.problems import path_text
from psgdsim.scenario.shape import family_at, names_at
from psgdsim.scenario.yaml_text import parse

_EXCLUSIVE: Final = {"batch_size": "global_batch_size", "global_batch_size": "batch_size"}
_VALUE_KEY: Final = "value"


def apply_overrides(document: Document, assignments: Iterable[str]) -> None:
    """Change a document in place.

    The value is YAML (`8`, `10 ms`, `[64, 64]`, `{kind: top_k, ratio: 0.1}`). Mappings on the way that are
    absent are made. Setting the `kind` of a spec drops the parameters that only the old part has, unless they
    were set by an override too; setting one of `batch_size` and `global_batch_size` drops the other.

    Args:
        document: a parsed scenario.
        assignments: texts such as `optimizer.learning_rate=0.1`, later ones win.

    Raises:
        ScenarioError: one that cannot be read or leads nowhere. Whether the value fits is for validation to
            say.
    """
    errors = []
    for assignment in assignments:
        try:
            path, value = _split(assignment)
            _assign(document, path, value, f"--set {path_text(path)}")
        except ScenarioError as error:
            errors.append(str(error))
    if errors:
        raise ScenarioError("\n".join(errors))


def _split(assignment: str) -> tuple[Path, Any]:
    """Return the path and the value of `a.b=value`."""
    key, equals, text = assignment.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not equals or not all(parts):
        raise ScenarioError(f"--set {assignment!r}: expected KEY=VALUE, such as optimizer.learning_rate=0.1")
    if not text.strip():
        raise ScenarioError(f"--set {key}: the value is empty; expected a value such as 8, 10 ms or null")
    path = tuple(int(part) if part.isdecimal() else part for part in parts)
    return path, _value(text, key)


def _value(text: str, key: str) -> Any:
    """Return the value of a YAML scalar or flow collection."""
    # On a line of its own so that the value may be anything that fits below a key.
    indented = "\n".join(f"  {line}" for line in text.splitlines())
    try:
        return parse(f"{_VALUE_KEY}:\n{indented}\n", "value").data[_VALUE_KEY]
    except ScenarioError as error:
        reason = str(error).split("\n", maxsplit=1)[0].split(": ", maxsplit=1)[-1]
        raise ScenarioError(f"--set {key}: {reason}; got {text!r}") from None


def _assign(document: Document, path: Path, value: Any, label: str) -> None:
    """Put a value at a path and forget what it replaces."""
    parent = _parent(document, path, label)
    last = path[-1]
    if isinstance(parent, list):
        if not isinstance(last, int) or last >= len(parent):
            raise ScenarioError(f"{label}: expected an index below {len(parent)}; got {last!r}")
        parent[last] = value
    else:
        parent[str(last)] = value
        if last == "kind":
            _drop_foreign(document, path[:-1], parent)
        if len(path) == 1 and last in _EXCLUSIVE and (_EXCLUSIVE[str(last)],) not in document.overrides:
            parent.pop(_EXCLUSIVE[str(last)], None)
    for known in [known for known in document.overrides if known[: len(path)] == path]:
        del document.overrides[known]
    document.overrides[path] = label


def _parent(document: Document, path: Path, label: str) -> Any:
    """Return the mapping or list that holds a path's end; absent mappings are made."""
    value = document.data
    for length, part in enumerate(path[:-1], start=1):
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif isinstance(value, dict):
            names = names_at(path[: length - 1], document.data)
            if str(part) not in names and part not in value:
                where = path_text(path[: length - 1]) or "a scenario"
                raise ScenarioError(f"{label}: {where} has no key {part!r}; {nearest(part, names)}")
            if value.get(part) is None:
                if not names_at(path[:length], document.data):
                    raise ScenarioError(f"{label}: {path_text(path[:length])} has no keys below it")
                value[part] = {}
            value = value[part]
        else:
            raise ScenarioError(f"{label}: expected a mapping at {path_text(path[: length - 1])}; got {shown(value)}")
    if not isinstance(value, dict | list):
        raise ScenarioError(f"{label}: expected a mapping at {path_text(path[:-1])}; got {shown(value)}")
    return value


def _drop_foreign(document: Document, path: Path, spec: dict[str, Any]) -> None:
    """Drop parameters that a spec's new kind does not have; what an override set stays, for validation to see."""
    family = family_at(path, document.data)
    if family is None or not isinstance(spec["kind"], str) or spec["kind"] not in family:
        return
    names = names_at(path, document.data)
    for key in list(spec):
        was_set = any(known[: len(path) + 1] == (*path, key) for known in document.overrides)
        if key not in names and not was_set:
            del spec[key]
