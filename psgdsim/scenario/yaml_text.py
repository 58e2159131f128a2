"""YAML text to plain data, and back.

YAML 1.2's core schema: `1e-3` is a number, `no` is a string. Of YAML's freedoms only those that a scenario needs are
taken: one document, no tags, no duplicate keys, anchors within bounds. `ruamel.yaml` only splits the text into events,
so text that is too large, too deep or too wide is refused before anything is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from psgdsim.errors import ScenarioError
from psgdsim.scenario.document import Document, Mark, Path, quote

MAX_NBYTES: Final = 2**20
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 64
MAX_NUMBER_DIGITS: Final = 64

_NOT_YAML = re.compile("[^\\t\\n\\r\\x20-\\x7e\\x85\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def decode(data: bytes, source: str) -> str:
    """Return the text in UTF-8 bytes.

    Raises:
        ScenarioError: too long, or not UTF-8; the message says where.
    """
    if len(data) > MAX_NBYTES:
        raise ScenarioError(f"{source}: expected a scenario of at most {MAX_NBYTES} bytes; got a larger file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        got = "UTF-16; save it as UTF-8" if is_utf16 else f"the byte 0x{data[error.start]:02x}"
        raise ScenarioError(f"{source}:{line}:{column}: expected text in UTF-8; got {got}") from None


def parse(text: str, source: str) -> Document:
    """Read a YAML document.

    Args:
        text: the document.
        source: what messages call it.

    Returns:
        Its data and the place of every key and value.

    Raises:
        ScenarioError: not one well-formed document within the bounds of this module; the message says where.
    """
    if len(text) > MAX_NBYTES:
        raise ScenarioError(f"{source}: expected a scenario of at most {MAX_NBYTES} bytes; got a larger text")
    reader = _Reader(text, source)
    reader.refuse_control_characters()
    root = reader.read()
    document = Document(source, text)
    document.data = _Expansion(reader, document).expand(root, (), 0)
    return document


def write(data: Any) -> str:
    """Write plain data as YAML in ASCII that `parse` reads back exactly.

    Args:
        data: a mapping of dicts, lists, strings, numbers, booleans and None.
    """
    from io import StringIO

    from ruamel.yaml import YAML

    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.width = MAX_NBYTES
    # Unicode's line breaks would come back as spaces unless they are escaped.
    writer.allow_unicode = False
    stream = StringIO()
    writer.dump(data, stream)
    return stream.getvalue()


def scalar(text: str) -> Any:
    """Return the value of a plain scalar by YAML 1.2's core schema.

    Raises:
        ValueError: a number of more digits than anybody needs.

    Example:
        >>> [scalar(text) for text in ("1e-3", "no", "0x10", "null", "10 ms")]
        [0.001, 'no', 16, None, '10 ms']
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    is_integer = _INTEGER.fullmatch(text) is not None
    if not is_integer and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_DIGITS:
        raise ValueError(f"expected a number of at most {MAX_NUMBER_DIGITS} characters")
    if not is_integer:
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


@dataclass
class _Node:
    """A value as it stands in the text: a scalar, a list of nodes, or a list of pairs of nodes."""

    value: Any
    mark: Mark
    kind: str = "scalar"


