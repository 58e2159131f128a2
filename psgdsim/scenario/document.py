"""A scenario's plain data, with the line and column of every key and value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

_SHOWN_WIDTH: Final = 100

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a document."""


@dataclass(frozen=True)
class Mark:
    """A place in a text; both numbers count from 1."""

    line: int
    column: int


@dataclass
class Document:
    """A document's plain data and where each part of it stands.

    Args:
        source: what messages call the text: a file's path, `<string>`, ...
        text: the text itself, quoted in messages.
        data: dicts, lists, strings, numbers, booleans and None.
        values: where each value begins.
        keys: where each mapping's key begins.
        overrides: what the command line changed: the path and the name that messages give to the change.
    """

    source: str = ""
    text: str = ""
    data: Any = None
    values: dict[Path, Mark] = field(default_factory=dict)
    keys: dict[Path, Mark] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)

    def place(self, path: Path, *, is_key: bool) -> tuple[str, Mark | None]:
        """Return the source of a value (or of its key), and its mark there if that is known."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]], None
        for length in range(len(path), -1, -1):
            # What is missing, or stands for something missing, is shown at the key of what should contain it.
            marks = self.values if length == len(path) and not is_key else self.keys
            mark = marks.get(path[:length]) or self.values.get(path[:length])
            if mark is not None:
                return self.source, mark
        return self.source, None

    def quote(self, mark: Mark) -> str:
        """Return the line of a mark with a caret under its column, on lines of their own; nothing of an empty line."""
        return quote(self.text, mark)


def quote(text: str, mark: Mark) -> str:
    """Return a newline, one line of a text (cut to a readable width), and a caret under a column; '' if it is empty."""
    lines = text.splitlines()
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    start = max(0, mark.column - 1 - _SHOWN_WIDTH // 2) if len(line) > _SHOWN_WIDTH else 0
    shown = line[start : start + _SHOWN_WIDTH].rstrip()
    return f"\n    {shown}\n    {' ' * (mark.column - 1 - start)}^" if shown else ""
