"""Scenarios from files, texts and mappings, and back to text."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic_core import ValidationError

from psgdsim.errors import PsgdsimError, ScenarioError, nearest
from psgdsim.scenario.document import Document
from psgdsim.scenario.families import import_installed_plugins, import_plugin
from psgdsim.scenario.overrides import apply_overrides
from psgdsim.scenario.problems import Problem, problems_of, scenario_error
from psgdsim.scenario.rules import broken_rules
from psgdsim.scenario.schema import Scenario
from psgdsim.scenario.yaml_text import MAX_NBYTES, decode, parse, write

MAX_NEIGHBOURS: Final = 20
"""So many files are named at most beside one that is missing: those whose names are most like it."""


def load(path: str | Path, overrides: Iterable[str] = ()) -> Scenario:
    """Read a scenario file.

    Args:
        path: a YAML file.
        overrides: changes such as `optimizer.learning_rate=0.1` (see `apply_overrides`).

    Returns:
        The scenario, all defaults filled in.

    Raises:
        ScenarioError: the file cannot be read, or is not a valid scenario; the message lists every problem
            with its file, line and column.
    """
    return loads(read_text(path), str(path), overrides)


def loads(text: str, name: str = "<string>", overrides: Iterable[str] = ()) -> Scenario:
    """Read a scenario from YAML text.

    Args:
        text: the YAML document.
        name: what messages call the text.
        overrides: as in `load`.

    Returns:
        The scenario, all defaults filled in.

    Raises:
        ScenarioError: as `load`.
    """
    return _resolve(parse(text, name), overrides)


def from_dict(mapping: Mapping[str, Any], overrides: Iterable[str] = ()) -> Scenario:
    """Validate a scenario that is given as plain data.

    Args:
        mapping: what a scenario file would hold; quantities as text with units.
        overrides: as in `load`.

    Returns:
        The scenario, all defaults filled in.

    Raises:
        ScenarioError: as `load`, but there is no file, line and column to name.

    Example:
        >>> from_dict({"name": "x", "world_size": 0})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        psgdsim.errors.ScenarioError: world_size: expected at least 1; got 0
        ...
    """
    if not isinstance(mapping, Mapping):
        raise ScenarioError(f"expected a scenario as a mapping; got {type(mapping).__name__}")
    return _resolve(Document(data=copy.deepcopy(dict(mapping))), overrides)


def dump(scenario: Scenario) -> str:
    """Write a scenario as YAML, all defaults resolved and every quantity with its unit.

    `loads(dump(scenario)) == scenario`.
    """
    return write(scenario.model_dump(mode="json"))


def read_text(path: str | Path) -> str:
    """Return the text of a scenario file.

    Raises:
        ScenarioError: the file cannot be read, is too large or is not UTF-8.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_NBYTES + 1)
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such file{_neighbours(file)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(f"{path}: cannot be read: {reason}") from None
    return decode(data, str(path))


def _neighbours(file: Path) -> str:
    """Return a hint at the scenario files that stand where a missing one was looked for."""
    try:
        names = sorted(each.name for each in file.parent.iterdir() if each.suffix in {".yaml", ".yml"})
    except OSError:
        return f" (nor a folder {str(file.parent)!r})"
    near = difflib.get_close_matches(file.name, names, MAX_NEIGHBOURS, cutoff=0.0)
    return f"; {nearest(file.name, near)}" if names else ""


def _resolve(document: Document, overrides: Iterable[str]) -> Scenario:
    """Return the scenario in a document, or raise all its problems at once."""
    import_installed_plugins()
    changes = list(overrides)
    # Which modules are plugins comes first: the other overrides are judged by the parts that these bring.
    of_plugins = [change for change in changes if change.partition("=")[0].strip().split(".")[0] == "plugins"]
    apply_overrides(document, of_plugins)
    problems = _import_plugins(document.data)
    apply_overrides(document, [change for change in changes if change not in of_plugins])
    try:
        scenario = Scenario.model_validate(document.data)
    except ValidationError as error:
        problems += problems_of(error.errors(include_url=False), document.data)
        # pydantic looks at the rules between fields only when every field is valid.
        problems += [Problem(path, message) for path, message in broken_rules(document.data)]
    if problems:
        raise scenario_error(problems, document)
    return scenario


def _import_plugins(data: Mapping[str, Any]) -> list[Problem]:
    """Import the plugins that a raw scenario names, before its specs are looked at."""
    named = data.get("plugins")
    problems = []
    for index, module in enumerate(named if isinstance(named, list | tuple) else ()):
        if isinstance(module, str) and all(part.isidentifier() for part in module.split(".")):
            try:
                import_plugin(module)
            except PsgdsimError as error:
                problems.append(Problem(("plugins", index), str(error)))
    return problems
