"""Families of parts (codecs, strategies, models, ...), open to users.

A part is a factory, a plain function, under a name. Its YAML spec is read off the function: parameter names,
types, defaults and bounds from the signature, help from the docstring's `Args:` section; nothing is written
twice.

Example:
    >>> codecs = Family("codec", product=object)
    >>> @codecs.register("halve")
    ... def halve(times: int = 1) -> object:
    ...     '''Halve every value.
    ...
    ...     Args:
    ...         times: how often.
    ...     '''
    ...     return ("halve", times)
    >>> codecs["halve"].build(times=2)
    ('halve', 2)
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from psgdsim.errors import PsgdsimError, nearest, place, shown

Factory = TypeVar("Factory", bound=Callable[..., Any])

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a part: its name, annotation, default (or `REQUIRED`) and one line of help."""

    name: str
    annotation: Any
    default: Any
    help: str


@dataclass(frozen=True)
class Part:
    """A factory registered under a name in a family; it returns a product."""

    family: str
    name: str
    factory: Callable[..., Any]
    product: type = object

    @property
    def module(self) -> str:
        """The module that defines the factory."""
        return self.factory.__module__

    @property
    def summary(self) -> str:
        """The first line of the factory's docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n")[0]

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The factory's parameters, in order."""
        helps = _argument_help(inspect.getdoc(self.factory) or "")
        try:
            signature = inspect.signature(self.factory, eval_str=True)
        except NameError as error:
            raise PsgdsimError(
                f"{self.family} {self.name!r} ({self.module}): an annotation cannot be resolved: {error}; import "
                "what it names outside `if TYPE_CHECKING`"
            ) from None
        return tuple(
            Parameter(_key(parameter.name), parameter.annotation, parameter.default, helps.get(parameter.name, ""))
            for parameter in signature.parameters.values()
        )

    def build(self, **parameters: Any) -> Any:
        """Call the factory.

        Raises:
            ValueError: the factory found parameters that do not fit together.
            PsgdsimError: it failed otherwise, or returned something else than a product.
        """
        named = {f"{key}_" if keyword.iskeyword(key) else key: each for key, each in parameters.items()}
        try:
            built = self.factory(**named)
        except (ValueError, PsgdsimError):
            raise
        except Exception as error:
            raise PsgdsimError(
                f"{self._title} cannot be built: {type(error).__name__}: {error}{place(error)}"
            ) from error
        if not isinstance(built, self.product):
            got = "nothing" if built is None else shown(built)
            raise PsgdsimError(f"{self._title} returns {got}; expected a {self.product.__name__}")
        return built

    @property
    def _title(self) -> str:
        return f"{self.family} {self.name!r} ({self.module}.{self.factory.__qualname__})"


def _key(argument: str) -> str:
    """Return what a spec calls an argument: Python's keywords cannot be names, so `for` is the argument `for_`."""
    bare = argument.removesuffix("_")
    return bare if keyword.iskeyword(bare) else argument


def _argument_help(docstring: str) -> dict[str, str]:
    """Return the text of each entry of a Google-style `Args:` section."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+)(?: \([^)]*\))?: (.*(?:\n {8}.*)*)", section.group(1), re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


class Family:
    """All parts of one kind, by name.

    Args:
        name: the family's name in the singular, such as `"codec"`.
        product: the class that the factories return. A parameter annotated with it (the inner codec of
            `error_feedback`, say) is written in YAML as a nested spec of this family.
    """

    def __init__(self, name: str, product: type) -> None:
        self.name = name
        self.product = product
        self._parts: dict[str, Part] = {}

    def register(self, name: str) -> Callable[[Factory], Factory]:
        """Return a decorator that registers a factory under `name`.

        Raises:
            PsgdsimError: the name is taken by a factory of another module or function.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise PsgdsimError(f"{self.name} name {name!r}: expected snake_case, such as 'my_{self.name}'")

        def decorate(factory: Factory) -> Factory:
            taken = self._parts.get(name)
            source = (factory.__module__, factory.__qualname__)
            if taken is not None and (taken.module, taken.factory.__qualname__) != source:
                raise PsgdsimError(
                    f"{self.name} {name!r} is registered twice: by {taken.module}.{taken.factory.__qualname__} "
                    f"and by {'.'.join(source)}; rename one"
                )
            self._parts[name] = Part(self.name, name, factory, self.product)
            return factory

        return decorate

    def __getitem__(self, name: str) -> Part:
        """Return the part called `name`; an unknown name is a `PsgdsimError` that proposes the nearest."""
        try:
            return self._parts[name]
        except KeyError:
            raise PsgdsimError(f"no {self.name} is called {name!r}; {nearest(name, self._parts)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[Part]:
        return iter(sorted(self._parts.values(), key=lambda part: part.name))