class _Reader:
    """Compose nodes from the parser's events, one anchor standing for one node."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self._anchors: dict[str, _Node] = {}
        self._num_nodes = 0
        self._event: Any = None
        self._events: Iterator[Any] = iter(())

    def fail(self, mark: Mark, message: str) -> NoReturn:
        """Raise the error for one place."""
        place = f"{self.source}:{mark.line}:{mark.column}"
        raise ScenarioError(f"{place}: {message}{quote(self.text, mark)}")

    def refuse_control_characters(self) -> None:
        """Refuse what YAML does not allow in a text."""
        found = _NOT_YAML.search(self.text)
        if found is not None:
            before = self.text[: found.start()]
            mark = Mark(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
            self.fail(mark, f"expected printable text; got the control character U+{ord(found.group()):04X}")

    def read(self) -> _Node:
        """Return the root node of the only document."""
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        self._events = YAML(typ="safe", pure=True).parse(self.text)
        try:
            return self._document()
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            self.fail(place, f"not valid YAML: {' '.join(reason.split())}")
        except (YAMLError, RecursionError) as error:
            self.fail(Mark(1, 1), f"not valid YAML: {' '.join(str(error).split())[:200]}")

    def _advance(self) -> str:
        """Go to the next event and return its name."""
        self._event = next(self._events)
        return type(self._event).__name__

    def _mark(self) -> Mark:
        return Mark(self._event.start_mark.line + 1, self._event.start_mark.column + 1)

    def _document(self) -> _Node:
        self._advance()
        if self._advance() == "StreamEndEvent":
            self.fail(Mark(1, 1), "expected a scenario; the file is empty")
        if self._event.version not in (None, (1, 2)):
            self.fail(Mark(1, 1), "expected YAML 1.2; remove the %YAML line")
        self._advance()
        root = self._node(0)
        if root.kind != "mapping":
            what = "list" if root.kind == "sequence" else "single value"
            self.fail(root.mark, f"expected a mapping (`name: ...`, `model: ...`) at the top level; got a {what}")
        self._advance()
        if self._advance() != "StreamEndEvent":
            self.fail(self._mark(), "expected one document; a second begins here")
        return root

    def _node(self, depth: int) -> _Node:
        """Return the node that begins with the current event."""
        event, mark, name = self._event, self._mark(), type(self._event).__name__
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            self.fail(mark, f"expected at most {MAX_NODES} values; got more")
        if depth > MAX_DEPTH:
            self.fail(mark, f"expected at most {MAX_DEPTH} levels of nesting; got more")
        if name == "AliasEvent":
            if event.anchor not in self._anchors:
                self.fail(mark, f"no anchor &{event.anchor} stands before this alias")
            return _Node(self._anchors[event.anchor], mark, "alias")
        if event.tag is not None:
            self.fail(mark, f"tags are not allowed; got the tag {event.tag[:60]!r}")
        node = {"ScalarEvent": self._scalar, "SequenceStartEvent": self._sequence}.get(name, self._mapping)(mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, mark: Mark, _depth: int) -> _Node:
        if not self._event.implicit[0]:
            return _Node(self._event.value, mark)
        try:
            return _Node(scalar(self._event.value), mark)
        except ValueError as error:
            self.fail(mark, str(error))

    def _sequence(self, mark: Mark, depth: int) -> _Node:
        items = []
        while self._advance() != "SequenceEndEvent":
            items.append(self._node(depth + 1))
        return _Node(items, mark, "sequence")

    def _mapping(self, mark: Mark, depth: int) -> _Node:
        pairs: dict[Any, tuple[_Node, _Node]] = {}
        while self._advance() != "MappingEndEvent":
            key = self._node(depth + 1)
            if key.kind != "scalar":
                self.fail(key.mark, "expected a plain word as a key; got a list, mapping or alias")
            if key.value in pairs:
                first = pairs[key.value][0].mark.line
                self.fail(key.mark, f"expected each key once; got {key.value!r} again (first in line {first})")
            self._advance()
            value = self._node(depth + 1)
            if value.mark == self._mark() and value.value is None and value.mark.line > key.mark.line:
                value.mark = key.mark
            pairs[key.value] = (key, value)
        return _Node(list(pairs.values()), mark, "mapping")


class _Expansion:
    """Turn nodes into plain data, counting what aliases multiply."""

    def __init__(self, reader: _Reader, document: Document) -> None:
        self._reader = reader
        self._document = document
        self._num_nodes = 0

    def expand(self, node: _Node, path: Path, depth: int) -> Any:
        """Return a node's data and note where it and its keys stand."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            self._reader.fail(node.mark, f"expected at most {MAX_NODES} values; anchors and aliases expand to more")
        if depth > MAX_DEPTH:
            self._reader.fail(node.mark, f"expected at most {MAX_DEPTH} levels of nesting; got more")
        self._document.values.setdefault(path, node.mark)
        if node.kind == "alias":
            return self.expand(node.value, path, depth)
        if node.kind == "sequence":
            return [self.expand(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        if node.kind == "mapping":
            data = {}
            for key, value in node.value:
                self._document.keys[*path, key.value] = key.mark
                data[key.value] = self.expand(value, (*path, key.value), depth + 1)
            return data
        return node.value
