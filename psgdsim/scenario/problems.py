"""What is wrong with a scenario: where, what was expected, what was got, and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import ErrorDetails

from psgdsim.errors import ScenarioError, nearest, shown
from psgdsim.scenario.document import Document, Path
from psgdsim.scenario.shape import ABSENT, child, help_at, names_at

MAX_SHOWN: Final = 50

_EXPECTED: Final[dict[str, str]] = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "none_required": "null",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "mapping_type": "a mapping",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        path: keys and indices to it.
        message: what was expected, and what was got.
        is_key: whether the key itself is wrong, not its value.
    """

    path: Path
    message: str
    is_key: bool = False

    def render(self, document: Document) -> str:
        """Return `file:line:column: path: message` and the quoted line, or what of that is known."""
        source, mark = document.place(self.path, is_key=self.is_key)
        place = source if mark is None else f"{source}:{mark.line}:{mark.column}"
        path = path_text(self.path)
        labels = [place] if place else []
        if path and place != f"--set {path}":
            labels.append(path)
        line = ": ".join([*labels, self.message])
        return line if mark is None else f"{line}{document.quote(mark)}"


def path_text(path: Path) -> str:
    """Return a path as one writes it on the command line, `codec.codecs.0.ratio`."""
    return ".".join(str(part) if str(part).isprintable() else ascii(part)[1:-1] for part in path)


def scenario_error(problems: Iterable[Problem], document: Document) -> ScenarioError:
    """Return the error that reports all problems, in the order in which they stand in the document."""

    def position(problem: Problem) -> tuple[bool, int, int]:
        _, mark = document.place(problem.path, is_key=problem.is_key)
        return (mark is None, mark.line, mark.column) if mark is not None else (True, 0, 0)

    ordered = sorted(dict.fromkeys(problems), key=position)
    lines = [problem.render(document) for problem in ordered[:MAX_SHOWN]]
    if len(ordered) > MAX_SHOWN:
        lines.append(f"... and {len(ordered) - MAX_SHOWN} more problems")
    return ScenarioError("\n".join(lines))


def problems_of(details: Iterable[ErrorDetails], data: Any) -> list[Problem]:
    """Return pydantic's problems in our words.

    Args:
        details: what a `ValidationError` lists.
        data: the raw document that was validated.
    """
    alternatives: dict[Path, list[tuple[ErrorDetails, Any]]] = {}
    for detail in details:
        path, value = _locate(detail, data)
        alternatives.setdefault(path, []).append((detail, value))
    return [_problem(path, group, data) for path, group in alternatives.items()]


def _locate(detail: ErrorDetails, data: Any) -> tuple[Path, Any]:
    """Return a problem's path in the document, without pydantic's own labels, and the value there."""
    path: list[str | int] = []
    value = data
    is_missing = detail["type"] in {"missing", "required"}
    for part in detail["loc"]:
        below = child(value, part)
        if below is ABSENT and not ((is_missing or not path) and part == detail["loc"][-1]):
            continue
        value = below
        path.append(part)
    return tuple(path), value


def _problem(path: Path, group: list[tuple[ErrorDetails, Any]], data: Any) -> Problem:
    """Return the problem of one place; alternatives that a value might have been are joined by "or"."""
    detail, value = group[0]
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in {"extra_forbidden", "invalid_key"}:
        return Problem(path, f"unknown key; {nearest(path[-1], names_at(path[:-1], data))}", is_key=True)
    if kind == "missing":
        return Problem(path, f"required{help_at(path, data)}")
    if kind == "value_error":
        return Problem(path, str(context["error"]))
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", str(context["expected"]))
        got = f" {shown(value)};" if value is not ABSENT else ""
        return Problem(path, f"expected one of {', '.join(valid)}; got{got} {_hint(value, valid)}".rstrip("; "))
    if kind not in _EXPECTED and kind != "expected":
        return Problem(path, detail["msg"])
    expected = " or ".join(dict.fromkeys(_expectation(each) for each, _ in group))
    return Problem(path, f"expected {expected}{_got(value)}")


def _hint(value: Any, valid: list[str]) -> str:
    text = nearest(value, valid)
    return text.split(" (")[0] if text.startswith("did you") else ""


def _expectation(detail: ErrorDetails) -> str:
    template = _EXPECTED.get(detail["type"])
    if template is None:
        return detail["msg"].removeprefix("expected ")
    context = detail.get("ctx", {})
    return template.format(
        **{key: f"{bound:g}" if isinstance(bound, float) else bound for key, bound in context.items()}
    )


def _got(value: Any) -> str:
    return "" if value is ABSENT else f"; got {shown(value)}"
